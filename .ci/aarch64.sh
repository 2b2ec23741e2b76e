#!/usr/bin/env bash
# Runs the tests of sterna-cpu for AArch64 under emulation: with every instruction set that has kernels, and without.
#
# Rust's toolchain here may have no standard library for AArch64. Debian packages the sources of one, with the compiler
# that fits them; the library is built from those. Where the packages, or the right to install them, are not to be had,
# this says so and succeeds: it tests nothing then. The float kernels are portable code on AArch64 and take minutes under
# emulation, so of those only the quick tests are run, once.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=never

skip() {
    printf '\n!!!! AArch64 SKIPPED: %s.\n!!!! The NEON kernels were NOT tested.\n' "$*"
    exit 0
}

work=$PWD/target/aarch64
root=$work/root
mkdir -p "$work/debs"

missing=()
command -v qemu-aarch64 >/dev/null || missing+=(qemu-user)
command -v aarch64-linux-gnu-gcc >/dev/null || missing+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || skip "no ${missing[*]}, and no apt-get"
    apt-get update -qq >/dev/null && apt-get install -yqq --no-install-recommends "${missing[@]}" >/dev/null ||
        skip "cannot install ${missing[*]}"
fi

# rustc-web conflicts with an installed rustc, so its files are only unpacked.
if [ ! -x "$root/usr/bin/rustc" ]; then
    command -v apt-get >/dev/null || skip "no apt-get"
    needs() { apt-cache depends "$1" 2>/dev/null | sed -n "s/.*Depends: \($2\)$/\1/p" | head -1; }
    std=$(needs libstd-rust-web-dev 'libstd-rust-web-[0-9.]*')
    llvm=$(needs "${std:-none}" 'libllvm[0-9]*')
    [ -n "$llvm" ] || skip "no package rustc-web"
    (cd "$work/debs" && apt-get download -qq rustc-web "$std" libstd-rust-web-dev rust-web-src "$llvm") ||
        skip "cannot download the packages of rustc-web"
    for deb in "$work"/debs/*.deb; do dpkg -x "$deb" "$root"; done
fi

cat >"$work/rustc" <<END
#!/bin/sh
LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu:$(echo "$root"/usr/lib/llvm-*/lib | tr ' ' ':') exec $root/usr/bin/rustc "\$@"
END
chmod +x "$work/rustc"
"$work/rustc" --version || skip "the compiler of rustc-web does not run"

# The tests unwind; the library is built for this target alone.
RUSTC=$work/rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    cargo test --package sterna-cpu --lib --no-run --target aarch64-unknown-linux-gnu --target-dir "$work/target" \
    -Zbuild-std=std,panic_unwind,test --message-format=json-render-diagnostics >"$work/build.json"
tests=$(sed -n 's/.*"executable":"\([^"]*sterna_cpu[^"]*\)".*/\1/p' "$work/build.json" | tail -1)
[ -n "$tests" ] || { echo "no test binary was built"; exit 1; }

# max has everything, Neoverse N1 lacks the matrix product, Cortex-A72 the dot product too.
for cpu in max neoverse-n1 cortex-a72; do
    printf '\n== AArch64, %s\n' "$cpu"
    floats=()
    [ "$cpu" != max ] || floats=(activation:: math:: norm:: rope::)
    QEMU_LD_PREFIX=/usr/aarch64-linux-gnu qemu-aarch64 -cpu "$cpu" "$tests" --quiet \
        kernel:: layout:: linear:: machine:: quant:: "${floats[@]}"
done
