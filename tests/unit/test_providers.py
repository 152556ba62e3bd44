"""Locked files and the places that may have them: the right bytes reach the store, or the error says who did what."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from reprobox.download.transfer import Location
from reprobox.errors import FetchError, IntegrityError, OfflineError, ReproboxError
from reprobox.lock import Input
from reprobox.providers import Documents, HintProvider, fetch, obtain
from reprobox.store import Store
from tests import servers
from tests.servers import Server
from tests.unit.downloads import DATA, made, quick


class Places:
    """A provider that knows what it is told."""

    def __init__(self, *urls: str, name: str = "mirror", error: ReproboxError | None = None, **by_input: str) -> None:
        self.name = name
        self.urls = urls
        self.error = error
        self.asked: list[list[str]] = []

    def locate(self, inputs: Sequence[Input]) -> Mapping[str, Sequence[Location]]:
        self.asked.append([item.name for item in inputs])
        if self.error:
            raise self.error
        return {item.sha256: [Location(url=url.replace("NAME", item.name)) for url in self.urls] for item in inputs}


class Told:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.size = self.files = self.count = self.stopped = 0
        self.names: list[str] = []
        self.notes: list[str] = []

    def start(self, size: int, files: int) -> None:
        self.size, self.files = size, files

    def advance(self, count: int) -> None:
        assert threading.get_ident() == self.thread
        self.count += count

    def done(self, name: str) -> None:
        self.names.append(name)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stop(self) -> None:
        self.stopped += 1


# -- what works ----------------------------------------------------------------------------------------------------------


def test_many_files_arrive_in_the_store_and_are_not_asked_for_again(server: Server, kept: Store) -> None:
    contents = {f"p{number}.deb": random.Random(number).randbytes(5_000 + number) for number in range(40)}
    inputs = [made(name, data) for name, data in contents.items()]
    server.files = {f"/{name}": data for name, data in contents.items()}
    told = Told()
    fetch([*inputs, inputs[0]], [Places(server.url("/NAME"))], kept, downloader=quick(), progress=told)
    assert [kept.blob(item.sha256).read_bytes() for item in inputs] == list(contents.values())
    assert (told.size, told.files, told.count, told.stopped) == (sum(map(len, contents.values())), 40, told.size, 1)
    assert sorted(told.names) == sorted(contents)
    assert len(server.seen) == 40
    assert not list((kept.root / "partial").iterdir())

    fetch(inputs, [Places(server.url("/NAME"))], kept, downloader=quick(), offline=True)
    assert len(server.seen) == 40


def test_the_largest_comes_first(server: Server, kept: Store) -> None:
    files = {"small": b"1", "large": b"3" * 3000, "middle": b"2" * 200}
    server.files.update({f"/{name}": data for name, data in files.items()})
    inputs = [made(name, data) for name, data in files.items()]
    fetch(inputs, [Places(server.url("/NAME"))], kept, downloader=quick(), jobs=1)
    assert server.paths() == ["/large", "/middle", "/small"]


def test_an_empty_file_and_a_file_url(kept: Store, tmp_path: Path) -> None:
    (tmp_path / "mit leer zeichen").write_bytes(DATA)
    (tmp_path / "empty").write_bytes(b"")
    fetch([made()], [Places((tmp_path / "mit leer zeichen").as_uri())], kept, offline=True)
    fetch([made(data=b"")], [Places((tmp_path / "empty").as_uri())], kept, offline=True)
    assert kept.has_blob(made().sha256)
    assert kept.has_blob(made(data=b"").sha256)
    assert (tmp_path / "empty").exists()


# -- wrong bytes ---------------------------------------------------------------------------------------------------------


def test_wrong_bytes_are_not_published_and_the_next_place_is_tried(server: Server, kept: Store) -> None:
    server.files |= {"/bad": DATA, "/good": DATA}
    server.always["/bad"] = servers.wrong()
    told = Told()
    fetch([made()], [Places(server.url("/bad"), server.url("/good"))], kept, downloader=quick(), progress=told)
    assert kept.blob(made().sha256).read_bytes() == DATA
    assert server.seen[1].headers.get("Range") is None
    assert told.count == len(DATA)


def test_wrong_bytes_everywhere(server: Server, kept: Store) -> None:
    server.files |= {"/one": DATA, "/two": DATA[:-1]}
    server.always["/one"] = servers.wrong()
    item = made()
    with pytest.raises(IntegrityError) as caught:
        fetch([item], [Places(server.url("/one"), server.url("/two"))], kept, downloader=quick())
    assert caught.value.status == 5
    text = str(caught.value)
    assert f"a.deb (sha256 {item.sha256}, 300000 bytes)" in text
    assert f"{server.url('/one')}: it has other bytes: their sha256 is " in text
    assert f"{server.url('/two')}: it has 299999 bytes where 300000 are locked" in text
    assert not kept.has_blob(item.sha256)
    assert not kept.partial(item.sha256).exists()


# -- not there -----------------------------------------------------------------------------------------------------------


def test_all_that_is_missing_is_named_with_what_each_place_said(server: Server, kept: Store) -> None:
    inputs = [made(f"p{number}.deb", b"%d" % number) for number in range(8)]
    server.files["/p7.deb"] = b"7"
    broken = Places(name="snapshot", error=FetchError("it is closed today", hint="come back tomorrow"))
    nowhere = Places(name="index")
    with pytest.raises(FetchError) as caught:
        fetch(inputs, [broken, Places(server.url("/NAME")), nowhere], kept, downloader=quick())
    text = str(caught.value)
    assert text.startswith("7 inputs could not be had from any place\n  p0.deb (sha256 ")
    assert f"snapshot: it is closed today\n    {server.url('/p0.deb')}: it answered 404 Not Found\n" in text
    assert "  and 2 more" in text
    assert text.endswith("hint: come back tomorrow")
    assert caught.value.status == 1
    assert kept.has_blob(inputs[7].sha256)
    assert nowhere.asked == [[f"p{number}.deb" for number in range(7)]]


def test_no_provider_at_all(kept: Store) -> None:
    with pytest.raises(FetchError, match="no provider knows a place for it"):
        fetch([made()], [], kept)


def test_a_provider_is_only_asked_for_what_the_ones_before_lack(server: Server, kept: Store) -> None:
    server.files |= {"/first/a": b"a", "/second/a": b"a", "/second/b": b"b"}
    first, second = Places(server.url("/first/NAME")), Places(server.url("/second/NAME"))
    fetch([made("a", b"a"), made("b", b"b")], [first, second], kept, downloader=quick())
    assert second.asked == [["b"]]
    third = Places()
    fetch([made("b", b"b")], [third], kept)
    assert third.asked == []


def test_offline_opens_no_connection_and_names_what_is_missing(server: Server, kept: Store, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"b")
    server.files["/a.deb"] = DATA
    places = [Places(server.url("/NAME")), Places(tmp_path.as_uri() + "/NAME")]
    with pytest.raises(OfflineError) as caught:
        fetch([made(), made("b", b"b")], places, kept, downloader=quick(), offline=True)
    assert caught.value.status == 6
    assert "the store lacks 1 input\n  a.deb (sha256 " in str(caught.value)
    assert server.seen == []
    assert kept.has_blob(made("b", b"b").sha256)


def test_a_server_that_nobody_can_reach_is_given_up_once_for_all(kept: Store) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    inputs = [made(f"p{number}", b"%d" % number) for number in range(30)]
    told = Told()
    with pytest.raises(FetchError, match="it cannot be reached: Connection refused") as caught:
        fetch(
            inputs,
            [Places(f"http://127.0.0.1:{port}/NAME")],
            kept,
            downloader=quick(backoff=0.2),
            progress=told,
            jobs=2,
        )
    assert caught.value.hint is not None
    assert "network connection" in caught.value.hint
    assert len(told.notes) <= 4


# -- what is remembered ------------------------------------------------------------------------------------------------


def test_remembered_documents_are_revalidated(server: Server, kept: Store) -> None:
    server.files["/InRelease"] = b"one"
    documents, url = Documents(kept, quick()), server.url("/InRelease")
    assert [documents.get(url), documents.get(url), documents.get(url, fresh=False)] == [b"one"] * 3
    assert len(server.seen) == 2
    assert "If-None-Match" in server.seen[1].headers
    server.files["/InRelease"] = b"two"
    assert documents.get(url) == b"two"

    offline = Documents(kept, quick(offline=True))
    assert offline.get(url) == b"two"
    with pytest.raises(OfflineError):
        offline.get(server.url("/other"))


def test_a_torn_remembered_document_is_fetched_anew(server: Server, kept: Store) -> None:
    server.files["/InRelease"] = b"a longer text"
    documents, url = Documents(kept, quick()), server.url("/InRelease")
    documents.get(url)
    (memo,) = (kept.root / "memo" / "documents").iterdir()
    memo.write_bytes(memo.read_bytes()[:-4])
    assert documents.get(url) == b"a longer text"
    assert "If-None-Match" not in server.seen[1].headers


def test_hints_are_tried_first_and_hold_no_passwords(server: Server, kept: Store) -> None:
    server.files["/a"] = DATA
    hints = HintProvider(kept)
    hints.remember(made(), [server.url("/gone").replace("//", "//me:secret@"), server.url("/a")])
    hints.remember(made(), [])
    assert "secret" not in kept.memo("supply", made().sha256).read_text()
    later = Places()
    fetch([made()], [hints, later], kept, downloader=quick())
    assert server.paths() == ["/gone", "/a"]
    assert later.asked == []
    kept.memo("supply", made().sha256).write_bytes(b"\xff\x00torn\nhttps://half")
    assert [place.url for place in hints.locate([made()])[made().sha256]] == ["https://half"]


# -- other processes, interruption, a full disk --------------------------------------------------------------------------


_FETCH = textwrap.dedent(
    """
    import sys
    from reprobox.download.downloader import Downloader
    from reprobox.download.transfer import Location
    from reprobox.lock import Input
    from reprobox.providers import fetch
    from reprobox.store import Store
    from pathlib import Path

    store, url, sha256, size, *taken = sys.argv[1:]

    class Places:
        name = "mirror"
        def locate(self, inputs):
            for path in taken:  # somebody else needs the disk meanwhile
                Path(path).write_bytes(bytes(2 << 20))
            return {item.sha256: [Location(url=url)] for item in inputs}

    item = Input(type="deb", name="a.deb", sha256=sha256, size=int(size))
    print("ready", flush=True)
    fetch([item], [Places()], Store(Path(store)), downloader=Downloader(backoff=0.01))
    """
)


def started(kept: Store, url: str, item: Input, *prefix: str) -> subprocess.Popen[str]:
    argv = [*prefix, sys.executable, "-c", _FETCH, str(kept.root), url, item.sha256, str(item.size)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def waited(server: Server, count: int = 1) -> None:
    deadline = time.monotonic() + 20
    while len(server.seen) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_processes_that_want_the_same_file_share_one_download(server: Server, kept: Store) -> None:
    server.files["/a"] = DATA
    server.always["/a"] = servers.slow(0.1)
    processes = [started(kept, server.url("/a"), made()) for _ in range(3)]
    for process in processes:
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
    assert kept.blob(made().sha256).read_bytes() == DATA
    assert len(server.seen) == 1
    assert not list((kept.root / "partial").iterdir())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_download_leaves_only_what_can_be_continued(
    server: Server, kept: Store, how: signal.Signals
) -> None:
    server.files["/a"] = DATA
    server.faults["/a"] = [servers.slow(0.2)]
    process = started(kept, server.url("/a"), made())
    waited(server)
    while not kept.partial(made().sha256).stat().st_size:
        time.sleep(0.01)
    process.send_signal(how)
    before = time.monotonic()
    process.communicate(timeout=10)
    assert time.monotonic() - before < 1
    assert process.returncode in (-how, 130)
    left = kept.partial(made().sha256).read_bytes()
    assert left
    assert DATA.startswith(left)
    assert not kept.has_blob(made().sha256)
    fetch([made()], [Places(server.url("/a"))], kept, downloader=quick())
    assert server.seen[-1].headers["Range"] == f"bytes={len(left)}-"


@pytest.mark.userns
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_full_disk_says_where_and_what_to_do(server: Server, tmp_path: Path, when: str) -> None:
    data = bytes(3 << 20)
    server.files["/a"] = data
    disk = tmp_path / "disk"
    disk.mkdir()
    item = made(data=data)
    script = f'mount -t tmpfs -o size={"1m" if when == "before" else "4m"} none "$0" && exec "$@"'
    fetching = [sys.executable, "-c", _FETCH, f"{disk}/s", server.url("/a"), item.sha256, str(item.size)]
    fetching += [] if when == "before" else [f"{disk}/other"]
    argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(disk), *fetching]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    last = done.stderr.strip().splitlines()
    said = {
        "before": f"{disk}/s: 3.1 MB have to be downloaded (3145728 bytes), and 1.0 MB are free there (1048576 bytes)",
        "meanwhile": f"{disk}/s/partial/{item.sha256}: no space is left on the disk",
    }
    assert f"reprobox.errors.ReproboxError: {said[when]}" in last
    assert "REPROBOX_STORE" in last[-1]
    assert len(server.seen) == (when == "meanwhile")


def test_a_partial_that_may_not_be_written(server: Server, kept: Store) -> None:
    server.files["/a"] = DATA
    os.symlink("/etc/passwd", kept.partial(made().sha256))
    with pytest.raises(ReproboxError, match="it cannot be written"):
        fetch([made()], [Places(server.url("/a"))], kept, downloader=quick())


# -- files that nobody knows yet ---------------------------------------------------------------------------------------


def tagged_half(tag: str) -> servers.Fault:
    """Half of a file that has an ETag, and then the connection breaks."""

    def fault(handler: servers.Handler) -> None:
        data = handler.data or b""
        handler.send(200, {"ETag": tag}, data[: len(data) // 2], promised=len(data))
        handler.hang_up()

    return fault


def test_an_unknown_file_is_continued_if_it_is_still_the_same(server: Server, kept: Store):
    server.files["/a"] = DATA
    server.faults["/a"] = [tagged_half('"one"')]
    (found,) = obtain([server.url("/a")], kept, downloader=quick())
    assert (found.sha256, found.size) == (hashlib.sha256(DATA).hexdigest(), len(DATA))
    assert kept.blob(found.sha256).read_bytes() == DATA
    first, second = server.seen
    assert "Range" not in first.headers
    assert (second.headers["Range"], second.headers["If-Range"]) == (f"bytes={len(DATA) // 2}-", '"one"')


def test_an_unknown_file_without_a_validator_begins_again(server: Server, kept: Store):
    server.files["/a"] = DATA
    server.faults["/a"] = [servers.half(), tagged_half('W/"weak"')]
    (found,) = obtain([server.url("/a")], kept, downloader=quick())
    assert found.sha256 == hashlib.sha256(DATA).hexdigest()
    assert ["Range" in request.headers for request in server.seen] == [False, False, False]


def test_an_unknown_file_that_changes_meanwhile(server: Server, kept: Store):
    server.files["/a"] = DATA
    server.faults["/a"] = [tagged_half('"one"'), servers.chunked(b"another file")]
    told = Told()
    (found,) = obtain([server.url("/a")], kept, downloader=quick(), progress=told)
    assert (found.sha256, found.size) == (hashlib.sha256(b"another file").hexdigest(), 12)
    assert told.count == 12


def test_the_same_unknown_file_twice_and_one_that_is_not_there(server: Server, kept: Store):
    server.files["/a"] = DATA
    found = obtain([server.url("/a")] * 2, kept, downloader=quick())
    assert (found[0], len(server.seen)) == (found[1], 1)
    with pytest.raises(FetchError, match="/b: it answered 404"):
        obtain([server.url("/b"), server.url("/a")], kept, downloader=quick())
    with pytest.raises(OfflineError):
        obtain([server.url("/a")], kept, downloader=quick(offline=True))
    until = time.monotonic() + 10  # nobody waits for the one that was still on its way when the other failed
    while list((kept.root / "tmp").iterdir()):
        assert time.monotonic() < until
        time.sleep(0.01)


# -- places that make the bytes ----------------------------------------------------------------------------------------


class Makers:
    """A provider of places that are no servers."""

    name = "makers"

    def __init__(self, *makes: Callable[..., None]) -> None:
        self.makes = makes

    def locate(self, inputs: Sequence[Input]) -> Mapping[str, Sequence[Location]]:
        places = [Location(url="ssh://h/x", label="maker", make=make) for make in self.makes]
        return {item.sha256: places for item in inputs}


def test_a_place_that_makes_the_bytes(kept: Store):
    def broken(write: Callable[[bytes], None], watch: object) -> None:
        write(DATA[:100])
        raise FetchError("the clone failed", where="maker")

    def right(write: Callable[[bytes], None], watch: object) -> None:
        for start in range(0, len(DATA), 70_000):
            write(DATA[start : start + 70_000])

    def other(write: Callable[[bytes], None], watch: object) -> None:
        write(DATA[::-1])

    fetch([made()], [Makers(broken, other, right)], kept, downloader=quick())
    assert kept.blob(made().sha256).read_bytes() == DATA
    with pytest.raises(
        IntegrityError, match=f"maker: it has other bytes: their sha256 is {made(data=DATA[::-1]).sha256}"
    ):
        fetch([made(data=b"x" * len(DATA))], [Makers(other)], kept, downloader=quick())
    with pytest.raises(IntegrityError, match=f"maker: it sends more than the {len(DATA) - 1} bytes that are locked"):
        fetch([made(data=DATA[1:])], [Makers(right)], kept, downloader=quick())
    with pytest.raises(FetchError, match="maker: the clone failed"):
        fetch([made(data=b"x" * 1000)], [Makers(broken)], kept, downloader=quick())
