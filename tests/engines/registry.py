"""A real OCI registry (docker-registry) on a free port of 127.0.0.1, kept for the whole test session."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_CONFIG = """\
version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {root}}}
  delete: {{enabled: true}}
http:
  addr: 127.0.0.1:{port}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Registry:
    """``host`` is ``127.0.0.1:PORT``; ``log`` is the server's own output."""

    host: str
    log: Path

    def reference(self, repository: str, tag: str = "latest") -> str:
        return f"{self.host}/{repository}:{tag}"

    def push(self, source: str, repository: str, tag: str = "latest", *options: str) -> str:
        """Copy an image there with skopeo; ``source`` as skopeo writes it (``oci:…``, ``docker-archive:…``)."""
        reference = self.reference(repository, tag)
        argv = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", *options, source, f"docker://{reference}"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise RuntimeError(f"skopeo: {done.stderr}")
        return reference


@contextmanager
def serve(folder: Path) -> Iterator[Registry]:
    """Run a registry that keeps its blobs below ``folder``."""
    for _ in range(5):  # another program may take the free port between our looking and the server's binding
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        config = folder / "registry.yml"
        config.write_text(_CONFIG.format(root=folder / "blobs", port=port))
        registry = Registry(host=f"127.0.0.1:{port}", log=folder / "registry.log")
        with registry.log.open("wb") as log:
            server = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
        if _answers(server, registry.host):
            break
        _stop(server)
    else:
        raise RuntimeError(f"docker-registry does not start: {registry.log.read_text()[-2000:]}")
    try:
        yield registry
    finally:
        _stop(server)


def _answers(server: subprocess.Popen[bytes], host: str) -> bool:
    deadline = time.monotonic() + 20
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://{host}/v2/", timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
        else:
            return True
    return False


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(timeout=10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
