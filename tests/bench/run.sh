#!/usr/bin/env bash
# Measures erolith beside mkfs.erofs and containerd and writes tests/bench/results.md; installs and makes what it needs.
# About 40 min, and 10 more on a machine that has nothing. Wants 20 GB of memory and a machine that does nothing else.
#
#   tests/bench/run.sh [--runs N] [--only GROUP,...] [--inputs NAME] [--peers-only] [--output FILE]
#
# Groups: tar, disk, compressed, image, check, mount, node, protect, native, sandbox, tiny, parallel, memory, latency, commit.
set -euo pipefail
# shellcheck source=../../testdata/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../testdata/setup.sh"

need_root
need_build_tools
need_packages e2fsprogs isal python3 zstd
for script in "sid-root.sh" "snapshotter-suite.sh" "real-image.sh" "real-image.sh full" "many-files.sh" "large-files.sh"; do
    # shellcheck disable=SC2086 # the argument is a word of its own
    "$EROLITH_REPO"/testdata/$script >&2
done
say "building erolith"
cargo build --release --locked --features isal --manifest-path "$EROLITH_REPO/Cargo.toml"
export PATH=${CARGO_TARGET_DIR:-$EROLITH_REPO/target}/release:$PATH

work=$(mktemp -d "$EROLITH_CACHE/bench.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
mkdir "$work/ram" "$work/disk"
export BENCH_RAM=$work/ram BENCH_DISK=$work/disk
# All mounts are made in a namespace that ends with the measurements.
# shellcheck disable=SC2016 # expanded by the inner shell
unshare --mount --propagation private sh -euc '
    mount -t tmpfs -o size=60% tmpfs "$BENCH_RAM"
    python3 -B "$@"
' sh "$EROLITH_REPO/tests/bench/bench.py" --output "$EROLITH_REPO/tests/bench/results.md" "$@"
