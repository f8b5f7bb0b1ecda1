#!/usr/bin/env bash
# Builds tests/snapshotter-suite with the Go of the sid root, into $EROLITH_CACHE/bin: containerd's own SnapshotterSuite as a
# program (snapshotter-suite), the change sets of its fstest (changes-suite), its built-in EROFS snapshotter as a server
# (erofs-reference), a client that measures (snapshotter-latency), and one that unpacks as containerd 2.2 and later do
# (layer-unpacker). About 2 min after testdata/sid-root.sh, and at once when the source has not changed.
#
#   testdata/snapshotter-suite.sh
#   testdata/snapshotter-suite.sh check   runs the suite against that server (about 20 s): is the suite itself sound?
set -euo pipefail
# shellcheck source=setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

SOURCE=$EROLITH_REPO/tests/snapshotter-suite
PROGRAMS=(snapshotter-suite changes-suite erofs-reference snapshotter-latency layer-unpacker)

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
            go test -c -trimpath -o /var/tmp/snapshotter-suite/changes-suite ./changes
            go build -trimpath -o /var/tmp/snapshotter-suite/erofs-reference ./reference
            go build -trimpath -o /var/tmp/snapshotter-suite/snapshotter-latency ./latency
            go build -trimpath -o /var/tmp/snapshotter-suite/layer-unpacker ./unpack'
    mv "${PROGRAMS[@]/#/$work/}" "$1/"
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
for program in "${PROGRAMS[@]}"; do
    ln -sfn "../snapshotter-suite/$program" "$EROLITH_CACHE/bin/$program"
done
case ${1:-} in
'') ;;
check) check ;;
*) die "usage: $0 [check]" ;;
esac
