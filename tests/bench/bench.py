#!/usr/bin/env python3
"""Measures erolith beside its peers and writes the tables of results.md.

Started by run.sh, which makes the inputs and a mount namespace: whatever is mounted here ends with this process. This
file says what is measured; measure.py says how.
"""

import argparse
import contextlib
import gzip
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import commit
import latency
import layouts
import memory
import peers
import report
from measure import Contender, Table, Target, remove, run_table


@dataclass
class Place:
    """Where things are: `ram` a tmpfs, `disk` a directory on the disk, `cache` the inputs as the scripts made them."""

    ram: Path
    disk: Path
    cache: Path


@dataclass
class Input:
    """One layer: the tar and its compressed forms, all in tmpfs."""

    name: str
    tar: Path
    gz: Path
    zst: Path


def make_inputs(place, wanted):
    """The generated layers first, then those of the real image that are larger than a mebibyte."""
    found = [(name, place.cache / name / "layer.tar.gz") for name in ("large-files", "many-files")]
    blobs = layouts.layers(place.cache / "real-image-full")
    found += [(f"real layer {n}", blob) for n, blob in enumerate(blobs, 1) if blob.stat().st_size > 1 << 20]
    for name, gz in found:
        if wanted not in name:
            continue
        base = place.ram / name.replace(" ", "-")
        base.mkdir()
        made = Input(name, base / "layer.tar", base / "layer.tar.gz", base / "layer.tar.zst")
        shutil.copyfile(gz, made.gz)
        subprocess.run(f"igzip -dc {made.gz} >{made.tar} && zstd -q -T0 {made.tar} -o {made.zst}", shell=True, check=True)
        yield made


# mkfs.erofs digests nothing: its UUID is random. By default erolith's comes from the archive's SHA-256.
UNHASHED = "-U random"


def mkfs(name, options, output, source, peer=False):
    """A contender that makes an image; `source` is a path, or the pipe that the archive comes by."""
    program = "mkfs.erofs --quiet" if peer else "erolith mkfs"
    pipe, path = ("", source) if isinstance(source, Path) else (source + " | ", "-")
    if peer and path == "-":
        path = ""
    return Contender(name, f"{pipe}{program} {options} {output} {path}", output, peer=peer)


def tar_tables(place, inputs):
    for made in inputs:
        out, tar = place.ram / "out.erofs", made.tar
        wall = 0.3 if made.name == "many-files" else 1.0
        yield Table(
            "Tar in, image out (tmpfs)",
            made.name,
            [
                mkfs("erolith mkfs --tar", f"--tar=f {UNHASHED}", out, tar),
                mkfs("erolith mkfs --tar -Enoinline_data", f"--tar=f -Enoinline_data {UNHASHED}", out, tar),
                mkfs("cat, erolith mkfs --tar -", f"--tar=f {UNHASHED}", out, f"cat {tar}"),
                mkfs("erolith mkfs --tar, UUID from the SHA-256", "--tar=f", out, tar),
                Contender("openssl sha256 (the limit of the row above)", f"openssl dgst -sha256 {tar}"),
                mkfs("mkfs.erofs --tar=f", "--tar=f", out, tar, peer=True),
                mkfs("mkfs.erofs -Enoinline_data --sort=none", peers.FASTEST, out, tar, peer=True),
                mkfs("cat, mkfs.erofs -Enoinline_data --sort=none", peers.FASTEST, out, f"cat {tar}", peer=True),
                Contender("cat >file (the copy limit)", f"cat {tar} >{out}", out),
            ],
            [
                Target("erolith mkfs --tar", "mkfs.erofs --tar=f", wall),
                Target("erolith mkfs --tar", "mkfs.erofs -Enoinline_data --sort=none", wall),
                Target("erolith mkfs --tar -Enoinline_data", "mkfs.erofs -Enoinline_data --sort=none", wall),
                Target("cat, erolith mkfs --tar -", "cat, mkfs.erofs -Enoinline_data --sort=none", 1.0),
                Target("erolith mkfs --tar", "mkfs.erofs --tar=f", 1.0, "size"),
                Target("erolith mkfs --tar", "mkfs.erofs --tar=f", 0.5 if made.name == "many-files" else 1.0, "rss"),
            ],
        )
        yield Table(
            "Tar index (tmpfs)",
            made.name,
            [
                mkfs("erolith mkfs --tar=i", f"--tar=i {UNHASHED}", out, tar),
                mkfs("mkfs.erofs --tar=i", "--tar=i", out, tar, peer=True),
            ],
            [
                Target("erolith mkfs --tar=i", "mkfs.erofs --tar=i", 0.5),
                Target("erolith mkfs --tar=i", "mkfs.erofs --tar=i", 1.0, "size"),
            ],
        )


