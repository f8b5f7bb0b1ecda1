# Virtual machines with Debian's kernels under qemu; sourced, never run. KVM is not used: README.md tells why.
#
# A machine has no network. Everything is in its initramfs: busybox, modules, our programs with their libraries, and a
# scenario, which is a shell script that process 1 ends with. Its filesystems are on virtio disks.
# shellcheck shell=bash
# shellcheck source=../../testdata/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../../testdata/setup.sh"

# Names of the kernels: the oldest and the stable one that Debian supports, and the newest there is.
VM_KERNELS=(6.1 6.12 newest)

# Those that are built into a kernel, or not there, are passed over: what needs them fails and says so.
VM_MODULES=(virtio_pci virtio_blk loop overlay erofs xfs btrfs quota_v2 dm_mod dm_verity
    crc32c_generic xxhash_generic blake2b_generic sha256_generic)

# shellcheck disable=SC2034 # for those who source this
# shellcheck disable=SC2054 # commas of qemu
VM_MACHINE=(qemu-system-x86_64 -accel tcg -smp 2 -m 3072 -nic none -display none -no-reboot -serial stdio -monitor none)
# Lost after the kernel has said why it panics.
VM_APPEND='console=ttyS0 panic=-1 quiet'

vm_packages() { need_packages "${VM_PACKAGES[@]}"; }

# vm_kernel NAME: the directory of a kernel, which has vmlinuz and lib/modules/*. Remove it to get a newer one.
vm_kernel() {
    [[ " ${VM_KERNELS[*]} " == *" $1 "* ]] || die "no kernel $1: there are ${VM_KERNELS[*]}"
    cached "vm-kernel-$1" 1 vm_make_kernel >&2
    echo "$EROLITH_CACHE/vm-kernel-$1"
}

