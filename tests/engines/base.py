"""A small Debian base, made by mmdebstrap: a peer's work, so that no test checks reprobox against itself."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.engines import archives


def minbase(path: Path) -> Path:
    """The root file system of Debian bookworm's minbase as a tar at ``path``, made if it is not there yet."""
    if not path.exists():
        staged = path.with_name(f".{os.getpid()}-{path.name}")
        sources = "".join(f"{archive.source}\n" for archive in archives.configured())
        argv = ["mmdebstrap", "--quiet", "--variant=minbase", "bookworm", str(staged), "-"]
        done = subprocess.run(argv, input=sources, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            raise RuntimeError(f"mmdebstrap failed: {done.stderr[-2000:]}")
        staged.rename(path)
    return path


def oci_layout(tar: Path, layout: Path, *, name: str = "latest") -> Path:
    """An OCI image layout with one gzip layer, written by hand from the specification."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": f"sha256:{digest}", "size": len(data)}

    plain = tar.read_bytes()
    layer = blob(gzip.compress(plain, compresslevel=1, mtime=0), "layer.v1.tar+gzip")
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2024-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["bash"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(plain).hexdigest()}"]},
        "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "mmdebstrap"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), "config.v1+json"),
        "layers": [layer],
    }
    entry = blob(json.dumps(manifest).encode(), "manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": name}
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return layout