def disk_tables(place, inputs):
    for made in inputs:
        out, tar = place.disk / "out.erofs", made.tar
        synced = f"mkfs.erofs --quiet {peers.FASTEST} {out} {tar} && sync {out}"
        yield Table(
            "Tar in, image out (disk; erolith syncs its output, mkfs.erofs does not)",
            made.name,
            [
                mkfs("erolith mkfs --tar", f"--tar=f {UNHASHED}", out, tar),
                mkfs("mkfs.erofs --tar=f", "--tar=f", out, tar, peer=True),
                mkfs("mkfs.erofs -Enoinline_data --sort=none", peers.FASTEST, out, tar, peer=True),
                Contender("mkfs.erofs -Enoinline_data --sort=none, sync", synced, out, peer=True),
            ],
            [Target("erolith mkfs --tar", "mkfs.erofs -Enoinline_data --sort=none, sync", 1.0)],
        )


def compressed_tables(place, inputs):
    for made in inputs:
        out = place.ram / "out.erofs"
        layout = layouts.single_layer(place.ram / f"{made.name.replace(' ', '-')}-layout", made.gz, made.tar)
        native = place.ram / "native"
        yield Table(
            "Compressed layer in, image out (tmpfs)",
            f"{made.name}, gzip",
            [
                mkfs("erolith mkfs --tar, gzip", "--tar=f", out, made.gz),
                Contender("erolith convert", f"erolith convert oci:{layout}:latest oci:{native}:latest", native),
                Contender("igzip alone", f"igzip -dc {made.gz}"),
                Contender("igzip, openssl sha256 (the limit of who verifies)", f"igzip -dc {made.gz} | openssl dgst -sha256"),
                mkfs("igzip, sha256sum, mkfs.erofs --tar=f", "--tar=f", out, peers.hashed(f"igzip -dc {made.gz}"), peer=True),
                mkfs("igzip, sha256sum, mkfs.erofs fastest", peers.FASTEST, out, peers.hashed(f"igzip -dc {made.gz}"), peer=True),
            ],
            [
                Target("erolith mkfs --tar, gzip", "igzip alone", 1.2),
                Target("erolith mkfs --tar, gzip", "igzip, openssl sha256 (the limit of who verifies)", 1.2),
                Target("erolith mkfs --tar, gzip", "igzip, sha256sum, mkfs.erofs --tar=f", 0.5),
                Target("erolith convert", "igzip alone", 1.2),
                Target("erolith convert", "igzip, sha256sum, mkfs.erofs --tar=f", 0.5),
            ],
        )
        yield Table(
            "Compressed layer in, image out (tmpfs)",
            f"{made.name}, zstd",
            [
                mkfs("erolith mkfs --tar, zstd", "--tar=f", out, made.zst),
                Contender("zstd alone", f"zstd -dcq {made.zst}"),
                mkfs("zstd, sha256sum, mkfs.erofs --tar=f", "--tar=f", out, peers.hashed(f"zstd -dcq {made.zst}"), peer=True),
            ],
            [
                Target("erolith mkfs --tar, zstd", "zstd alone", 1.2),
                Target("erolith mkfs --tar, zstd", "zstd, sha256sum, mkfs.erofs --tar=f", 0.5),
            ],
        )


