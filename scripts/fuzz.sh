#!/usr/bin/env bash
# Fuzzes the parsers with libFuzzer: builds the targets of fuzz/, runs what is in their corpora, then looks for more.
#
#   FUZZ_SECONDS=60   for each target; 0 runs the corpora only
#   FUZZ_TARGETS=     those of these names; by default all whose crashes are answerd's own (see fuzz/README.md)
#   FUZZ_JOBS=2       targets at once
#   FUZZ_SEED=0       of the random choices; 0 is another one each time
#
# `fuzz.sh --input TARGET FILE` runs one input, `fuzz.sh --merge TARGET FOLDER` adds to the corpus what a long run found in
# a folder and what reaches new code.
#
# Ends with an error where an input breaks a target; the input is then in fuzz/artifacts/<target>, and printed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/env.sh

seconds=${FUZZ_SECONDS:-60}
host=$(rustc -vV | sed -n 's/^host: //p')
# Below the service's own, as everything here is built with other flags.
target_dir="$CARGO_TARGET_DIR/fuzz"
programs="$target_dir/$host/release"
# Their libraries hang and crash: contained in the service, and nothing to fix here.
contained=(office pdf)

# As `cargo fuzz build --sanitizer none` has them: coverage for libFuzzer. All of it is stable.
build() {
    local flags=(-Cpasses=sancov-module --cfg fuzzing)
    for flag in level=4 inline-8bit-counters pc-table trace-compares; do
        flags+=("-Cllvm-args=-sanitizer-coverage-$flag")
    done
    # With a target named, the flags are not for build scripts and macros.
    RUSTFLAGS="${flags[*]}" cargo build --quiet --locked --release --manifest-path fuzz/Cargo.toml \
        --target-dir "$target_dir" --target "$host" --bins
}

# One target: what is in its corpus, then for as long as asked.
one() { # target
    local target=$1 log work options
    work=$(mktemp -d)
    trap 'rm -rf "$work"' RETURN
    log="$work/log"
    mkdir -p "$work/found" "fuzz/artifacts/$target"
    # A second is long for any of them, also on a machine that does other things; 25 are a hang.
    options=("-seed=${FUZZ_SEED:-0}" -timeout=25 -rss_limit_mb=2048 -max_len=16384 "-artifact_prefix=fuzz/artifacts/$target/")
    if [ -f "fuzz/dictionaries/$target.dict" ]; then options+=("-dict=fuzz/dictionaries/$target.dict"); fi
    if ! "$programs/$target" "${options[@]}" -runs=0 "fuzz/corpus/$target" >"$log" 2>&1; then
        broken "$target" "$log"
        return 1
    fi
    if [ "$seconds" -gt 0 ] &&
        ! "$programs/$target" "${options[@]}" "-max_total_time=$seconds" "$work/found" "fuzz/corpus/$target" >"$log" 2>&1
    then
        broken "$target" "$log"
        return 1
    fi
    printf 'fuzz: %-10s %s\n' "$target" "$(grep -E '^#[0-9]+\s+DONE' "$log" | tail -n 1 | tr '\t' ' ')"
}

broken() { # target, log
    local input
    {
        printf 'fuzz: %s is broken:\n' "$1"
        grep -vE '^#[0-9]+\s+(NEW|REDUCE|RELOAD|pulse)' "$2" | tail -n 40
        for input in "fuzz/artifacts/$1"/*; do
            if [ -f "$input" ]; then printf 'fuzz: %s, in Base64: %s\n' "$input" "$(base64 -w 0 "$input" | head -c 4096)"; fi
        done
    } >&2
}

if [ "${1:-}" = --one ]; then
    one "$2"
    exit
fi

build
case ${1:-} in
    --input) exec "$programs/$2" -timeout=25 -rss_limit_mb=2048 "$3" ;;
    --merge) exec "$programs/$2" -timeout=25 -rss_limit_mb=2048 -max_len=16384 -merge=1 "fuzz/corpus/$2" "$3" ;;
esac
targets=()
for source in fuzz/fuzz_targets/*.rs; do
    target=$(basename "$source" .rs)
    case " ${FUZZ_TARGETS:-} " in
        *" $target "*) targets+=("$target") ;;
        "  ") targets+=("$target") ;;
    esac
done
# Where they are not asked for by name, of the contained ones only the corpus.
if [ -z "${FUZZ_TARGETS:-}" ]; then
    for target in "${contained[@]}"; do FUZZ_SECONDS=0 "$0" --one "$target"; done
    mapfile -t targets < <(printf '%s\n' "${targets[@]}" | grep -vxF "$(printf '%s\n' "${contained[@]}")")
fi
if [ ${#targets[@]} -eq 0 ]; then
    printf 'fuzz: no target is named %s; there are those of fuzz/fuzz_targets\n' "$FUZZ_TARGETS" >&2
    exit 1
fi
printf '%s\n' "${targets[@]}" | xargs -P "${FUZZ_JOBS:-2}" -I '{}' "$0" --one '{}'
