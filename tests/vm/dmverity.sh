#!/usr/bin/env bash
# Runs the snapshotter's tests of dm-verity in a virtual machine with Debian's kernel, over ext4. Some minutes without KVM.
#
#   tests/vm/dmverity.sh            every test named below
#   tests/vm/dmverity.sh FILTER     those tests whose names contain FILTER
#
# What is seen there: a layer with a hash tree is mounted and read through its device; one changed bit of a file gives EIO,
# and an error that names the block; one in the superblock, and a wrong root hash, are refused; no device is left behind.
# The machine has no disk and no network: everything is in its initramfs.
set -euo pipefail
# shellcheck source=../../testdata/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../testdata/setup.sh"

MODULES=(loop overlay erofs dm-verity crc32c_generic)
# shellcheck disable=SC2054 # commas of qemu
MACHINE=(qemu-system-x86_64 -accel tcg -smp 2 -m 2048 -display none -no-reboot -serial stdio -monitor none)

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

# What process 1 does. It says "passed" in the end.
init() {
    cat <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs -o size=1g tmpfs /tmp
mkdir -p /run /var/tmp /etc
mount -t tmpfs tmpfs /run
export PATH=/bin RUST_BACKTRACE=0
stop() { echo "machine: $1"; poweroff -f; }
for module in $MODULES; do modprobe $module || stop "no module $module"; done
truncate -s 512M /tmp/disk
DISK=$(losetup -f)
losetup $DISK /tmp/disk
mkfs.ext4 -q -F $DISK && mount -t ext4 $DISK /var/tmp || stop "no ext4"
# Nothing may be skipped. One after another: they look at all devices that there are.
export EROLITH_TEST_DM_VERITY=on
snapshotter-tests --test-threads=1 --nocapture $TESTS || stop "failed: $TESTS"
for dm in /sys/block/dm-*; do [ -e $dm ] && stop "left: $(cat $dm/dm/name)"; done
umount /var/tmp || stop "something is left in /var/tmp"
stop passed
INIT
}

make_initramfs() {
    local root=$1 kernel=$2 module release
    release=$(ls "$kernel/lib/modules")
    mkdir -p "$root"/{proc,sys,dev,tmp}
    with_libraries "$root" /bin/busybox "$(command -v mkfs.ext4)" "$(test_program)"
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
need_packages busybox-static cpio e2fsprogs kmod python3 qemu-system-x86
TESTS=${1:-verity sys::dm}
cached vm-kernel 1 make_kernel
cd "$EROLITH_REPO"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
make_initramfs "$WORK/root" "$EROLITH_CACHE/vm-kernel"
(cd "$WORK/root" && find . | cpio --quiet -o -H newc | gzip -1) >"$WORK/initramfs"
say "starting the machine"
timeout 1800 "${MACHINE[@]}" -kernel "$EROLITH_CACHE"/vm-kernel/boot/vmlinuz-* -initrd "$WORK/initramfs" \
    -append 'console=ttyS0 panic=-1 quiet' </dev/null | tee "$WORK/said"
grep -q '^machine: passed' "$WORK/said"
