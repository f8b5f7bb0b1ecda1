#!/usr/bin/env bash
# Makes what is handed out, in target/package: a Debian package, and an archive with a static program for any Linux. About
# 10 min on two cores where nothing is compiled yet.
#
#   dist/package.sh          erolith_VERSION_ARCH.deb, erolith-VERSION-MACHINE-linux.tar.gz, and erolith.debug beside them
#   dist/package.sh check    makes them, installs the package on a bare machine, and runs it there and in an empty root
#
# Both hold the same program: linked with glibc's archive, it needs no library and no loader. It is stripped; for gdb and
# perf, erolith.debug has what was taken away.
set -euo pipefail
# shellcheck source=../testdata/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../testdata/setup.sh"

PACKAGE=$EROLITH_REPO/target/package

# The program with everything linked in. Naming the target keeps the flag from the programs that cargo itself runs.
build() {
    RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
        cargo build --release --locked --features isal --target "$TARGET"
    cp "$BUILT/erolith" "$PACKAGE/erolith"
    objcopy --only-keep-debug --compress-debug-sections "$PACKAGE/erolith" "$PACKAGE/erolith.debug"
    # Named by its last part, gdb looks for it beside the program.
    (cd "$PACKAGE" && objcopy --strip-all --add-gnu-debuglink=erolith.debug erolith)
    if readelf --program-headers "$PACKAGE/erolith" | grep -q INTERP; then
        die "$PACKAGE/erolith wants a loader: it is not static"
    fi
}

# What the program writes of itself, and the licences of all that is linked in.
describe() {
    local shell
    mkdir -p "$PACKAGE"/{man,completions,units}
    "$PACKAGE/erolith" man "$PACKAGE/man"
    for shell in bash:erolith.bash zsh:_erolith fish:erolith.fish; do
        "$PACKAGE/erolith" completions "${shell%:*}" >"$PACKAGE/completions/${shell#*:}"
    done
    # A program of a package is below /usr, one that is installed by hand below /usr/local.
    for unit in erolith.service erolith.socket; do
        sed 's|/usr/local/bin/|/usr/bin/|' "$EROLITH_REPO/dist/$unit" >"$PACKAGE/units/$unit"
    done
    licences >"$PACKAGE/LICENSES.txt"
}

# licences: the licence files of every crate in the program, as they lie in cargo's registry.
licences() {
    cargo metadata --format-version 1 --locked --features isal --filter-platform "$TARGET" |
        python3 -B "$EROLITH_REPO/dist/licences.py"
}

debian_package() {
    install_cargo_tool cargo-deb
    # cargo-deb takes the program from where cargo puts it: there the stripped one is packed.
    cp "$PACKAGE/erolith" "$BUILT/erolith"
    cargo deb --quiet --no-build --no-strip --target "$TARGET" --output "$PACKAGE/" >&2
}

archive() {
    local name=erolith-$VERSION-$MACHINE-linux
    rm -rf "${PACKAGE:?}/$name"
    mkdir -p "$PACKAGE/$name/dist"
    cp -r "$PACKAGE"/{erolith,man,completions,LICENSES.txt} "$EROLITH_REPO/LICENSE" "$PACKAGE/$name/"
    cp "$EROLITH_REPO"/dist/{config.toml,erolith.service,erolith.socket,grafana.json} "$PACKAGE/$name/dist/"
    tar -C "$PACKAGE" --sort=name --owner=0 --group=0 --numeric-owner -czf "$PACKAGE/$name.tar.gz" "$name"
    rm -rf "${PACKAGE:?}/$name"
}

# Nothing but the program is in the empty root; on the bare machine, only the package.
check() {
    local empty
    empty=$(mktemp -d)
    cp "$PACKAGE/erolith" "$empty/"
    # /proc is what names processors and files.
    # shellcheck disable=SC2016 # expanded by the inner shell
    unshare --mount --propagation private sh -euc '
        mkdir "$1/proc"
        mount -t proc proc "$1/proc"
        exec chroot "$1" /erolith --version' sh "$empty"
    rm -rf --one-file-system "$empty"
    # shellcheck disable=SC2016 # expanded on the machine
    EROLITH_BARE_FILES=$(echo "$PACKAGE"/*.deb) "$EROLITH_REPO/tests/bare.sh" run bash -euxc '
        dpkg --install /root/*.deb
        erolith --version
        erolith doctor || test $? -eq 1
        erolith mkfs /tmp/etc.erofs /etc
        erolith fsck /tmp/etc.erofs
        test "$(stat -c %a /etc/erolith/config.toml)" = 600
        test -e /usr/share/man/man1/erolith-convert.1.gz
        test -e /usr/share/doc/erolith/copyright
        grep -q ^ExecStart=/usr/bin/erolith /lib/systemd/system/erolith.service
        test -e /lib/systemd/system/erolith.socket
        ldd /usr/bin/erolith 2>&1 | grep -E "statically linked|not a dynamic"
        echo changed >>/etc/erolith/config.toml
        dpkg --remove erolith
        grep changed /etc/erolith/config.toml'
}

need_packages "${BUILD_PACKAGES[@]}" python3
need_build_tools
cd "$EROLITH_REPO"
MACHINE=$(uname -m)
TARGET=$MACHINE-unknown-linux-gnu
BUILT=${CARGO_TARGET_DIR:-target}/$TARGET/release
VERSION=$(sed -n '/workspace.package/,/^$/s/^version = "\(.*\)"/\1/p' Cargo.toml)
mkdir -p "$PACKAGE"
build
describe
debian_package
archive
ls -l "$PACKAGE" >&2
case ${1:-} in
'') ;;
check) check ;;
*) die "usage: $0 [check]" ;;
esac
