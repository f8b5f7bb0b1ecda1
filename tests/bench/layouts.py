"""OCI image layouts, as little of them as the measurements need."""

import gzip
import hashlib
import io
import json
import tarfile

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
# How containerd 2.1 knows an EROFS layer: by the end of its media type.
NATIVE = "application/vnd.oci.image.layer.v1.erofs"


def blob(layout, digest):
    return layout / "blobs" / digest.replace(":", "/")


def layers(layout):
    """The files of the layers of the layout's one image, lowest first."""
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(layout, index["manifests"][0]["digest"]).read_text())
    return [blob(layout, layer["digest"]) for layer in manifest["layers"]]


def digest_of(path):
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def put(layout, media_type, value):
    data = json.dumps(value).encode()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    blob(layout, digest).write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def single_layer(layout, file, decoded, media_type=LAYER):
    """Makes a layout with an image `latest` of one layer: `file`, which is `decoded` uncompressed."""
    (layout / "blobs/sha256").mkdir(parents=True)
    digest = digest_of(file)
    blob(layout, digest).hardlink_to(file)
    layer = {"mediaType": media_type, "digest": digest, "size": file.stat().st_size}
    return finish(layout, [layer], [digest_of(decoded)])


def tiny_layers(layout, count):
    """Makes a layout with an image `latest` of `count` layers, each with one small file in the same directory."""
    (layout / "blobs/sha256").mkdir(parents=True)
    layers, diff_ids = [], []
    for number in range(count):
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            folder = tarfile.TarInfo("files")
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
            content = f"{number}\n".encode()
            member = tarfile.TarInfo(f"files/{number}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        diff_ids.append("sha256:" + hashlib.sha256(archive.getvalue()).hexdigest())
        data = gzip.compress(archive.getvalue(), mtime=0)
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        blob(layout, digest).write_bytes(data)
        layers.append({"mediaType": LAYER, "digest": digest, "size": len(data)})
    return finish(layout, layers, diff_ids)


def finish(layout, layers, diff_ids):
    """Writes the documents of an image whose layers are there."""
    rootfs = {"type": "layers", "diff_ids": diff_ids}
    config = put(layout, CONFIG, {"architecture": "amd64", "os": "linux", "rootfs": rootfs})
    manifest = put(layout, MANIFEST, {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers})
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    return layout
