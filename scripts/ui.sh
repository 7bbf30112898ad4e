#!/usr/bin/env bash
# Builds the browser pages (src/web/ui) with Node.js, where they are not built from what is there now. `ui.sh test` checks
# their types and runs their tests, besides.
#
# Without Node.js it says what is missing and changes nothing: the binary then serves a page that says so.
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
for need in node npm; do
    if ! command -v "$need" >/dev/null; then
        say "the browser pages are not built: missing Debian packages: apt-get install nodejs npm"
        exit 0
    fi
done
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
