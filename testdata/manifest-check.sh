#!/usr/bin/env bash
# Builds tests/manifest with the Go of the sid root, into $EROLITH_CACHE/bin/manifest-check: it decodes Kubernetes' manifests into
# Kubernetes' own types. About 1 min after testdata/sid-root.sh, and at once when the source has not changed.
set -euo pipefail
# shellcheck source=setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

SOURCE=$EROLITH_REPO/tests/manifest/main.go

build() {
    local work=$EROLITH_CACHE/sid/var/tmp/manifest-check
    rm -rf "$work"
    mkdir -p "$work"
    cp "$SOURCE" "$work/main.go"
    in_root "$EROLITH_CACHE/sid" env CGO_ENABLED=0 GO111MODULE=off GOPATH=/var/tmp/manifest-check:/usr/share/gocode \
        GOCACHE=/var/cache/go-build go build -trimpath -o /var/tmp/manifest-check/manifest-check /var/tmp/manifest-check/main.go
    mv "$work/manifest-check" "$1/"
    rm -rf "$work"
}

need_root
"$(dirname -- "${BASH_SOURCE[0]}")/sid-root.sh"
cached manifest-check "$(sha256sum <"$SOURCE")" build
ln -sfn ../manifest-check/manifest-check "$EROLITH_CACHE/bin/manifest-check"