vm_make_kernel() {
    local suites apt=$1/apt packages
    case $1 in
        *-6.1) suites=(bookworm bookworm-security) ;;
        *-6.12) suites=(trixie trixie-security) ;;
        *) suites=(sid) ;;
    esac
    vm_apt_of "$apt" "${suites[@]}"
    retry vm_apt apt-get -qq update
    mapfile -t packages < <(vm_apt apt-cache depends --recurse --important linux-image-cloud-amd64 |
        grep -E '^linux-(image|modules|binary)-[0-9].*-cloud-amd64$' | sort -u)
    (cd "$1" && retry vm_apt apt-get -qq download "${packages[@]}")
    for package in "$1"/*.deb; do dpkg-deb -x "$package" "$1"; done
    rm -rf "$apt" "$1"/*.deb
    # /lib is a link to /usr/lib in newer ones.
    [[ ! -d $1/usr/lib/modules ]] || { mkdir -p "$1/lib" && mv "$1/usr/lib/modules" "$1/lib/"; }
    # Not every kernel unpacks its modules itself.
    find "$1/lib/modules" -name '*.ko.xz' -exec xz -d {} +
    # In /boot or beside the modules.
    find "$1" -name 'vmlinuz*' -type f -exec mv {} "$1/vmlinuz" ';'
    depmod -b "$1" "$(ls "$1/lib/modules")" 2>/dev/null
}

# vm_apt_of DIRECTORY SUITE...: an apt of these suites, apart from the host's.
vm_apt_of() {
    local directory=$1 suite archive
    shift
    mkdir -p "$directory"/{lists/partial,cache/archives/partial}
    for suite in "$@"; do
        archive=debian
        [[ $suite != *-security ]] || archive=debian-security
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/$archive $suite main"
    done >"$directory/sources.list"
    cat >"$directory/apt.conf" <<CONF
Dir::Etc::SourceList "$directory/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$directory/lists";
Dir::Cache "$directory/cache";
APT::Sandbox::User "root";
Acquire::Languages "none";
CONF
    VM_APT_CONFIG=$directory/apt.conf
}

vm_apt() { APT_CONFIG=$VM_APT_CONFIG "$@" </dev/null; }

# vm_programs DIRECTORY PROGRAM...: puts programs into a root directory, with what they are linked to. NAME=PROGRAM gives it
# another name. Debugging information stays behind: it would have to be unpacked at every start.
vm_programs() {
    local root=$1 program name library
    shift
    mkdir -p "$root/bin"
    for program in "$@"; do
        name=$(basename "${program%%=*}")
        program=$(readlink -f "${program#*=}")
        strip -o "$root/bin/$name" "$program" 2>/dev/null || install "$program" "$root/bin/$name"
        # Nothing for one that is linked statically.
        { ldd "$program" 2>/dev/null || true; } | sed -n 's#^[^/]*\(/[^ ]*\).*#\1#p' | while read -r library; do
            [[ -e $root$library ]] || install -D "$(readlink -f "$library")" "$root$library"
        done
    done
}

# vm_build NAME CARGO-ARGUMENT...: the program of this name that `cargo` makes when it is called so.
vm_build() {
    local name=$1
    shift
    cargo "$@" --quiet --message-format=json | python3 -c 'import json, sys
artifacts = [json.loads(line) for line in sys.stdin]
name = lambda artifact: artifact["target"]["name"].replace("-", "_")
print([a["executable"] for a in artifacts if a.get("executable") and name(a) == sys.argv[1]][-1])' "$name"
}

# What process 1 does before the scenario, in which `stop WHY` is the end. "machine: passed" is the good one.
vm_init() {
    cat <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin RUST_BACKTRACE=0
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs -o size=2g tmpfs /tmp
mkdir -p /run /var/tmp
mount -t tmpfs tmpfs /run
stop() { echo "machine: $1"; poweroff -f; }
# Some are for processors that this one is not; what is missing is missed by what needs it.
while read -r module; do insmod "$module" 2>/dev/null; done </modules
INIT
}

# vm_initramfs FILE KERNEL SCENARIO PROGRAM...: everything that a machine starts with. The scenario is given as text.
vm_initramfs() {
    local file=$1 kernel=$2 scenario=$3 root module release
    shift 3
    root=$(mktemp -d)
    release=$(ls "$kernel/lib/modules")
    mkdir -p "$root"/{proc,sys,dev,tmp,etc}
    vm_programs "$root" /bin/busybox mkfs.ext4="$(command -v mkfs.ext4)" mkfs.xfs="$(command -v mkfs.xfs)" \
        mkfs.btrfs="$(command -v mkfs.btrfs)" "$@"
    cp /etc/mke2fs.conf "$root/etc/"
    # In the order in which they have to be loaded.
    for module in "${VM_MODULES[@]}"; do
        modprobe -d "$kernel" -S "$release" --show-depends "$module" 2>/dev/null || true
    done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' | while read -r module; do
        install -D "$module" "$root/lib/modules/$(basename "$module")"
        echo "/lib/modules/$(basename "$module")"
    done >"$root/modules"
    { vm_init && printf '%s\n' "$scenario"; } >"$root/init"
    chmod 755 "$root/init"
    # Not compressed: without KVM unpacking takes longer than reading.
    (cd "$root" && find . | cpio --quiet -o -H newc) >"$file"
    rm -rf "$root"
}

# vm_add_sid FILE PROGRAM...: adds programs of the sid root to an initramfs. Its libraries are newer than ours, so that they
# are beside those, and each program is a script that starts it with them, as testdata/sid-root.sh does on the host.
vm_add_sid() {
    local file=$1 sid=$EROLITH_CACHE/sid root program library
    shift
    root=$(mktemp -d)
    mkdir -p "$root/bin" "$root/sid"
    for program in "$@"; do
        install "$sid/usr/bin/$program" "$root/sid/"
        chroot "$sid" ldd "/usr/bin/$program" | sed -n 's#^[^/]*\(/[^ ]*\).*#\1#p' | while read -r library; do
            # Links start there, too.
            install "$sid$(chroot "$sid" readlink -f "$library")" "$root/sid/$(basename "$library")"
        done
        printf '#!/bin/sh\nexec /sid/%s --library-path /sid /sid/%s "$@"\n' \
            "$(cd "$root/sid" && echo ld-linux-*)" "$program" >"$root/bin/$program"
        chmod 755 "$root/bin/$program"
    done
    # The kernel unpacks archives that follow each other.
    (cd "$root" && find . | cpio --quiet -o -H newc) >>"$file"
    rm -rf "$root"
}

# vm_run SECONDS KERNEL INITRAMFS QEMU-ARGUMENT...: a machine until it stops, its console on standard output.
vm_run() {
    local seconds=$1 kernel=$2 initramfs=$3
    shift 3
    timeout "$seconds" "${VM_MACHINE[@]}" -kernel "$kernel/vmlinuz" -initrd "$initramfs" -append "$VM_APPEND" "$@" \
        </dev/null
}

# vm_disk FILE: arguments for one more virtio disk: /dev/vda is the first.
vm_disk() { printf '%s\n' -drive "file=$1,format=raw,if=virtio,cache=unsafe"; }

# vm_tests SECONDS TESTS SCENARIO KERNEL...: the snapshotter's tests in a machine of each kernel, which has one disk for them.
# The scenario finds their names in $TESTS.
vm_tests() {
    local seconds=$1 filters=$2 scenario=$3 tests name kernel disk
    shift 3
    tests=$(vm_build erolith_snapshotter test -p erolith-snapshotter --lib --no-run)
    WORK=$(mktemp -d -p /var/tmp)
    trap 'rm -rf "$WORK"' EXIT
    for name in "$@"; do
        kernel=$(vm_kernel "$name")
        vm_initramfs "$WORK/initramfs" "$kernel" "TESTS='$filters'"$'\n'"$scenario" "snapshotter-tests=$tests"
        rm -f "$WORK/disk"
        truncate -s 1G "$WORK/disk"
        mapfile -t disk < <(vm_disk "$WORK/disk")
        say "Linux $name"
        vm_run "$seconds" "$kernel" "$WORK/initramfs" "${disk[@]}" | tr -d '\r' | tee "$WORK/said"
        grep -q '^machine: passed' "$WORK/said"
    done
}
