#!/usr/bin/env bash
# Builds $EROLITH_CACHE/ctd-decoder/ctd-decoder with the Go of the sid root: the program that decrypts layers for
# containerd, of Debian's package of containerd's imgcrypt. About 1 min after testdata/sid-root.sh.
set -euo pipefail
# shellcheck source=setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

build() {
    local root=$EROLITH_CACHE/sid
    retry root_install "$root" golang-go golang-github-containerd-imgcrypt-dev
    rm -f "$root"/var/cache/apt/archives/*.deb
    in_root "$root" env CGO_ENABLED=0 GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=/var/cache/go-build \
        go build -trimpath -o /var/tmp/ctd-decoder github.com/containerd/imgcrypt/cmd/ctd-decoder
    mv "$root/var/tmp/ctd-decoder" "$1/"
}

need_root
"$(dirname -- "${BASH_SOURCE[0]}")/sid-root.sh"
cached ctd-decoder 1 build