def image_tables(place, _inputs):
    image = place.cache / "real-image-full"
    for medium, base in (("tmpfs", place.ram), ("disk", place.disk)):
        source, native = base / "docker", base / "native"
        shutil.copytree(image, source)
        with peers.Containerd(base / "containerd", image, []) as plain, peers.Containerd(
            base / "containerd-tuned", image, ["-T0", "--mkfs-time", "--sort=none"]
        ) as tuned:
            yield Table(
                "The whole real image",
                f"four layers ({medium})",
                [
                    Contender("erolith convert", f"erolith convert oci:{source}:latest oci:{native}:latest", native),
                    plain.unpack("containerd, EROFS differ", "erofs"),
                    tuned.unpack("containerd, EROFS differ, --sort=none", "erofs"),
                    plain.unpack("containerd, overlayfs", "overlayfs"),
                ],
                [
                    Target("erolith convert", "containerd, EROFS differ", 0.5),
                    Target("erolith convert", "containerd, EROFS differ, --sort=none", 0.5),
                ],
            )
        shutil.rmtree(source)


def check_tables(place, inputs):
    docker, native, again = place.cache / "real-image-full", place.ram / "native", place.ram / "again"
    convert = f"erolith convert oci:{docker}:latest oci:"
    subprocess.run(f"{convert}{native}:latest", shell=True, check=True, stdout=subprocess.DEVNULL)
    fsck = " && ".join(f"erolith fsck {layer}" for layer in layouts.layers(native))
    yield Table(
        "Structure check (tmpfs)",
        "all layers of the real image",
        [Contender("erolith fsck", fsck), Contender("the conversion", f"{convert}{again}:latest", again)],
        [Target("erolith fsck", "the conversion", 0.05)],
    )
    remove(native)
    for made in inputs:
        image, out = place.ram / "checked.erofs", place.ram / "out.erofs"
        subprocess.run(f"erolith mkfs --quiet --tar=f {UNHASHED} {image} {made.tar}", shell=True, check=True, stdout=subprocess.DEVNULL)
        yield Table(
            "Structure check (tmpfs)",
            made.name,
            [
                Contender("erolith fsck", ["erolith", "fsck", image]),
                Contender("fsck.erofs", ["fsck.erofs", image], peer=True),
                mkfs("the conversion", "--tar=f", out, made.gz),
            ],
            [Target("erolith fsck", "the conversion", 0.05), Target("erolith fsck", "fsck.erofs", 1.0)],
        )
        remove(image)


def mount_tables(place, inputs):
    """The image files lie on the disk: not every kernel mounts an image file of a tmpfs."""
    for made in inputs:
        contenders = []
        for name, line, peer in (
            ("erolith's image", "erolith mkfs --tar=f -U clear {0} {1}", False),
            ("mkfs.erofs's image", "mkfs.erofs --quiet --tar=f {0} {1}", True),
        ):
            image, target = place.disk / f"mounted-{len(contenders)}.erofs", place.disk / f"mounted-{len(contenders)}"
            subprocess.run(line.format(image, made.tar), shell=True, check=True, stdout=subprocess.DEVNULL)
            target.mkdir(exist_ok=True)
            subprocess.run(["mount", "-t", "erofs", "-o", "ro", image, target], check=True)
            contenders.append(Contender(name, ["ls", "-lR", target], before=drop_inodes, peer=peer))
        yield Table(
            "ls -lR through the kernel's mount, inodes and names not cached",
            made.name,
            contenders,
            [Target("erolith's image", "mkfs.erofs's image", 1.0)],
        )
        for number in range(len(contenders)):
            subprocess.run(["umount", place.disk / f"mounted-{number}"], check=True)
            remove(place.disk / f"mounted-{number}.erofs")


def drop_inodes():
    Path("/proc/sys/vm/drop_caches").write_text("2\n")


