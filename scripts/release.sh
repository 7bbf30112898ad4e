#!/usr/bin/env bash
# Builds answerd as it is given to others, and packs it: answerd-<version>-<machine>-linux.tar.gz, in $ANSWERD_CACHE/release or
# in the folder that is named. A build of this machine's own (`make run`) is quicker here and may not run elsewhere.
#
#   x86_64   x86-64-v3: AVX2, FMA, BMI2, F16C; Intel since Haswell (2013), AMD since Excavator (2015)
#   aarch64  ARMv8-A with NEON
#
# What goes beyond that is used only where a library looks at the processor first; this is checked.
# ANSWERD_FEATURES names features of cargo's, such as `cuda`. The environment of a build is that of env.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'release: %s\n' "$*"; }
fail() {
    say "$@" >&2
    exit 1
}

machine=$(uname -m)
registry=${CARGO_HOME:-$HOME/.cargo}
# No path of the machine that it was built on stands in a binary for others.
flags="--remap-path-prefix=$registry=cargo --remap-path-prefix=$PWD=answerd"
c_flags="-ffile-prefix-map=$registry=cargo"
case $machine in
    x86_64)
        # llama.cpp's build takes the processor from rustc's flags, but leaves its own for those that are set here.
        flags="-C target-cpu=x86-64-v3 $flags"
        c_flags="-march=x86-64-v3 $c_flags"
        ;;
    # Without a target-cpu llama.cpp's build takes ARMv8-A, which is what rustc takes too.
    aarch64) ;;
    *) fail "there is no release for $machine: add to scripts/release.sh what its processors have in common" ;;
esac
export RUSTFLAGS=$flags CMAKE_C_FLAGS=$c_flags CMAKE_CXX_FLAGS=$c_flags
export CARGO_INCREMENTAL=0
cache=${ANSWERD_CACHE:-$HOME/.cache/answerd}
export CARGO_TARGET_DIR="${ANSWERD_RELEASE_TARGET:-$cache/target/release-$machine${ANSWERD_FEATURES:+-$ANSWERD_FEATURES}}"
out=${1:-$cache/release}

scripts/setup.sh
scripts/ui.sh
[ -s src/web/ui/dist/index.html ] || fail "the browser pages are not built, and a release has them: install Node.js"
# shellcheck source=scripts/env.sh
. scripts/env.sh
cargo build --release --locked --bin answerd ${ANSWERD_FEATURES:+--features "$ANSWERD_FEATURES"}
binary=$CARGO_TARGET_DIR/release/answerd
if [ "$machine" = x86_64 ]; then python3 scripts/instructions.py "$binary"; fi

version=$("$binary" --version | cut -d' ' -f2)
name=answerd-$version-$machine-linux${ANSWERD_FEATURES:+-$ANSWERD_FEATURES}
mkdir -p "$out"
packing=$(mktemp -d "$out/.packing-XXXXXX")
trap 'rm -rf "$packing"' EXIT
mkdir -p "$packing/$name/data" "$packing/$name/systemd"
strip --strip-all -o "$packing/$name/answerd" "$binary"
python3 scripts/licences.py ${ANSWERD_FEATURES:+--features "$ANSWERD_FEATURES"} >"$packing/$name/THIRD-PARTY.txt"
cp LICENSE config.toml "$packing/$name/"
# The unit has settings of its own: those of the root are for a look at data/sample.
cp deploy/systemd/answerd.service deploy/systemd/config.toml "$packing/$name/systemd/"
cp -r data/sample "$packing/$name/data/"
# The same files make the same archive, whoever packs them and when.
tar --create --gzip --file "$packing/$name.tar.gz" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@"${SOURCE_DATE_EPOCH:-0}" \
    --mode='u+rw,go+r,go-w,a+X' -C "$packing" "$name"
rm -rf "${out:?}/$name"
mv "$packing/$name" "$packing/$name.tar.gz" "$out/"
(cd "$out" && sha256sum "$name.tar.gz" | tee "$name.tar.gz.sha256")
say "$out/$name.tar.gz: $(stat -c %s "$out/$name.tar.gz") bytes, the program $(stat -c %s "$out/$name/answerd")"
