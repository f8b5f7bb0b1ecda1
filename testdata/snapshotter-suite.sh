#!/usr/bin/env bash
# Builds tests/snapshotter-suite with the Go of the sid root: containerd's own SnapshotterSuite as a program, and its built-in
# EROFS snapshotter as a server. They come as $EROLITH_CACHE/bin/snapshotter-suite and $EROLITH_CACHE/bin/erofs-reference: about 60 s
# after testdata/sid-root.sh, and at once when the source has not changed.
#
#   testdata/snapshotter-suite.sh
#   testdata/snapshotter-suite.sh check   runs the suite against that server (about 20 s): is the suite itself sound?
set -euo pipefail
# shellcheck source=setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

SOURCE=$EROLITH_REPO/tests/snapshotter-suite

build() {
    local root=$EROLITH_CACHE/sid
    local work=$root/var/tmp/snapshotter-suite
    rm -rf "$work"
    # Packages of the caller live below GOPATH.
    mkdir -p "$work/src"
    cp -r "$SOURCE" "$work/src/"
    # shellcheck disable=SC2016 # expanded by that shell
    in_root "$root" env CGO_ENABLED=0 GO111MODULE=off GOPATH=/var/tmp/snapshotter-suite:/usr/share/gocode \
        GOCACHE=/var/cache/go-build sh -euc '
            cd /var/tmp/snapshotter-suite/src/snapshotter-suite
            go vet ./...
            go test -c -trimpath -o /var/tmp/snapshotter-suite/snapshotter-suite ./suite
            go build -trimpath -o /var/tmp/snapshotter-suite/erofs-reference ./reference'
    mv "$work/snapshotter-suite" "$work/erofs-reference" "$1/"
    rm -rf "$work"
}

check() {
    # Mounts and processes end with it, whatever happens.
    # shellcheck disable=SC2016 # expanded by the suite
    SUITE_SERVER='exec erofs-reference --root "$ROOT" --address "$SOCKET"' PATH=$EROLITH_CACHE/bin:$PATH \
        unshare --mount --pid --fork --kill-child --mount-proc --propagation private snapshotter-suite
}

need_root
"$(dirname -- "${BASH_SOURCE[0]}")/sid-root.sh"
cached snapshotter-suite "$(cat "$SOURCE"/*/*.go | sha256sum)" build
for program in snapshotter-suite erofs-reference; do
    ln -sfn "../snapshotter-suite/$program" "$EROLITH_CACHE/bin/$program"
done
case ${1:-} in
'') ;;
check) check ;;
*) die "usage: $0 [check]" ;;
esac