def node_tables(place, _inputs):
    """containerd 2.1 with erolith's daemon beside containerd with its own plugins. Everything lies on the disk."""
    image = place.cache / "real-image-full"
    with peers.Node(place.disk / "node", image) as node, peers.Containerd(
        place.disk / "plain", image, []
    ) as plain, peers.Containerd(place.disk / "tuned", image, ["-T0", "--mkfs-time", "--sort=none"]) as tuned:
        yield Table(
            "containerd unpacks the real image (disk)",
            "four layers",
            [
                node.unpack("erolith serve", "erolith", peer=False),
                plain.unpack("containerd, EROFS differ", "erofs"),
                tuned.unpack("containerd, EROFS differ, --sort=none", "erofs"),
                plain.unpack("containerd, overlayfs", "overlayfs"),
            ],
            [
                Target("erolith serve", f"containerd, {peer}", 0.5, measure)
                for measure in ("wall", "rss")
                for peer in ("EROFS differ", "EROFS differ, --sort=none")
            ],
        )
        servers = [
            (node, "erolith serve", "erolith"),
            (plain, "containerd, EROFS snapshotter", "erofs"),
            (plain, "containerd, overlayfs snapshotter", "overlayfs"),
        ]
        targets = [Target("erolith serve", name, 1.0) for _, name, _ in servers[1:]]
        for title, how, rounds in (
            ("ctr run --rm true, right after unpacking", peers.Containerd.first_run, 1),
            ("ctr run --rm true, everything unpacked and on disk", peers.Containerd.run, 7),
        ):
            contenders = [how(server, name, kind, peer=server is plain) for server, name, kind in servers]
            yield Table(title, "four layers", contenders, targets, rounds=rounds)


# What is done to a layer before it gets its name, as the daemon's configuration has it.
def protection(fs_verity="off", sandbox=True, immutable=False, dm_verity="off"):
    word = {True: "true", False: "false"}
    return (
        f'[snapshotter]\nfs_verity = "{fs_verity}"\nimmutable = {word[immutable]}\n'
        f'[differ]\nsandbox = {word[sandbox]}\ndm_verity = "{dm_verity}"\n'
    )


PROTECTIONS = {
    "nothing": protection(sandbox=False),
    "workers": protection(),
    "workers, fs-verity": protection("auto"),
    "workers, fs-verity, immutable": protection("auto", immutable=True),
    "workers, dm-verity, immutable": protection(dm_verity="required", immutable=True),
    "everything": protection("auto", dm_verity="required", immutable=True),
}


def protect_tables(place, _inputs):
    """The same unpacking with each protection, by one daemon each."""
    image = place.cache / "real-image-full"
    with contextlib.ExitStack() as stack:
        nodes = {
            name: stack.enter_context(peers.Node(place.disk / f"protect-{number}", image, more))
            for number, (name, more) in enumerate(PROTECTIONS.items())
        }
        # Before the nodes end and are deleted, which nothing immutable could be.
        stack.callback(subprocess.run, ["chattr", "-R", "-f", "-i", place.disk], check=False)
        plain, *others = nodes
        yield Table(
            "Protections: containerd unpacks the real image through erolith (disk)",
            "four layers",
            [node.unpack(name, "erolith", peer=False) for name, node in nodes.items()],
            [Target(name, plain, 1.1) for name in others],
            rounds=5,
        )
        yield scrub_table(nodes["workers, fs-verity"])


def scrub_table(node):
    """Every layer of the image is read from the disk and compared with its digest."""
    unpack = node.unpack("", "erolith")
    unpack.before()
    subprocess.run(unpack.command, check=True, stdout=subprocess.DEVNULL)
    root = node.directory / "erolith"
    images = [str(path) for path in root.glob("snapshots/*/layer.erofs")]
    assert len(images) == 4, images
    size = sum(Path(path).stat().st_size for path in images) >> 20

    def forget():
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("1")

    hashing = f"printf '%s\\n' {' '.join(images)} | xargs -P {os.cpu_count()} -n 1 sha256sum"
    return Table(
        "Scrub: the layers of the real image, from the disk",
        f"{size} MiB",
        [
            Contender("erolith scrub", ["erolith", "scrub", "--quiet", "--root", root], before=forget),
            Contender("cat", ["cat", *images], before=forget, peer=True),
            Contender("sha256sum, a file for each processor", hashing, before=forget, peer=True),
        ],
        [Target("erolith scrub", "sha256sum, a file for each processor", 1.0)],
        rounds=3,
    )


