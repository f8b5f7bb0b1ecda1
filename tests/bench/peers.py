"""The peers of erolith at their best: mkfs.erofs in its fastest mode, and containerd with its EROFS differ."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

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

    def config(self):
        quoted = ", ".join(f'"{option}"' for option in self.mkfs_options)
        return f'[plugins."io.containerd.differ.v1.erofs"]\nmkfs_options = [{quoted}]\n'

    def __enter__(self):
        extra = self.directory.with_suffix(".toml")
        extra.write_text(self.config())
        self.must("start", extra)
        self.servers = (int(self.must("pid")),)
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

    def inside(self, *command):
        """The command that runs another one as containerd sees the world."""
        return ["nsenter", "--target", self.must("world").strip(), "--mount", "--pid", "--root", "--wd", *command]

    def ctr(self, *arguments):
        return self.inside("ctr", "--address", self.directory / "sock", *arguments)

    def unpack(self, name, snapshotter, peer=True):
        """Unpacks every layer and mounts the result, which takes some milliseconds of the whole."""
        target = f"/run/{snapshotter}-image"
        self.must("exec", "mkdir", "-p", target)
        command = self.ctr("images", "mount", "--snapshotter", snapshotter, "image:latest", target)
        return Contender(name, command, before=lambda: self.forget(snapshotter, target), servers=self.servers, peer=peer)

    def run(self, name, snapshotter, peer=True):
        """Runs a container of the unpacked image from beginning to end, with nothing else to be written."""
        return Contender(name, self.run_command(snapshotter), before=os.sync, servers=self.servers, peer=peer)

    def first_run(self, name, snapshotter, peer=True):
        """The same when the image has just been unpacked, and what that left to be written is on its way."""
        unpack = self.unpack(name, snapshotter)

        def before():
            unpack.before()
            subprocess.run(unpack.command, check=True, stdout=subprocess.DEVNULL)

        return Contender(name, self.run_command(snapshotter), before=before, servers=self.servers, peer=peer)

    def run_command(self, snapshotter):
        return self.ctr("run", "--rm", "--snapshotter", snapshotter, "image:latest", "bench", "true")

    def forget(self, snapshotter, target):
        """Takes back what unpacking did, down to the files."""
        snapshots = ("ctr", "snapshots", "--snapshotter", snapshotter)
        mounted, _, _ = self.script("exec", "mountpoint", "-q", target)
        if mounted:
            # Not `images unmount --rm`: that gives up the lease first, and a view that the garbage collector is quicker to
            # take stays a child of its parent in containerd's database, so that the parent can never be removed.
            self.must("exec", "umount", target)
            self.must(*snapshots, "rm", target)
            self.must("ctr", "leases", "delete", target)
        # Leaf after leaf; the garbage collector may be quicker, so that a failure means nothing.
        while rows := [line.split() for line in self.must(*snapshots, "ls").splitlines()[1:]]:
            parents = {row[1] for row in rows}
            for row in rows:
                if row[0] not in parents:
                    self.script(*snapshots, "rm", row[0])
        # Deleting a lease so makes the garbage collector run now, not in the next measurement.
        self.must("ctr", "leases", "create", "--id", "collect")
        self.must("ctr", "leases", "delete", "--sync", "collect")


PLUGINS = """
[proxy_plugins.erolith]
type = "snapshot"
address = "{socket}"
[proxy_plugins.erolith-diff]
type = "diff"
address = "{socket}"
[plugins."io.containerd.service.v1.diff-service"]
default = ["erolith-diff", "walking"]
"""

DAEMON = """
root = "{directory}/erolith"
state = "/run/erolith"
address = "{socket}"
[containerd]
address = "{directory}/sock"
root = "{directory}/root"
"""


class Node(Containerd):
    """The same with erolith's daemon as its snapshotter and differ; `more` is configuration of it."""

    def __init__(self, directory, layout, more=""):
        super().__init__(directory, layout, [])
        self.socket, self.more = directory / "plugin/sock", more

    def config(self):
        return PLUGINS.format(socket=self.socket)

    def __enter__(self):
        erolith = Path(shutil.which("erolith"))
        os.environ["EROLITH_SHARED"] = str(erolith.parent)
        super().__enter__()
        config = self.directory / "erolith.toml"
        config.write_text(DAEMON.format(directory=self.directory, socket=self.socket) + self.more)
        with open(self.directory / "erolith.log", "wb") as log:
            command = self.inside(erolith, "serve", "--config", config)
            self.daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while not self.socket.exists():
            if self.daemon.poll() is not None:
                sys.exit((self.directory / "erolith.log").read_text())
            time.sleep(0.01)
        child = Path(f"/proc/{self.daemon.pid}/task/{self.daemon.pid}/children").read_text()
        self.servers += (int(child),)
        return self
