"""In which order places are asked for an input, what each of them says, and that a snapshot service is not hurried."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from reprobox.debian import provider as module
from reprobox.download.downloader import Downloader
from reprobox.errors import FetchError, IntegrityError
from reprobox.lock import Input, LockedLayer, LockedTarget
from reprobox.providers import Documents, HintProvider
from reprobox.session import Session
from tests.debs import make_deb
from tests.local import Local
from tests.servers import Handler, Server, half, status, wrong

MOMENT, SECONDS = "20260711T101637Z", 1783764997


@pytest.fixture
def session(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """Of a user with a mirror and a snapshot service, on a machine whose apt knows nothing."""
    monkeypatch.setattr(module, "host_sources", tuple)
    base = server.url("/").rstrip("/")
    config = tmp_path / "config.toml"
    config.write_text(
        f'[archives]\ndebian = ["{base}/mirror"]\n[snapshots]\ndebian = ["{base}/snapshot/archive/debian"]\n'
    )
    monkeypatch.setenv("REPROBOX_CONFIG", str(config))
    made = Local(tmp_path, tmp_path / "store", offline=False).session
    downloader = Downloader(backoff=0.01)
    return replace(
        made, downloader=downloader, documents=Documents(made.store, downloader), hints=HintProvider(made.store)
    )


def deb(folder: Path, name: str) -> tuple[Input, bytes]:
    data = make_deb(folder, name).read_bytes()
    facts = {
        "package": name,
        "version": "1.0",
        "archive": "debian",
        "suite": "bookworm",
        "path": f"pool/main/{name}.deb",
        "sha1": hashlib.sha1(data, usedforsecurity=False).hexdigest(),
    }
    return Input(
        type="deb", name=f"{name}.deb", sha256=hashlib.sha256(data).hexdigest(), size=len(data), facts=facts
    ), data


def known(session: Session, items: Sequence[Input]) -> None:
    """Have the session know the index that offered them, as a lock does."""
    facts = {"indices": [{"archive": "debian", "suite": "bookworm", "date": SECONDS}]}
    layer = LockedLayer(name="base", kind="bootstrap", recipe=1, request="", inputs=tuple(items), facts=facts)
    session.target = LockedTarget(name="default", platform="linux/amd64", layers=(layer,))


def places(item: Input) -> list[str]:
    """All that are asked, in order."""
    path, sha1 = item.facts["path"], item.facts["sha1"]
    return [
        f"/mirror/{path}",
        f"/seen/{item.name}",
        f"/snapshot/archive/debian/{MOMENT}/{path}",
        f"/snapshot/file/{sha1}/{item.name}",
    ]


@pytest.mark.parametrize("number", range(4))
def test_the_first_place_that_has_it_is_the_last_that_is_asked(session, server, tmp_path, number):
    item, data = deb(tmp_path, "jq")
    known(session, [item])
    session.hints.remember(item, [server.url(f"/seen/{item.name}")])
    server.files[places(item)[number]] = data
    session.fetch([item])
    assert session.store.blob(item.sha256).read_bytes() == data
    assert server.paths() == places(item)[: number + 1]
    assert {request.headers["User-Agent"].partition("/")[0] for request in server.seen} == {"reprobox"}


def test_a_miss_lists_every_place_and_what_it_said(session, server, tmp_path):
    item, data = deb(tmp_path, "jq")
    known(session, [item])
    session.hints.remember(item, [server.url(f"/seen/{item.name}")])
    base = server.url("/").rstrip("/")
    server.always[places(item)[0]] = status(403)
    server.files[places(item)[1]] = data + b"more"
    with pytest.raises(IntegrityError) as error:
        session.fetch([item])
    assert error.value.message == (
        "1 input could only be had with other bytes than those that are locked\n"
        f"  jq.deb (sha256 {item.sha256}, {item.size} bytes)\n"
        f"    debian ({base}/mirror): it answered 403 Forbidden\n"
        f"    {base}/seen/jq.deb: it has {item.size + 4} bytes where {item.size} are locked\n"
        f"    debian of {MOMENT} ({base}/snapshot/archive/debian): it answered 404 Not Found\n"
        f"    debian by hash ({base}/snapshot): it answered 404 Not Found"
    )
    del server.files[places(item)[1]]
    with pytest.raises(FetchError, match="1 input could not be had from any place"):
        session.fetch([item])


def test_wrong_bytes_in_one_place_are_no_reason_to_give_up(session, server, tmp_path):
    item, data = deb(tmp_path, "jq")
    known(session, [item])
    server.files[places(item)[0]] = data
    server.always[places(item)[0]] = wrong()
    server.files[places(item)[2]] = data
    server.faults[places(item)[2]] = [half()]
    session.fetch([item])
    assert session.store.blob(item.sha256).read_bytes() == data
    assert server.paths() == [places(item)[0], places(item)[2], places(item)[2]]  # broken off, and continued
    assert "Range" in server.seen[-1].headers


class Counting:
    """A fault that is none: it counts how many requests are answered at a time."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.lock = threading.Lock()
        self.answered: list[tuple[float, str]] = []

    def refusal(self, handler: Handler) -> None:
        self.answered.append((time.monotonic(), ""))
        status(429, retry_after="1")(handler)

    def __call__(self, handler: Handler) -> None:
        with self.lock:
            self.answered.append((time.monotonic(), handler.path))
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.03)
        with self.lock:
            self.now -= 1
        handler.plain()


def test_a_snapshot_service_is_asked_over_one_connection_and_left_alone_when_it_says_so(session, server, tmp_path):
    found = [deb(tmp_path, name) for name in ("a", "b", "c", "d", "e", "f")]
    items = [item for item, _ in found]
    known(session, items)
    counting = Counting()
    for item, data in found:
        server.files[places(item)[2]] = data
        server.always[places(item)[2]] = counting
    server.faults[places(items[0])[2]] = [counting.refusal]
    session.fetch(items)
    assert counting.most == 1
    refused = next(at for at, path in counting.answered if path == "")
    later = [at for at, path in counting.answered if path and at > refused]
    assert min(later) - refused >= 0.9  # nobody asked while it wanted to be left alone
    assert all(session.store.has_blob(item.sha256) for item in items)