def native_tables(place, _inputs):
    """A layer of 500 MB that is an EROFS image already: erolith links it, containerd's differ copies it."""
    source, image = place.disk / "native-files", place.disk / "native.erofs"
    source.mkdir()
    subprocess.run(f"head -c 500M /dev/urandom | split -b 5M - {source}/file-", shell=True, check=True)
    subprocess.run(["mkfs.erofs", "--quiet", image, source], check=True, stdout=subprocess.DEVNULL)
    remove(source)
    layout = layouts.single_layer(place.disk / "native-layout", image, image, layouts.NATIVE)
    with peers.Node(place.disk / "native-node", layout) as node, peers.Containerd(
        place.disk / "native-plain", layout, []
    ) as plain:
        yield Table(
            "containerd unpacks a native EROFS layer (disk)",
            "500 MB",
            [
                node.unpack("erolith serve", "erolith", peer=False),
                plain.unpack("containerd, EROFS differ", "erofs"),
            ],
            [Target("erolith serve", "containerd, EROFS differ", 0.5)],
        )


def sandbox_tables(place, _inputs):
    """What starting a worker costs. What a worker costs where there is much to read is among the protections."""
    tiny = place.disk / "tiny"
    tiny.mkdir()
    (tiny / "file").write_text("tiny\n")
    tar = place.disk / "tiny.tar"
    subprocess.run(["tar", "-C", tiny, "-cf", tar, "file"], check=True)
    gz = place.disk / "tiny.tar.gz"
    gz.write_bytes(gzip.compress(tar.read_bytes(), mtime=0))
    single = layouts.single_layer(place.disk / "tiny-layout", gz, tar)
    with peers.Node(place.disk / "workers", single, "[differ]\nsandbox = true\n") as worker, peers.Node(
        place.disk / "none", single, "[differ]\nsandbox = false\n"
    ) as here:
        yield Table(
            "containerd unpacks, layers read in workers (disk)",
            "one layer with one file: what starting a worker costs",
            [
                worker.unpack("sandbox = true", "erolith", peer=False),
                here.unpack("sandbox = false", "erolith", peer=False),
            ],
            [Target("sandbox = true", "sandbox = false", 1.1)],
            rounds=4,
        )


def fresh(stack, disk, number, name, make, snapshotter, peer):
    """A contender that unpacks on a new filesystem each time, as the first pull of an image does: for some minutes ext4 passes
    over the inodes of files that were deleted, so that those who make many files pay for the run before."""
    contender = Contender(name, [], peer=peer)
    last = stack.enter_context(contextlib.ExitStack())

    def before():
        last.close()
        directory = last.enter_context(latency.filesystem(disk, f"fresh-{number}"))
        unpack = last.enter_context(make(directory / "node")).unpack(name, snapshotter, peer)
        unpack.before()
        contender.command, contender.servers = unpack.command, unpack.servers

    contender.before = before
    return contender


def tiny_tables(place, _inputs):
    """An image of 120 layers with one small file each: what a layer costs besides its bytes."""
    layout = layouts.tiny_layers(place.disk / "tiny-layers", 120)
    with contextlib.ExitStack() as stack:
        contenders = [
            fresh(stack, place.disk, number, *contender)
            for number, contender in enumerate(
                [
                    ("erolith serve", lambda at: peers.Node(at, layout), "erolith", False),
                    ("containerd, overlayfs", lambda at: peers.Containerd(at, layout, []), "overlayfs", True),
                    ("containerd, EROFS differ", lambda at: peers.Containerd(at, layout, []), "erofs", True),
                ]
            )
        ]
        yield Table(
            "containerd unpacks many tiny layers (disk)",
            "120 layers with one file each, on a new filesystem",
            contenders,
            [Target("erolith serve", "containerd, overlayfs", 1.2)],
        )


