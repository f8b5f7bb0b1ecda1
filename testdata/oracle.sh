#!/usr/bin/env bash
# Builds tests/oracle, containerd's own tar apply, as $EROLITH_CACHE/bin/containerd-apply with the Go of the sid root: about
# 40 s after testdata/sid-root.sh, and at once when the source has not changed.
set -euo pipefail
# shellcheck source=setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

SOURCE=$EROLITH_REPO/tests/oracle

build() {
    local root=$EROLITH_CACHE/sid
    local work=$root/var/tmp/oracle
    rm -rf "$work"
    mkdir -p "$work"
    cp "$SOURCE"/*.go "$work"
    in_root "$root" env CGO_ENABLED=0 GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=/var/tmp/oracle/cache \
        sh -c 'cd /var/tmp/oracle && go vet . && go build -trimpath -o containerd-apply .'
    mv "$work/containerd-apply" "$1/"
    rm -rf "$work"
}

need_root
"$(dirname -- "${BASH_SOURCE[0]}")/sid-root.sh"
cached oracle "$(cat "$SOURCE"/*.go | sha256sum)" build
ln -sfn ../oracle/containerd-apply "$EROLITH_CACHE/bin/containerd-apply"
