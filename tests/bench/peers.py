"""The peers of erolith at their best: mkfs.erofs in its fastest mode, and containerd with its EROFS differ."""

import os
import subprocess
import sys

from measure import Contender

# File data goes straight to its final place; every other mode of mkfs.erofs writes it twice.
FASTEST = "--tar=f -Enoinline_data --sort=none"

SCRIPT = f"{os.environ['EROLITH_REPO']}/testdata/containerd.sh"


def hashed(command):
    """A pipe that gives what `command` writes and digests it on the way, as a verifying consumer must."""
    return f"{command} | tee >(sha256sum >/dev/null)"


def containerd_version():
    return subprocess.run(
        ["chroot", f"{os.environ['EROLITH_CACHE']}/sid", "containerd", "--version"], capture_output=True, text=True
    ).stdout.strip()


class Containerd:
    """A containerd that has fetched an OCI layout's image and not unpacked it."""

    def __init__(self, directory, layout, mkfs_options):
        self.directory, self.layout, self.mkfs_options = directory, layout, mkfs_options

    def __enter__(self):
        extra = self.directory.with_suffix(".toml")
        quoted = ", ".join(f'"{option}"' for option in self.mkfs_options)
        extra.write_text(f'[plugins."io.containerd.differ.v1.erofs"]\nmkfs_options = [{quoted}]\n')
        self.must("start", extra)
        self.pid = int(self.must("pid"))
        archive = self.directory / "image.tar"
        subprocess.run(["tar", "-C", self.layout, "-cf", archive, "."], check=True)
        self.must("ctr", "images", "import", "--no-unpack", "--base-name", "image", archive)
        archive.unlink()
        return self

    def __exit__(self, *_):
        self.must("stop")

    def script(self, command, *args):
        done = subprocess.run([SCRIPT, command, self.directory, *args], capture_output=True, text=True, check=False)
        return done.returncode == 0, done.stdout, done.stderr

    def must(self, command, *args):
        done, out, errors = self.script(command, *args)
        if not done:
            sys.exit(f"containerd.sh {command} {args}: {errors}")
        return out

    def unpack(self, name, snapshotter):
        """Unpacks every layer and mounts the result, which takes some milliseconds of the whole."""
        target = f"/run/{snapshotter}"
        self.must("exec", "mkdir", target)
        enter = ["nsenter", "--target", self.pid, "--mount", "--pid", "--root", "--wd"]
        ctr = ["ctr", "--address", self.directory / "sock"]
        mount = ["images", "mount", "--snapshotter", snapshotter, "image:latest", target]
        return Contender(name, enter + ctr + mount, before=lambda: self.forget(snapshotter, target), server=self.pid, peer=True)

    def forget(self, snapshotter, target):
        """Takes back what unpacking did, down to the files."""
        snapshots = ("ctr", "snapshots", "--snapshotter", snapshotter)
        mounted, _, _ = self.script("exec", "mountpoint", "-q", target)
        if mounted:
            self.must("ctr", "images", "unmount", "--rm", "--snapshotter", snapshotter, target)
        # Leaf after leaf; the garbage collector may be quicker, so that a failure means nothing.
        while rows := [line.split() for line in self.must(*snapshots, "ls").splitlines()[1:]]:
            parents = {row[1] for row in rows}
            for row in rows:
                if row[0] not in parents:
                    self.script(*snapshots, "rm", row[0])
        # Deleting a lease so makes the garbage collector run now, not in the next measurement.
        self.must("ctr", "leases", "create", "--id", "collect")
        self.must("ctr", "leases", "delete", "--sync", "collect")
