"""Commits of what a container wrote: erolith beside containerd's walking differ, which its overlayfs snapshotter has."""

import peers
from measure import Contender, Table, Target

TAR = "application/vnd.oci.image.layer.v1.tar"
EROFS = "application/vnd.erofs.layer.v1"

# What is written, by name. Both find their files in the image.
CHANGES = {
    "few": "for file in $(find usr/lib -type f -size -64k | sort | head -n 10); do echo changed >>$file; done",
    "many": """mkdir opt/copy
        for part in usr/lib/python3/dist-packages/*; do
            cp -a $part opt/copy/
            [ $(du -sm opt/copy | cut -f1) -lt 200 ] || break
        done""",
}


class Changed:
    """A server that has the image, and an active snapshot of it for each kind of change."""

    def __init__(self, server, snapshotter):
        self.server, self.snapshotter = server, snapshotter
        self.snapshots = ("ctr", "snapshots", "--snapshotter", snapshotter)
        target = f"/run/{snapshotter}-commit"
        server.must("exec", "mkdir", "-p", target)
        server.must("ctr", "images", "mount", "--snapshotter", snapshotter, "image:latest", target)
        server.must("ctr", "images", "unmount", target)
        rows = [line.split() for line in server.must(*self.snapshots, "ls").splitlines()[1:]]
        # Without what stood on them while they were unpacked.
        layers = [row for row in rows if row[-1] == "Committed"]
        parents = {row[1] for row in layers}
        (top,) = [row[0] for row in layers if row[0] not in parents]
        for name, script in CHANGES.items():
            server.must(*self.snapshots, "prepare", name, top)
            mount = server.must(*self.snapshots, "mounts", target, name)
            # fsconfig(2) cuts an option at 256 bytes.
            mount = f"export LIBMOUNT_FORCE_MOUNT2=always\n{mount}"
            server.must("exec", "sh", "-euc", f"{mount}\ncd {target}\n{script}\ncd /\numount {target}")

    def commit(self, name, changes, media_type, peer):
        command = self.server.ctr(*self.snapshots[1:], "diff", "--media-type", media_type, changes)
        return Contender(name, command, servers=self.server.servers, peer=peer)


def tables(place):
    image, small = place.cache / "real-image-full", place.cache / "real-image-small"
    with peers.Node(place.disk / "node", image) as node, peers.Node(place.disk / "small", small) as other, peers.Containerd(
        place.disk / "plain", image, []
    ) as plain:
        ours, ours_small = Changed(node, "erolith"), Changed(other, "erolith")
        walking = Changed(plain, "overlayfs")
        few, many = "10 changed files in 31,000, gzip", "200 MB of Python packages"
        theirs = "containerd, overlayfs and walking"
        yield Table(
            "Commits (disk)",
            few,
            [
                ours.commit("erolith serve", "few", f"{TAR}+gzip", False),
                ours_small.commit("erolith serve, 6,000 files", "few", f"{TAR}+gzip", False),
                walking.commit(theirs, "few", f"{TAR}+gzip", True),
            ],
            [Target("erolith serve", theirs, 0.1), Target("erolith serve", "erolith serve, 6,000 files", 1.2)],
            rounds=3,
        )
        yield Table(
            "Commits (disk)",
            many,
            [
                ours.commit("erolith serve, gzip", "many", f"{TAR}+gzip", False),
                ours.commit("erolith serve, zstd", "many", f"{TAR}+zstd", False),
                ours.commit("erolith serve, tar", "many", TAR, False),
                ours.commit("erolith serve, EROFS", "many", EROFS, False),
                walking.commit(f"{theirs}, gzip", "many", f"{TAR}+gzip", True),
                walking.commit(f"{theirs}, tar", "many", TAR, True),
            ],
            [
                Target("erolith serve, gzip", f"{theirs}, gzip", 0.5),
                Target("erolith serve, EROFS", f"{theirs}, tar", 1.0),
            ],
        )
        yield offline(place, node)


def offline(place, node):
    """The same packages without containerd, through whose sockets an uncompressed layer goes twice."""
    snapshots = node.directory / "erolith/snapshots"
    (upper,) = [path.parent.parent for path in snapshots.glob("*/fs/opt/copy")]
    # Those of later layers have larger numbers.
    images = sorted(snapshots.glob("*/layer.erofs"), key=lambda path: int(path.parent.name), reverse=True)
    lowers = [word for path in images for word in ("--lower", path)]
    out, archive = place.disk / "layer.erofs", place.disk / "layer.tar"

    def commit(name, *options):
        words = ["erolith", "commit", "--quiet", *options, "--upper", upper, *lowers, "--output", out]
        return Contender(name, words, output=out)

    baseline = f"tar -C {upper} -cf - . | tee {archive} | sha256sum; sync {archive}"
    theirs = "tar, sha256sum and sync"
    return Table(
        "Commits without containerd (disk)",
        "200 MB of Python packages",
        [
            commit("erolith commit --upper, EROFS", "--format", "erofs"),
            commit("erolith commit --upper, tar", "--compression", "none"),
            commit("erolith commit --upper, gzip"),
            Contender(theirs, baseline, output=archive, peer=True),
        ],
        [Target("erolith commit --upper, EROFS", theirs, 1.0), Target("erolith commit --upper, tar", theirs, 1.0)],
        rounds=3,
    )
