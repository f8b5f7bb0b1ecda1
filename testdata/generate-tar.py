#!/usr/bin/env python3
"""Writes a tar of generated files to standard output; the same bytes on every machine.

    generate-tar.py many    80,000 files of at most 8 KiB in 4,500 directories that have no entry of their own: 235 MB
    generate-tar.py large   40 files of 8 to 40 MiB, 400 of 64 KiB to 1 MiB and 3,000 small ones, with directories: 1.1 GB

Contents are slices of a pool that is half words, half noise, so that they compress about as programs and documents do.
"""

import io
import random
import sys
import tarfile

POOL_SIZE = 48 << 20
PAGE = 4096


def make_pool(rng):
    words = [bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(2000)]
    text = b" ".join(rng.choices(words, k=1 << 20))
    pages = []
    for _ in range(POOL_SIZE // PAGE // 2):
        at = rng.randrange(len(text) - PAGE)
        pages += [text[at : at + PAGE], rng.randbytes(PAGE)]
    return b"".join(pages)


def write_file(tar, rng, pool, name, size):
    info = tarfile.TarInfo(name)
    info.size = size
    info.mtime = 1_600_000_000 + rng.randrange(100_000_000)
    info.mode = rng.choice((0o644, 0o755))
    at = rng.randrange(len(pool) - size)
    tar.addfile(info, io.BytesIO(memoryview(pool)[at : at + size]))


def write_many(tar, rng, pool):
    for number in range(80_000):
        directory = number % 4489
        size = int(8192 * rng.random() ** 2.77)
        write_file(tar, rng, pool, f"usr/share/part{directory // 67:02}/group{directory % 67:02}/file-{number:05}", size)


def write_directory(tar, name):
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    info.mode = 0o755
    info.mtime = 1_600_000_000
    tar.addfile(info)


def write_large(tar, rng, pool):
    for name in ("opt", "opt/lib", "opt/share", "opt/share/doc"):
        write_directory(tar, name)
    for number in range(40):
        write_file(tar, rng, pool, f"opt/lib/lib{number:02}.so", rng.randint(8 << 20, 40 << 20))
        for part in range(10):
            write_file(tar, rng, pool, f"opt/share/data-{number:02}-{part}", rng.randint(64 << 10, 1 << 20))
        for part in range(75):
            write_file(tar, rng, pool, f"opt/share/doc/page-{number:02}-{part:02}", rng.randint(0, 32 << 10))


def main():
    write = {"many": write_many, "large": write_large}[sys.argv[1]]
    rng = random.Random(20260101)
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.GNU_FORMAT, bufsize=1 << 20) as tar:
        write(tar, rng, make_pool(rng))


if __name__ == "__main__":
    main()
