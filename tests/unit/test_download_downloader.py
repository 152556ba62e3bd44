"""Downloads from a loopback server that misbehaves: the right bytes arrive, or the error says what it did."""

from __future__ import annotations

import io
import random
import ssl
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from reprobox.digest import sha256
from reprobox.download.downloader import Downloader
from reprobox.download.http import USER_AGENT
from reprobox.download.transfer import Auth, Document, Location, StatusError, Watch
from reprobox.errors import FetchError, IntegrityError
from tests import servers
from tests.servers import Server
from tests.unit.downloads import DATA, quick


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "part"


class Told(Watch):
    """One that remembers."""

    def __init__(self) -> None:
        self.count = 0
        self.notes: list[str] = []

    def advance(self, count: int) -> None:
        self.count += count

    def note(self, text: str) -> None:
        self.notes.append(text)


def saved(
    place: str | Location,
    part: Path,
    data: bytes = DATA,
    *,
    downloader: Downloader | None = None,
    watch: Told | None = None,
) -> None:
    """Download what is to be ``data`` into ``part``, behind what is there already."""
    part.touch()
    with part.open("r+b", buffering=0) as file:
        (downloader or quick()).save(place, file, sha256=sha256(data), size=len(data), watch=watch)


# -- what works ----------------------------------------------------------------------------------------------------------


