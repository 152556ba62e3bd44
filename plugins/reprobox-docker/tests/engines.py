"""Engines and what stands for one: a Podman of one's own, and sockets that pass on, count, or speak an old language."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from reprobox.testing import running

DOCKER_SOCKET = "/var/run/docker.sock"


@contextlib.contextmanager
def podman(folder: Path, *, user: int | None = None) -> Iterator[str]:
    """The address of a Podman that keeps everything in ``folder``; rootless if ``user`` is another than root."""
    path = folder / "podman.sock"
    runtime = ["--runtime", "runc"] if shutil.which("runc") else []
    places = ["--root", str(folder / "storage"), "--runroot", str(folder / "run"), "--tmpdir", str(folder / "tmp")]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder / "runtime")}
    (folder / "runtime").mkdir(mode=0o700)
    becoming = user is not None and os.geteuid() == 0
    options = {"user": user, "group": user, "extra_groups": []} if becoming else {}
    if becoming:
        for place in (folder, folder / "runtime"):
            os.chown(place, user, user)
    with (folder / "log").open("wb") as log:
        service = subprocess.Popen(
            ["podman", *runtime, *places, "--cgroup-manager", "cgroupfs", "system", "service", "--time=0", f"unix://{path}"],
            env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, **options,
        )  # fmt: skip
        try:
            end = time.monotonic() + 30
            while not path.exists():
                assert service.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < end
                time.sleep(0.05)
            yield f"unix://{path}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(service.pid, signal.SIGTERM)  # without root, Podman becomes two processes
            service.wait(30)
            for process in running(str(folder)):  # those that watched commands stay for another five minutes
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            argv = ["podman", *places, "system", "reset", "--force"]
            if user is not None:  # ids of its user namespace own what it kept
                argv = ["podman", "unshare", "rm", "-rf", str(folder / "storage"), str(folder / "run")]
            subprocess.run(argv, env=environment, cwd="/", capture_output=True, check=False, **options)


class Passing:
    """A socket that passes everything on to the real engine, and counts what it is sent."""

    def __init__(self, path: Path | None = None) -> None:
        self.sent = 0
        if path is None:
            self._server = socket.create_server(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        else:
            self._server = socket.socket(socket.AF_UNIX)
            self._server.bind(str(path))
            self._server.listen(64)
            self.address = f"unix://{path}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as engine:
            engine.connect(DOCKER_SOCKET)
            back = threading.Thread(target=self._pass, args=(engine, client, False), daemon=True)
            back.start()
            self._pass(client, engine, True)
            back.join()

    def _pass(self, source: socket.socket, target: socket.socket, count: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.sent += len(data) if count else 0
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


class _OldEngine(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        answer = {"ApiVersion": "1.30", "MinAPIVersion": "1.12", "Version": "17.06.0-ce", "Components": []}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass

    def address_string(self) -> str:
        return "a socket"


@contextlib.contextmanager
def old_engine(path: Path) -> Iterator[str]:
    """The address of an engine that speaks the language of 2017."""
    with socketserver.ThreadingUnixStreamServer(str(path), _OldEngine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"unix://{path}"
        server.shutdown()
