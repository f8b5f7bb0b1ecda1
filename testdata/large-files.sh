#!/usr/bin/env bash
# Makes $EROLITH_CACHE/large-files/layer.tar, a generated tar of mostly large files (1.1 GB), and layer.tar.gz and layer.tar.zst beside it: about
# 60 s. Prints the directory. The tar is the same on every machine.
set -euo pipefail
# shellcheck source=setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

make_tars() {
    python3 "$EROLITH_REPO/testdata/generate-tar.py" large >"$1/layer.tar"
    gzip -n -k "$1/layer.tar"
    zstd -q -k "$1/layer.tar"
}

need_packages gzip python3 zstd
cached large-files 1 make_tars
echo "$EROLITH_CACHE/large-files"
