#!/usr/bin/env bash
# Runs the snapshotter's tests of limits and of faults in a virtual machine with Debian's kernel, where filesystems keep
# project quotas: over ext4 and over XFS, then once more with quotas switched off, and by images. About 10 min without KVM.
#
#   tests/vm/quota.sh            every test named below
#   tests/vm/quota.sh FILTER     those tests whose names contain FILTER
#
# The machine has no disk and no network: everything is in its initramfs.
set -euo pipefail
# shellcheck source=../../testdata/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../testdata/setup.sh"

MODULES=(loop overlay erofs xfs quota_v2 crc32c_generic)
# shellcheck disable=SC2054 # commas of qemu
MACHINE=(qemu-system-x86_64 -accel tcg -smp 2 -m 3072 -display none -no-reboot -serial stdio -monitor none)

# The newest kernel of Debian's cloud images, unpacked.
make_kernel() {
    local package
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-6.*\)/\1/p' | head -n1)
    (cd "$1" && retry apt-get -qq -o APT::Sandbox::User=root download "$package" && dpkg-deb -x ./*.deb . && rm ./*.deb)
    depmod -b "$1" "$(ls "$1/lib/modules")"
}

# The program that `cargo test` would run.
test_program() {
    cargo test -p erolith-snapshotter --lib --no-run --message-format=json 2>/dev/null |
        python3 -c 'import json, sys
for line in sys.stdin:
    path = json.loads(line).get("executable")
    if path:
        print(path)' | tail -n1
}

# with_libraries DIRECTORY PROGRAM...: puts programs into a root directory, with what they are linked to.
with_libraries() {
    local root=$1 program library
    shift
    for program in "$@"; do
        install -D "$(readlink -f "$program")" "$root/bin/$(basename "$program")"
        # Nothing for one that is linked statically.
        { ldd "$program" 2>/dev/null || true; } | sed -n 's#^[^/]*\(/[^ ]*\).*#\1#p' | while read -r library; do
            [[ -e $root$library ]] || install -D "$(readlink -f "$library")" "$root$library"
        done
    done
}

# What process 1 does. The name of each part is said before it, and "passed" in the end.
init() {
    cat <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs -o size=2g tmpfs /tmp
mkdir -p /run /var/tmp /etc
mount -t tmpfs tmpfs /run
export PATH=/bin RUST_BACKTRACE=0
stop() { echo "machine: $1"; poweroff -f; }
for module in $MODULES; do modprobe $module || stop "no module $module"; done
truncate -s 1G /tmp/disk
DISK=$(losetup -f)
losetup $DISK /tmp/disk
# run STATE FILTER...: the tests, with quotas on or off. One after another: they look at all projects that there are.
run() {
    export EROLITH_TEST_QUOTA=$1
    shift
    snapshotter-tests --test-threads=1 "$@" || stop "failed: $*"
}
# filesystem NAME ON OFF MKFS...
filesystem() {
    name=$1 on=$2 off=$3
    shift 3
    echo "machine: $name"
    "$@" $DISK || stop "no $name"
    mount -t $name -o $on $DISK /var/tmp || stop "no $name with $on"
    run on $TESTS
    run last service::tests::quota
    umount /var/tmp || stop "$name is in use"
    mount -t $name -o $off $DISK /var/tmp || stop "no $name with $off"
    run off service::tests::quota
    unset EROLITH_TEST_QUOTA
    snapshotter-tests service::tests::limits uppers:: || stop "failed: limits by images"
    umount /var/tmp || stop "$name is in use"
}
filesystem ext4 prjquota noquota mkfs.ext4 -q -F -O project,quota
filesystem xfs pquota noquota mkfs.xfs -q -f
stop passed
INIT
}

make_initramfs() {
    local root=$1 kernel=$2 module release
    release=$(ls "$kernel/lib/modules")
    mkdir -p "$root"/{proc,sys,dev,tmp}
    with_libraries "$root" /bin/busybox "$(command -v mkfs.ext4)" "$(command -v mkfs.xfs)" "$(test_program)"
    mv "$root"/bin/erolith_snapshotter-* "$root/bin/snapshotter-tests"
    install -D /etc/mke2fs.conf "$root/etc/mke2fs.conf"
    for module in "${MODULES[@]}"; do
        modprobe -d "$kernel" -S "$release" --show-depends "$module"
    done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | sort -u | while read -r module; do
        install -D "$module" "$root/lib/modules/$release/${module#"$kernel/lib/modules/$release/"}"
    done
    cp "$kernel/lib/modules/$release/modules".{dep,dep.bin,alias,alias.bin,builtin,symbols} \
        "$root/lib/modules/$release/" 2>/dev/null || true
    { init | sed "1a MODULES='${MODULES[*]}' TESTS='$TESTS'"; } >"$root/init"
    chmod 755 "$root/init"
}

need_root
need_packages busybox-static cpio e2fsprogs kmod python3 qemu-system-x86 xfsprogs
TESTS=${1:-service::tests::quota service::tests::faults kernel:: sys::}
cached vm-kernel 1 make_kernel
cd "$EROLITH_REPO"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
make_initramfs "$WORK/root" "$EROLITH_CACHE/vm-kernel"
(cd "$WORK/root" && find . | cpio --quiet -o -H newc | gzip -1) >"$WORK/initramfs"
say "starting the machine"
timeout 3600 "${MACHINE[@]}" -kernel "$EROLITH_CACHE"/vm-kernel/boot/vmlinuz-* -initrd "$WORK/initramfs" \
    -append 'console=ttyS0 panic=-1 quiet' </dev/null | tee "$WORK/said"
grep -q '^machine: passed' "$WORK/said"
