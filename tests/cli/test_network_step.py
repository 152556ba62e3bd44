"""A step that uses the network: unpinned until it is sealed, and held to its seal afterwards."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.userns

LAYER = """\
[[layers]]
name = "answer"
kind = "run"
network = true
script = '''
bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}; echo GET / >&3; echo >&3; cat <&3 >/answer; env >/dev/stderr; ls /run/reprobox'
'''
"""


class Answers(http.server.BaseHTTPRequestHandler):
    text = b"first\n"

    def do_GET(self) -> None:
        self.wfile.write(self.text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[int]:
    Answers.text = b"first\n"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield served.server_address[1]
        served.shutdown()


@pytest.fixture
def asking(fresh, server):
    fresh.add(LAYER.format(port=server))
    locked = fresh("lock")
    assert locked.status == 0
    assert locked.out.splitlines()[-1] == (
        "not pinned: layer 'answer' uses the network; `reprobox lock --seal` pins what it makes"
    )
    return fresh


def test_it_is_unpinned_until_it_is_sealed(asking):
    assert "facts.unpinned = true" in asking.lock.read_text()
    assert "not pinned: it uses the network, and has no seal" in asking("graph").out
    assert asking("lock", "--json").json["unpinned"] == ["answer"]
    made = asking("realize")
    (line,) = [line for line in made.out.splitlines() if line.startswith("answer")]
    assert line.endswith("not pinned: `reprobox lock --seal` pins it")
    assert asking.process("run", "--", "cat", "/answer").out == "first\n"
    sealed = asking("lock", "--seal")
    assert (sealed.status, "not pinned" in sealed.out) == (0, False)
    assert asking("lock", "--json").json["unpinned"] == []
    assert "not pinned" not in asking("graph").out + asking("realize").out
    pinned = {layer["name"]: layer["pinned"] for layer in asking("realize", "--json").json["layers"]}
    assert set(pinned.values()) == {True}


def test_a_rebuild_that_differs_from_the_seal_is_refused(asking, tmp_path, monkeypatch):
    assert asking("lock", "--seal").status == 0
    monkeypatch.setenv("REPROBOX_STORE", str(tmp_path / "other"))
    assert asking("realize").status == 0
    Answers.text = b"second\n"
    monkeypatch.setenv("REPROBOX_STORE", str(tmp_path / "third"))
    told = asking("realize")
    assert told.status == 5
    assert "layer 'answer' is not the sealed one" in told.err
    assert "the layer's step uses the network, where something changed" in told.err


def test_what_it_sees_of_the_host_does_not_stay(asking, monkeypatch, store):
    monkeypatch.setenv("https_proxy", "http://me:proxy-password@127.0.0.1:9")
    assert asking("realize").status == 0
    (log,) = [path.read_text() for path in (store / "logs").iterdir() if "SSL_CERT_FILE" in path.read_text()]
    if Path("/etc/ssl/certs/ca-certificates.crt").exists():
        assert "CURL_CA_BUNDLE=/run/reprobox/certificates.pem" in log
        assert log.splitlines()[-1] == "certificates.pem"
    assert "https_proxy=http://me:" in log
    layer = next(path for path in (store / "layers").iterdir() if (path / "tree" / "answer").exists())
    assert os.listdir(layer / "tree") == ["answer"]


def test_offline_it_is_not_begun(asking, store):
    told = asking("realize", "--offline")
    assert told.status == 6
    assert "layer 'answer' uses the network while it is built, and it is not in the store" in told.err
    assert not list((store / "layers").iterdir())
    assert asking("realize").status == 0
    assert asking("realize", "--offline").status == 0


def test_a_failed_one_keeps_no_address_of_a_proxy(asking, monkeypatch, store):
    monkeypatch.setenv("https_proxy", "http://me:proxy-password@127.0.0.1:9")
    asking.edit("ls /run/reprobox", "exit 3")
    assert asking("lock").status == 0
    assert asking("realize").status == 1
    (request,) = store.glob("failed/*/request.json")
    assert "proxy-password" not in request.read_text()
