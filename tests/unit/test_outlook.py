"""Asking places without downloading, the rules by which they end, and the grade that comes of both."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reprobox.download.downloader import Downloader
from reprobox.download.transfer import Location, StatusError
from reprobox.errors import FetchError, OfflineError
from reprobox.layers.git import CommitProvider
from reprobox.lock import Input, request_digest
from reprobox.outlook.asking import HAS, LOST, MOST_ALONE, OTHER, REFUSED, SILENT, UNASKED, Asker, Supplier, heritage
from reprobox.outlook.grade import GRADES, Standing, grade, worst
from reprobox.outlook.rules import About, Term, rules
from reprobox.store import Store
from tests import servers
from tests.repositories import Repository, daemon
from tests.servers import Request, Server

DATA = b"some bytes" * 1000
TODAY = date(2026, 11, 22)


def quick(**options: object) -> Downloader:
    return Downloader(**{"backoff": 0.01, "timeout": 5.0, "attempts": 3} | options)  # type: ignore[arg-type]


def made(name: str = "a.deb", data: bytes = DATA, **facts: str) -> Input:
    return Input(type="deb", name=name, sha256=hashlib.sha256(name.encode()).hexdigest(), size=len(data), facts=facts)


class Places:
    """A provider that knows what it is told."""

    def __init__(self, name: str, *urls: str, alone: bool = False, fails: str = "") -> None:
        self.name, self.urls, self.alone, self.fails = name, urls, alone, fails

    def locate(self, inputs: Sequence[Input]) -> Mapping[str, Sequence[Location]]:
        if self.fails:
            raise FetchError(self.fails)
        return {
            item.sha256: [Location(url=url.replace("NAME", item.name), alone=self.alone) for url in self.urls]
            for item in inputs
        }


@pytest.fixture
def asker(store: Path, tmp_path: Path) -> Asker:
    said: list[str] = []
    return Asker(store=Store(store), downloader=quick(), project=tmp_path / "project", say=said.append)


def told(found: Sequence[Supplier]) -> list[tuple[str, str, str]]:
    return [(item.kind, item.state, item.said) for item in found]


# -- a question to a server --------------------------------------------------------------------------------------------


def test_a_server_is_asked_for_the_header_over_one_connection(server: Server) -> None:
    server.files["/a"] = DATA
    downloader = quick()
    for _ in range(3):
        assert downloader.ask(server.url("/a")).headers["content-length"] == str(len(DATA))
    assert [request.method for request in server.seen] == ["HEAD"] * 3
    with pytest.raises(StatusError, match="it answered 404 Not Found"):
        downloader.ask(server.url("/b"))
    with pytest.raises(OfflineError):
        quick(offline=True).ask(server.url("/a"))


@pytest.mark.parametrize("code", [403, 405, 501])
def test_a_server_that_refuses_such_questions_is_asked_for_one_byte(server: Server, code: int) -> None:
    server.files["/a"] = DATA
    sent: list[int] = []

    def fault(handler: servers.Handler) -> None:
        if handler.command == "HEAD":
            handler.send(code, {}, b"")
        else:
            sent.append(1)
            handler.send(206, {"Content-Range": f"bytes 0-0/{len(DATA)}"}, DATA[:1])

    server.always["/a"] = fault
    assert quick().ask(server.url("/a")).headers["content-length"] == str(len(DATA))
    assert server.seen[-1].headers["Range"] == "bytes=0-0"
    server.always["/b"] = servers.status(code)
    with pytest.raises(StatusError, match=f"it answered {code}"):
        quick().ask(server.url("/b"))


def test_a_file_of_this_machine_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(DATA)
    assert quick().ask((tmp_path / "a").as_uri()).headers["content-length"] == str(len(DATA))
    with pytest.raises(FetchError, match="No such file"):
        quick().ask((tmp_path / "b").as_uri())


# -- what places say ---------------------------------------------------------------------------------------------------


def test_every_answer_is_told_apart(server: Server, asker: Asker) -> None:
    server.files |= {"/a": DATA, "/other": DATA + b"x"}
    server.always |= {"/secret": servers.status(401), "/broken": servers.status(500)}
    paths = ("/a", "/gone", "/other", "/secret", "/broken")
    found = {}
    for path in paths:
        item = made(path[1:])
        (found[path],) = asker.suppliers([item], [Places("manifest", server.url(path))])[item.sha256]
    assert [found[path].state for path in paths] == [HAS, LOST, OTHER, REFUSED, SILENT]
    assert found["/other"].said == f"it has {len(DATA) + 1} bytes under this name where {len(DATA)} are locked"
    assert found["/broken"].said == "it answered 500 Internal Server Error"


def test_retry_after_is_obeyed_and_who_wants_more_is_left_alone(server: Server, asker: Asker) -> None:
    server.files |= {f"/p{number}": DATA for number in range(30)}
    server.faults["/p0"] = [servers.status(429, retry_after="1")]
    before = time.monotonic()
    item = made("p0")
    assert told(asker.suppliers([item], [Places("registry", server.url("/NAME"))])[item.sha256]) == [
        ("registry", HAS, "")
    ]
    assert time.monotonic() - before >= 1
    server.seen.clear()
    asker.jobs = 1
    server.always |= {f"/p{number}": servers.status(503, retry_after="7200") for number in range(30)}
    items = [made(f"p{number}") for number in range(1, 30)]
    found = asker.suppliers(items, [Places("registry", server.url("/NAME"))])
    assert {one.state for suppliers in found.values() for one in suppliers} == {SILENT}
    assert len(server.seen) == 1
    assert told(found[items[1].sha256])[0][2] == "it answered 503 Service Unavailable; it was left alone after that"


def test_a_server_that_cannot_be_reached_is_knocked_at_once(asker: Asker) -> None:
    items = [made(f"p{number}") for number in range(50)]
    before = time.monotonic()
    found = asker.suppliers(items, [Places("manifest", "http://127.0.0.1:9/NAME")])
    assert time.monotonic() - before < 5
    assert {one.state for suppliers in found.values() for one in suppliers} == {SILENT}


def test_a_snapshot_service_is_asked_one_by_one_and_first_for_what_nobody_has(server: Server, asker: Asker) -> None:
    items = [made(f"p{number}") for number in range(MOST_ALONE + 20)]
    server.files |= {f"/mirror/{item.name}": DATA for item in items[5:]}
    server.files |= {f"/snapshot/{item.name}": DATA for item in items}
    asker.jobs = 8
    providers = [
        Places("package archives", server.url("/mirror/NAME")),
        Places("package archives", server.url("/snapshot/NAME"), alone=True),
    ]
    found = asker.suppliers(items, providers)
    asked = [request.path for request in server.seen if request.path.startswith("/snapshot")]
    assert asked[:5] == [f"/snapshot/{item.name}" for item in items[:5]]
    assert len(asked) == MOST_ALONE + 5
    last = found[items[-1].sha256]
    assert [(one.kind, one.state) for one in last] == [("archive", HAS), ("snapshot", UNASKED)]
    assert last[1].said == "it asks for one connection, and was asked for 205 others: --thorough asks for all"
    asker.thorough = True
    found = asker.suppliers(items, providers)
    assert found[items[-1].sha256][1].state == HAS


def test_a_provider_that_fails_is_told_of_what_it_could_have_had(asker: Asker) -> None:
    deb = made()
    found = asker.suppliers(
        [deb], [Places("package archives", fails="no network"), Places("the Python index", fails="x")]
    )
    assert told(found[deb.sha256]) == [("archive", SILENT, "no network")]


def test_one_file_at_several_places_of_one_server_is_one_supplier(server: Server, asker: Asker) -> None:
    server.files["/new/a.deb"] = DATA
    item = made(archive="debian", path="a.deb")
    (one,) = asker.suppliers([item], [Places("package mirrors", server.url("/old/NAME"), server.url("/new/NAME"))])[
        item.sha256
    ]
    assert (one.state, one.authority, one.base) == (HAS, "archive debian", server.url("/new"))


def test_ten_thousand_inputs_take_seconds_of_work_here(asker: Asker, tmp_path: Path) -> None:
    (tmp_path / "p7").write_bytes(b"1")
    items = [made(f"p{number}", b"1") for number in range(10_000)]
    before = time.process_time()
    found = asker.suppliers(items, [Places("package mirrors", tmp_path.as_uri() + "/NAME")])
    assert time.process_time() - before < 10
    assert [found[item.sha256][0].state for item in items[6:9]] == [LOST, HAS, LOST]


# -- commits -----------------------------------------------------------------------------------------------------------


@pytest.mark.tool("git")
def test_a_repository_is_asked_for_a_commit_without_its_files(tmp_path: Path, store: Path, asker: Asker) -> None:
    repository = Repository(tmp_path / "git" / "r").write(big="x" * 100_000)
    old = repository.commit()
    new = repository.write(big="y").commit()
    with daemon(tmp_path / "git") as url:
        layer = SimpleNamespace(kind="git", options=SimpleNamespace(repository=f"{url}/r"))
        manifest: Any = SimpleNamespace(layers=[layer], code=SimpleNamespace(git=""))
        provider = CommitProvider(Store(store), manifest, tmp_path, offline=False)
        facts = {"source": request_digest(f"{url}/r")}
        commits = [
            Input(
                type="git",
                name=oid,
                sha256=hashlib.sha256(oid.encode()).hexdigest(),
                size=1,
                facts=facts | {"commit": oid},
            )
            for oid in (new, old, "1" * 40)
        ]
        found = asker.suppliers(commits, [provider])
        assert [[one.state for one in found[item.sha256]] for item in commits] == [[HAS], [HAS], [LOST]]
    found = asker.suppliers(commits[:1], [provider])
    assert [one.state for one in found[commits[0].sha256]] == [SILENT]  # nobody answers at that address


def test_software_heritage_is_asked_by_swhid(server: Server) -> None:
    commits = {name: hashlib.sha1(name.encode()).hexdigest() for name in ("there", "not")}
    items = [
        Input(type="git", name=name, sha256=hashlib.sha256(name.encode()).hexdigest(), size=1, facts={"commit": oid})
        for name, oid in commits.items()
    ]

    def answer(request: Request) -> tuple[int, Mapping[str, str], bytes]:
        known = {swhid: {"known": swhid.endswith(commits["there"])} for swhid in json.loads(request.body)}
        return 200, {"Content-Type": "application/json"}, json.dumps(known).encode()

    server.answers["/api/1/known/"] = answer
    found = heritage(items, [server.url("")], quick())
    assert [(one.kind, one.state) for item in items for one in found[item.sha256]] == [
        ("heritage", HAS),
        ("heritage", LOST),
    ]
    swhid = f"swh:1:rev:{commits['there']}"
    for strange in ("<html>", "[]", "{}", json.dumps({swhid: True}), json.dumps({swhid: {}})):
        server.answers["/api/1/known/"] = lambda _, strange=strange: (200, {}, strange.encode())
        (one,) = heritage(items[:1], [server.url("")], quick())[items[0].sha256]
        assert (one.state, one.said) == (SILENT, "its answer cannot be read")


# -- rules -------------------------------------------------------------------------------------------------------------


def ends(**about: object) -> list[tuple[str, date | None]]:
    return [(term.rule.id, term.until) for term in rules().terms(About(**about))]  # type: ignore[arg-type]


def test_what_rules_say_of_places() -> None:
    assert ends(place="archive", archive="debian-security", suite="bookworm-security") == [
        ("debian-superseded", None),
        ("debian-end-of-life", date(2028, 6, 30)),
    ]
    assert ends(place="archive", archive="a-vendor") == [("archive-owner", None)]
    assert ends(place="snapshot", archive="ubuntu", dated=date(2026, 1, 1)) == [("ubuntu-snapshot", date(2028, 1, 1))]
    assert ends(place="registry", image="docker.io/nvidia/cuda", tag="12.4.1-runtime-ubuntu20.04") == [
        ("cuda-images", date(2025, 11, 28)),
        ("cuda-images-any", None),
    ]
    assert ends(place="registry", image="docker.io/library/python") == [("registry-unreferenced", None)]
    assert ends(place="url", host="zenodo.org") == [("zenodo", None)]
    assert ends(place="url", host="example.org") == [("url-owner", None)]
    assert ends(place="vault") == []


def test_every_rule_says_where_it_stands_and_what_to_do() -> None:
    assert len({rule.id for rule in rules().rules}) == len(rules().rules)
    for rule in rules().rules:
        assert rule.says
        assert rule.do
        assert rule.source
        assert rule.read <= TODAY
        assert rule.ends != "life" or rule.product in rules().lives


# -- grades ------------------------------------------------------------------------------------------------------------


def standing(
    kind: str, state: str = HAS, *, authority: str = "", rule: str = "", until: date | None = None
) -> Standing:
    supplier = Supplier(kind=kind, place=kind, authority=authority or kind, state=state)
    terms = (Term(rule=rules().by_id(rule), until=until),) if rule else ()
    return Standing(supplier=supplier, terms=terms)


ARCHIVE = standing("archive", rule="debian-superseded")
SNAPSHOT = standing("snapshot", rule="debian-snapshot")


@pytest.mark.parametrize(
    ("letter", "standings"),
    [
        ("A", [standing("vault")]),
        ("A", [standing("project"), standing("archive", LOST)]),
        ("B", [ARCHIVE, SNAPSHOT]),
        ("C", [SNAPSHOT, standing("archive", LOST)]),
        ("C", [ARCHIVE, standing("url", rule="url-owner")]),
        ("C", [SNAPSHOT, standing("archive", rule="debian-end-of-life", until=date(2027, 1, 1))]),
        ("D", [ARCHIVE]),
        ("D", [ARCHIVE, standing("mirror", authority="archive")]),
        ("D", [ARCHIVE, standing("snapshot", rule="ubuntu-snapshot", until=date(2026, 12, 1))]),
        ("E", [standing("store"), standing("archive", LOST)]),
        ("E", [standing("archive", LOST), standing("snapshot", SILENT)]),
        ("E", []),
        ("E", [standing("engine")]),
        ("F", [standing("project", LOST)]),
        ("E", [standing("vault", LOST)]),
        ("F", [standing("archive", LOST), standing("snapshot", OTHER), standing("vault", LOST)]),
    ],
)
def test_grades(letter: str, standings: list[Standing]) -> None:
    assert grade(standings, TODAY) == letter


def test_a_lock_is_as_good_as_its_worst_input() -> None:
    assert worst("ABA") == "B"
    assert worst([]) == "A"
    assert "".join(GRADES) == "ABCDEF"
