"""The peers of erolith at their best: mkfs.erofs in its fastest mode, and containerd with its EROFS differ."""

import os
import subprocess

from measure import Contender

# File data goes straight to its final place; every other mode of mkfs.erofs writes it twice.
FASTEST = "--tar=f -Enoinline_data --sort=none"

SCRIPT = f"{os.environ['EROLITH_REPO']}/testdata/containerd.sh"
MOUNTED = "/run/mounted"


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
        self.script("start", extra)
        self.pid = int(self.script("pid"))
        archive = self.directory / "image.tar"
        subprocess.run(["tar", "-C", self.layout, "-cf", archive, "."], check=True)
        self.script("ctr", "images", "import", "--no-unpack", "--base-name", "image", archive)
        archive.unlink()
        self.script("exec", "mkdir", MOUNTED)
        return self

    def __exit__(self, *_):
        self.script("stop")

    def script(self, command, *args):
        done = subprocess.run([SCRIPT, command, self.directory, *args], check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout

    def unpack(self, name, snapshotter):
        """Unpacks every layer and mounts the result, which takes some milliseconds of the whole."""
        enter = ["nsenter", "--target", self.pid, "--mount", "--pid", "--root", "--wd"]
        ctr = ["ctr", "--address", self.directory / "sock"]
        mount = ["images", "mount", "--snapshotter", snapshotter, "image:latest", MOUNTED]
        return Contender(name, enter + ctr + mount, before=lambda: self.forget(snapshotter), server=self.pid, peer=True)

    def forget(self, snapshotter):
        """Takes back what unpacking did, down to the files."""
        snapshots = ("ctr", "snapshots", "--snapshotter", snapshotter)
        if subprocess.run([SCRIPT, "exec", self.directory, "mountpoint", "-q", MOUNTED], check=False).returncode == 0:
            self.script("ctr", "images", "unmount", "--rm", "--snapshotter", snapshotter, MOUNTED)
        rows = [line.split() for line in self.script(*snapshots, "ls").splitlines()[1:]]
        parents = {row[0]: row[1] if len(row) == 3 else None for row in rows}
        while parents:
            leaf = next(key for key in parents if key not in parents.values())
            self.script(*snapshots, "rm", leaf)
            del parents[leaf]
        # Deleting a lease so makes the garbage collector run now, not in the next measurement.
        self.script("ctr", "leases", "create", "--id", "collect")
        self.script("ctr", "leases", "delete", "--sync", "collect")