def test_it_says_honestly_who_asks_and_wants_bytes_as_they_are(server: Server, part: Path) -> None:
    server.files["/a"] = DATA
    saved(server.url("/a"), part)
    assert server.seen[0].headers["User-Agent"] == USER_AGENT
    assert USER_AGENT.startswith("reprobox/")
    assert server.seen[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_busy_servers_are_asked_again(server: Server, part: Path, code: int) -> None:
    server.files["/a"] = DATA
    server.faults["/a"] = [servers.status(code)] * 3
    told = Told()
    saved(server.url("/a"), part, watch=told)
    assert part.read_bytes() == DATA
    assert len(server.seen) == 4
    assert f"it answered {code}" in told.notes[0]


def test_retry_after_is_obeyed(server: Server, part: Path) -> None:
    server.files["/a"] = DATA
    server.faults["/a"] = [servers.status(429, retry_after="1")]
    before = time.monotonic()
    saved(server.url("/a"), part)
    assert time.monotonic() - before >= 1


def test_retry_after_may_be_a_date_and_nobody_waits_for_hours(server: Server, part: Path) -> None:
    server.files["/a"] = DATA
    server.faults["/a"] = [servers.status(503, retry_after="Wed, 21 Oct 2015 07:28:00 GMT")]
    saved(server.url("/a"), part)
    server.always["/b"] = servers.status(429, retry_after="7200")
    with pytest.raises(FetchError, match="it answered 429 Too Many Requests"):
        saved(server.url("/b"), part, b"b")
    assert server.paths() == ["/a", "/a", "/b"]


def test_a_dropped_connection_is_continued_where_it_stopped(server: Server, part: Path) -> None:
    server.files["/a"] = DATA
    server.faults["/a"] = [servers.half(), servers.half()]
    told = Told()
    saved(server.url("/a"), part, watch=told)
    assert part.read_bytes() == DATA
    assert [request.headers.get("Range") for request in server.seen] == [None, "bytes=150000-", "bytes=225000-"]
    assert told.count == len(DATA)


def test_a_long_download_over_a_bad_line_is_not_given_up(server: Server, part: Path) -> None:
    data = random.Random(1).randbytes(9 << 20)
    server.files["/a"] = data
    server.faults["/a"] = [servers.half(1 << 20)] * 8
    saved(server.url("/a"), part, data, downloader=quick(attempts=2))
    assert len(server.seen) == 9


def test_a_server_without_ranges_is_asked_for_everything_again(server: Server, part: Path) -> None:
    server.files["/a"] = DATA
    server.faults["/a"] = [servers.half()]
    server.always["/a"] = servers.no_ranges()
    told = Told()
    saved(server.url("/a"), part, watch=told)
    assert part.read_bytes() == DATA
    assert told.count == len(DATA)


def test_a_server_that_breaks_and_cannot_continue_is_given_up(server: Server, part: Path) -> None:
    data = random.Random(1).randbytes(4 << 20)
    server.files["/a"] = data

    def fault(handler: servers.Handler) -> None:
        handler.send(200, {}, data[: 2 << 20], promised=len(data))
        handler.hang_up()

    server.always["/a"] = fault
    with pytest.raises(FetchError, match="the connection broke"):
        saved(server.url("/a"), part, data, downloader=quick(attempts=3))
    assert 3 <= len(server.seen) <= 5


def test_a_chunked_answer_without_length(server: Server, part: Path) -> None:
    server.files["/a"] = DATA
    server.always["/a"] = servers.chunked()
    saved(server.url("/a"), part)
    assert part.read_bytes() == DATA


def test_what_an_earlier_run_left_is_continued(server: Server, part: Path) -> None:
    server.files["/a"] = DATA
    part.write_bytes(DATA[:100_000])
    told = Told()
    saved(server.url("/a"), part, watch=told)
    assert part.read_bytes() == DATA
    assert [request.headers["Range"] for request in server.seen] == ["bytes=100000-"]
    assert told.count == len(DATA)


@pytest.mark.parametrize("left", [b"x" * 100_000, DATA + b"more", b"y" * len(DATA)])
def test_what_an_earlier_run_left_may_be_wrong(server: Server, part: Path, left: bytes) -> None:
    server.files["/a"] = DATA
    part.write_bytes(left)
    told = Told()
    saved(server.url("/a"), part, watch=told)
    assert part.read_bytes() == DATA
    assert told.count == len(DATA)


@pytest.mark.parametrize("place", ["bytes 5-299999/300000", "bytes */300000", ""])
def test_a_server_that_sends_another_range_is_asked_for_everything(server: Server, part: Path, place: str) -> None:
    server.files["/a"] = DATA
    part.write_bytes(DATA[:1000])
    server.faults["/a"] = [lambda handler: handler.send(206, {"Content-Range": place}, DATA[5:])]
    saved(server.url("/a"), part)
    assert part.read_bytes() == DATA
    assert [request.headers.get("Range") for request in server.seen] == ["bytes=1000-", None]


def test_a_server_that_closes_without_having_said_how_much_is_continued(server: Server, part: Path) -> None:
    server.files["/a"] = DATA

    def fault(handler: servers.Handler) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(DATA[:777])
        handler.hang_up()

    server.faults["/a"] = [fault]
    saved(server.url("/a"), part)
    assert server.seen[1].headers["Range"] == "bytes=777-"


# -- wrong bytes ---------------------------------------------------------------------------------------------------------


def test_a_server_that_sends_too_much_is_stopped_at_once(server: Server, part: Path) -> None:
    server.always["/a"] = servers.chunked(DATA + bytes(50 << 20))
    before = time.monotonic()
    with pytest.raises(IntegrityError, match="it sends more than the 300000 bytes that are locked"):
        saved(server.url("/a"), part)
    assert time.monotonic() - before < 2
    assert not part.read_bytes()


def test_a_server_that_always_sends_half(server: Server, part: Path) -> None:
    server.files["/a"] = b"z" * 8
    server.always["/a"] = servers.half(0)
    with pytest.raises(FetchError, match=r"the connection broke.*after 5 attempts"):
        saved(server.url("/a"), part, b"z" * 8)
    assert len(server.seen) == 5


# -- not there -----------------------------------------------------------------------------------------------------------


def test_a_name_that_does_not_exist(part: Path) -> None:
    with pytest.raises(FetchError, match="it cannot be reached"):
        quick().get("http://no-such-host.invalid/x")


def test_a_silent_server(server: Server, part: Path) -> None:
    server.files["/a"] = DATA
    server.always["/a"] = servers.silent(3)
    with pytest.raises(FetchError, match="after 2 attempts"):
        saved(server.url("/a"), part, downloader=quick(timeout=0.2, attempts=2))


def test_a_slow_server_is_waited_for(server: Server, part: Path) -> None:
    server.files["/a"] = DATA
    server.always["/a"] = servers.slow(0.1, pieces=8)
    saved(server.url("/a"), part, downloader=quick(timeout=0.4))
    assert part.read_bytes() == DATA


# -- redirects, secrets, TLS, proxies ------------------------------------------------------------------------------------


class Key:
    """An Auth that knows one better answer."""

    def __init__(self) -> None:
        self.token = "old"
        self.challenges: list[str] = []

    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def answer(self, challenge: str, sent: Mapping[str, str]) -> bool:
        self.challenges.append(challenge)
        self.token = "new"
        return sent["Authorization"] != "Bearer new"


def test_secrets_never_follow_a_redirect_to_another_server(server: Server, part: Path) -> None:
    auth: Auth = Key()
    with Server() as other:
        other.files["/blob"] = DATA
        server.always["/a"] = servers.redirect(other.url("/blob"), 307)
        part.write_bytes(DATA[:10])
        place = Location(url=server.url("/a").replace("//", "//me:secret@"), headers={"Private-Token": "t"}, auth=auth)
        saved(place, part)
        assert server.seen[0].headers["Private-Token"] == "t"
        assert server.seen[0].headers["Authorization"] == "Bearer old"
        assert not {"Private-Token", "Authorization"} & other.seen[0].headers.keys()
        assert other.seen[0].headers["Range"] == "bytes=10-"


def test_a_password_in_the_url_is_sent_and_never_shown(server: Server) -> None:
    url = server.url("/a").replace("//", "//me:s%40crypt@")
    with pytest.raises(StatusError) as caught:
        quick().get(url)
    assert server.seen[0].headers["Authorization"] == "Basic bWU6c0BjcnlwdA=="
    assert "crypt" not in str(caught.value)
    assert caught.value.where == server.url("/a")


def test_redirects_end_and_never_leave_http(server: Server) -> None:
    server.always["/loop"] = servers.redirect("/loop")
    server.always["/file"] = servers.redirect("file:///etc/passwd")
    with pytest.raises(FetchError, match="it redirects more than 10 times"):
        quick().get(server.url("/loop"))
    with pytest.raises(FetchError, match="it redirects to file:///etc/passwd, which is not safe"):
        quick().get(server.url("/file"))


def test_a_challenge_is_answered_once(server: Server) -> None:
    auth = Key()
    server.answers["/a"] = lambda request: (
        (200, {}, b"in")
        if request.headers["Authorization"] == "Bearer new"
        else (401, {"WWW-Authenticate": "Bearer x"}, b"")
    )
    assert quick().get(Location(url=server.url("/a"), auth=auth)).body == b"in"
    assert auth.challenges == ["Bearer x"]
    server.answers["/b"] = lambda _: (401, {"WWW-Authenticate": "Bearer y"}, b"")
    with pytest.raises(StatusError) as caught:
        quick().get(Location(url=server.url("/b"), auth=Key()))
    assert caught.value.code == 401
    assert server.paths().count("/b") == 2


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "server.pem"
    argv = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        path,
        "-out",
        f"{path}.crt",
        "-days",
        "2",
    ]
    subprocess.run(
        [*argv, "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True
    )
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


@pytest.mark.tool("openssl")
def test_tls_trusts_what_the_host_trusts(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with Server(context=context) as server:
        server.files["/a"] = b"a"
        with pytest.raises(FetchError, match="its certificate is not trusted") as caught:
            quick().get(server.url("/a"))
        assert "SSL_CERT_FILE" in str(caught.value.hint)
        monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
        assert quick().get(server.url("/a")).body == b"a"
        with Server() as plain:
            server.always["/down"] = servers.redirect(plain.url("/a"))
            with pytest.raises(FetchError, match="not safe to follow"):
                quick().get(server.url("/down"))


def test_a_server_without_tls(server: Server) -> None:
    with pytest.raises(FetchError, match="it does not speak TLS as it should"):
        quick().get(server.url("/a").replace("http:", "https:"))
    assert server.seen == []


@pytest.mark.parametrize("url", ["ftp://x/a", "https://exa mple/", "http://[::1/", "file://elsewhere/etc/passwd", "x"])
def test_urls_that_cannot_be_used(url: str, part: Path) -> None:
    with pytest.raises(FetchError):
        quick().get(url)
    with pytest.raises(FetchError):
        saved(url, part)


def test_the_proxy_of_the_environment_is_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://archive.example.invalid/pool/a.deb"
    server.files[url] = b"through the proxy"
    monkeypatch.setenv("http_proxy", f"http://me:pass@{server.host}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert quick().get(url).body == b"through the proxy"
    assert server.seen[0].headers["Proxy-Authorization"] == "Basic bWU6cGFzcw=="
    server.files["/direct"] = b"loopback is never proxied"
    assert quick().get(server.url("/direct")).body == b"loopback is never proxied"
    assert server.paths() == [url, "/direct"]
    monkeypatch.setenv("no_proxy", "example.invalid")
    with pytest.raises(FetchError, match="cannot be reached"):
        quick(attempts=1).get(url)


# -- small documents -----------------------------------------------------------------------------------------------------


def test_documents_have_a_limit(server: Server) -> None:
    server.files["/a"] = bytes(1000)
    assert len(quick().get(server.url("/a"), limit=1000).body) == 1000
    with pytest.raises(FetchError, match="more than the 999 bytes allowed"):
        quick().get(server.url("/a"), limit=999)


def test_documents_of_this_machine(tmp_path: Path) -> None:
    path = tmp_path / "doc"
    path.write_bytes(b"12345")
    assert quick(offline=True).get(path.as_uri()).body == b"12345"
    with pytest.raises(FetchError, match="more than the 4 bytes"):
        quick().get(path.as_uri(), limit=4)
    with pytest.raises(FetchError, match="it cannot be read: No such file"):
        quick().get(path.as_uri() + "x")


def test_documents_are_retried_whole(server: Server) -> None:
    server.files["/a"] = DATA
    server.faults["/a"] = [servers.half(), servers.status(502)]
    assert quick().get(server.url("/a")).body == DATA


def test_a_document_that_is_a_status(server: Server) -> None:
    server.always["/a"] = servers.status(403, body=b"the reason")
    with pytest.raises(StatusError, match="it answered 403 Forbidden") as caught:
        quick().get(server.url("/a"))
    assert (caught.value.code, caught.value.body) == (403, b"the reason")


def test_a_form_is_posted(server: Server) -> None:
    server.answers["/token"] = lambda request: (200, {}, request.method.encode() + request.body)
    assert quick().get(server.url("/token"), data=b"a=b").body == b"POSTa=b"


def test_a_conditional_answer_to_an_unconditional_request_is_refused(server: Server) -> None:
    server.always["/a"] = lambda handler: handler.send(304, {}, b"")
    with pytest.raises(StatusError, match="it answered 304"):
        quick().get(server.url("/a"))
    server.files["/b"] = b"b"
    answer: Document = quick().get(server.url("/b"))
    assert quick().get(server.url("/b"), headers={"If-None-Match": answer.headers["etag"]}).status == 304


# -- files ---------------------------------------------------------------------------------------------------------------


def test_writes_may_be_short(server: Server, tmp_path: Path) -> None:
    class Short(io.FileIO):
        def write(self, data) -> int:
            return super().write(memoryview(data)[:1000])

    server.files["/a"] = DATA
    with Short(tmp_path / "part", "w+") as file:
        quick().save(server.url("/a"), file, sha256=sha256(DATA), size=len(DATA))
    assert (tmp_path / "part").read_bytes() == DATA
