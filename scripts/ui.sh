#!/usr/bin/env bash
# Builds the browser pages (src/web/ui) with Node.js, where they are not built from what is there now. `ui.sh test` checks
# their types and runs their tests, besides.
#
# Without Node.js, or with one that is too old, it says what is missing and changes nothing: the binary then serves a page that
# says so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../src/web/ui"

say() { printf 'ui: %s\n' "$*"; }

hash_of() { # files' names on standard input
    LC_ALL=C sort | xargs -r -d '\n' sha256sum | sha256sum | cut -d' ' -f1
}
sources=$(find . -path ./node_modules -prune -o -path ./dist -prune -o -type f -print | hash_of)
built() { [ "$(cat dist/.made-of 2>/dev/null)" = "$sources" ]; }
if built && [ "${1:-}" != test ]; then
    exit 0
fi
# The versions of Node.js that Vite runs on, by its own word, such as "^20.19.0 || >=22.12.0".
needed=$(sed -n '/"node_modules\/vite": {/,/^    }/s/.*"node": "\(.*\)".*/\1/p' package-lock.json)
fits() {
    node -e '
        const here = process.versions.node.split(".").map(Number);
        const fits = (range) => {
            const least = range.match(/\d+/g).map(Number);
            const first = least.findIndex((part, n) => part !== here[n]);
            return (first < 0 || here[first] > least[first]) && (!range.includes("^") || here[0] === least[0]);
        };
        process.exit(process.argv[1].split("||").some(fits) ? 0 : 1);
    ' "$needed"
}
for need in node npm; do
    if ! command -v "$need" >/dev/null; then
        say "the browser pages are not built: $need is missing. They need Node.js $needed with npm: Debian 13 has both, as packages nodejs and npm"
        exit 0
    fi
done
if ! fits; then
    say "the browser pages are not built: Node.js is $(node -p process.versions.node), and $needed is needed. Debian 13 has it, older ones not"
    exit 0
fi
packages=$(sha256sum package-lock.json)
if [ "$(cat node_modules/.made-of 2>/dev/null)" != "$packages" ]; then
    say "getting what the browser pages are built with into src/web/ui/node_modules"
    npm ci --no-audit --no-fund || { say "npm's own words are above. Is there a network, and does npm reach its registry?" >&2; exit 1; }
    printf '%s\n' "$packages" >node_modules/.made-of
fi
if ! built; then
    npm run --silent build
    printf '%s\n' "$sources" >dist/.made-of
    say "built the browser pages"
fi
if [ "${1:-}" = test ]; then
    npm run --silent check
    npm run --silent test
fi
