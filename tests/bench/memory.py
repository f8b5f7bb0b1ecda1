"""Page cache and time of reading files of an image: erolith's mounts beside a directory and overlayfs.

Each way of mounting is measured cold and warm in turns. What is in memory is asked of the kernel, of the files that are
read and of what lies under them: the image and the loop device.
"""

import ctypes
import os
import random
import statistics
import struct
import subprocess
import time
from pathlib import Path

import layouts
from measure import Table

LIBC = ctypes.CDLL(None, use_errno=True)
CACHESTAT = 451
PAGE = os.sysconf("SC_PAGE_SIZE")
MB = 1_000_000
# What lies under the files that were read may add this part of them: metadata of the image.
BOUND = 1.1
# Of each way, in turns: reading from a disk has no steady pace.
RUNS = 5
READS, MODULES = 4000, "numpy, numpy.linalg, json, email, asyncio, http.client, sqlite3"


def resident(path):
    """Bytes of a file or block device that are in memory."""
    span, out = ctypes.create_string_buffer(struct.pack("QQ", 0, 0), 16), ctypes.create_string_buffer(40)
    file = os.open(path, os.O_RDONLY)
    try:
        if LIBC.syscall(CACHESTAT, file, span, out, 0):
            raise OSError(ctypes.get_errno(), f"cachestat {path}")
    finally:
        os.close(file)
    return struct.unpack("5Q", out.raw)[0] * PAGE


def resident_below(tree):
    files = (os.path.join(folder, name) for folder, _, names in os.walk(tree) for name in names)
    return sum(resident(file) for file in files if os.path.isfile(file) and not os.path.islink(file))


def run(*command):
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout


def read_whole(path):
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def sequential(tree):
    for path in sorted((tree / "bench/large").iterdir()):
        read_whole(path)


def at_random(tree):
    numbers = random.Random(1)
    file = os.open(tree / "bench/random", os.O_RDONLY)
    blocks = os.fstat(file).st_size // 4096
    for _ in range(READS):
        os.pread(file, 4096, numbers.randrange(blocks) * 4096)
    os.close(file)


def small(tree):
    for folder, _, names in os.walk(tree / "bench/small"):
        for name in names:
            read_whole(os.path.join(folder, name))


def imports(tree):
    run("chroot", tree, "python3", "-c", f"import {MODULES}")


WORK = {"200 MB": sequential, f"{READS} x 4 KiB": at_random, "5,000 files": small, "python3": imports}


def make_tree(place):
    """The real image without its last layer, and files to read."""
    tree = place.disk / "memory-tree"
    tree.mkdir()
    for blob in layouts.layers(place.cache / "real-image-full")[:3]:
        run("tar", "-xzf", blob, "-C", tree)
    made, numbers = tree / "bench", random.Random(2)
    for folder in ("large", "small"):
        (made / folder).mkdir(parents=True)
    for number in range(4):
        (made / f"large/{number}").write_bytes(os.urandom(50 * MB))
    (made / "random").write_bytes(os.urandom(100 * MB))
    for number in range(5000):
        (made / f"small/{number // 100}").mkdir(exist_ok=True)
        (made / f"small/{number // 100}/{number}").write_bytes(numbers.randbytes(numbers.randrange(500, 16000)))
    return tree


class Overlay:
    """containerd's overlayfs snapshotter has files in directories."""

    def __init__(self, tree, empty):
        self.tree, self.empty, self.files = tree, empty, tree

    def mount(self, target):
        run("mount", "-t", "overlay", "-o", f"ro,lowerdir={self.tree}:{self.empty}", "overlay", target)

    def behind(self):
        return 0


class Image:
    def __init__(self, image, target, *options):
        self.image, self.options, self.files, self.loops = image, options, target, []

    def mount(self, target):
        run("erolith", "mount", "--no-check", *self.options, self.image, target)
        source = run("findmnt", "--noheadings", "--output", "SOURCE", target).strip()
        self.loops = [source] if source.startswith("/dev/loop") else []

    def behind(self):
        return sum(map(resident, [self.image, *self.loops]))


class Buffered(Image):
    """What erolith does not do: the kernel's mount from a file, without direct I/O."""

    def mount(self, target):
        # mount(8) would make a loop device.
        if LIBC.mount(os.fsencode(self.image), os.fsencode(target), b"erofs", 1, b""):
            raise OSError(ctypes.get_errno(), "mount")


def forget():
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def measure(way, target):
    forget()
    row = {}

    def timed(name, work):
        start = time.perf_counter()
        work()
        row[name] = time.perf_counter() - start

    timed("mount", lambda: way.mount(target))
    for name, work in WORK.items():
        timed(f"{name} cold", lambda work=work: work(target))
        timed(f"{name} warm", lambda work=work: work(target))
    row["read"], row["behind"] = resident_below(way.files), way.behind()
    run("umount", target)
    return row


def table(place):
    tree = make_tree(place)
    image, target, empty = place.disk / "memory.erofs", place.disk / "memory-mount", place.disk / "memory-empty"
    run("erolith", "mkfs", "--quiet", image, tree)
    target.mkdir()
    empty.mkdir()
    ways = {
        "erolith mount": Image(image, target),
        "erolith mount --loop": Image(image, target, "--loop"),
        "EROFS from a file, buffered": Buffered(image, target),
        "overlayfs": Overlay(tree, empty),
    }
    rows = {name: [] for name in ways}
    for _ in range(RUNS):
        for name, way in ways.items():
            rows[name].append(measure(way, target))
    return Table("Page cache and time of reading an image (disk)", "cold and warm", [], text=text(rows))


def text(rows):
    times = [name for name in next(iter(rows.values()))[0] if name not in ("read", "behind")]
    medians = {name: {key: statistics.median(row[key] for row in each) for key in each[0]} for name, each in rows.items()}
    lines = [
        "**Seconds, median; MB in memory after all of it: of the files, and of the image and its loop device**",
        "",
        "| | " + " | ".join(times) + " | files MB | behind MB | sum / files |",
        "|---" * (len(times) + 4) + "|",
    ]
    for name, row in medians.items():
        seconds = " | ".join(f"{row[key]:.3f}" for key in times)
        ratio = (row["read"] + row["behind"]) / row["read"]
        lines.append(f"| {name} | {seconds} | {row['read'] / MB:.0f} | {row['behind'] / MB:.0f} | {ratio:.2f} |")
    ours = medians["erolith mount"]
    ratio = (ours["read"] + ours["behind"]) / ours["read"]
    verdict = "met" if ratio <= BOUND else "**missed**"
    lines += ["", f"- {verdict}: memory of *erolith mount* is {ratio:.3f} of what was read, at most {BOUND} wanted", ""]
    return "\n".join(lines)