def parallel_tables(place, _inputs):
    """What containerd 2.2 and later ask for with `max_concurrent_unpacks`, from a client that sends the same calls."""
    for title, layout in (
        ("the real image, four layers", place.cache / "real-image-full"),
        ("120 layers with one file each", layouts.tiny_layers(place.disk / "parallel-tiny", 120)),
    ):
        with peers.Node(place.disk / "parallel-node", layout) as node:
            client = node.inside(shutil.which("layer-unpacker"), "--address", node.socket, "--layout", layout)

            def unpack(name, count, node=node, client=client):
                def forget():
                    # Snapshots that are not there are no failure: there are none before the first run.
                    subprocess.run([*map(str, client), "--remove"], capture_output=True, check=False)

                return Contender(name, [*client, "--parallel", count], before=forget, servers=node.servers)

            yield Table(
                "Layers unpacked side by side (disk)",
                title,
                [unpack("one layer at a time", 1), unpack("two at a time", 2), unpack("four at a time", 4)],
                [Target(f"{count} at a time", "one layer at a time", 1.0) for count in ("two", "four")],
                rounds=2,
            )


def memory_tables(place, _inputs):
    """What reading the files of an image leaves in memory, and how long it takes."""
    yield memory.table(place)


def latency_tables(place, _inputs):
    """Calls to erolith's daemon and to containerd's EROFS snapshotter, served in the same way to the same client."""
    layer = place.disk / "tiny.erofs"
    empty = place.disk / "empty"
    empty.mkdir()
    subprocess.run(["mkfs.erofs", "--quiet", layer, empty], check=True, stdout=subprocess.DEVNULL)
    servers = {
        "erolith serve": latency.erolith,
        "containerd's EROFS snapshotter": latency.reference,
    }
    yield latency.table(place.disk, layer, servers)


def commit_tables(place, _inputs):
    """What a container wrote becomes a layer."""
    yield from commit.tables(place)


GROUPS = {
    "tar": tar_tables,
    "disk": disk_tables,
    "compressed": compressed_tables,
    "image": image_tables,
    "check": check_tables,
    "mount": mount_tables,
    "node": node_tables,
    "protect": protect_tables,
    "native": native_tables,
    "sandbox": sandbox_tables,
    "tiny": tiny_tables,
    "parallel": parallel_tables,
    "memory": memory_tables,
    "latency": latency_tables,
    "commit": commit_tables,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default=",".join(GROUPS), help=f"groups, of {','.join(GROUPS)}")
    parser.add_argument("--inputs", default="", help="only inputs whose name contains this")
    parser.add_argument("--peers-only", action="store_true", help="leave erolith out")
    parser.add_argument("--output", type=Path, required=True, help="the report")
    options = parser.parse_args()
    os.environ["PATH"] = f"{os.environ['EROLITH_CACHE']}/bin:{os.environ['PATH']}"
    place = Place(*(Path(os.environ[name]) for name in ("BENCH_RAM", "BENCH_DISK", "EROLITH_CACHE")))

    lines, group = [report.machine(options.runs)], None
    inputs = list(make_inputs(place, options.inputs))
    for name in options.only.split(","):
        if options.peers_only and name in ("check", "mount", "node", "protect", "sandbox", "tiny", "parallel", "memory", "latency", "commit"):
            continue
        for table in GROUPS[name](place, inputs):
            if options.peers_only:
                table.contenders = [c for c in table.contenders if "erolith " not in str(c.command)]
            results = run_table(table, options.runs, place.ram) if table.contenders else []
            if table.group != group:
                group = table.group
                lines.append(f"## {group}\n")
            lines.append(table.text or report.table(table, results))
            # After each table, so that a failure late in the hour loses little.
            options.output.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
