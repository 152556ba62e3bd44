"""A proxy on loopback before a real registry, which loses, swaps and refuses what a test tells it to.

>>> with Proxy(registry.host) as proxy:
...     proxy.break_("PUT", r"/manifests/", answer(500), times=1)      # then it behaves
...     proxy.break_("GET", r"/blobs/sha256:", swapped())              # for ever
"""

from __future__ import annotations

import hashlib
import http.client
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeAlias

INDEX = "application/vnd.oci.image.index.v1+json"


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes
    cut: int = -1  # bytes after which the connection ends


class Request(NamedTuple):
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


Fault: TypeAlias = Callable[[Request, Callable[[Request], Answer]], Answer | None]


def answer(status: int, body: bytes = b"", **headers: str) -> Fault:
    """Another answer; the registry never hears of the request."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _request, _ask: Answer(status, named, body)


def changed(change: Callable[[bytes], bytes]) -> Fault:
    """The registry's answer with another body."""

    def fault(request: Request, ask: Callable[[Request], Answer]) -> Answer:
        found = ask(request)
        headers = {name: value for name, value in found.headers.items() if name.lower() != "docker-content-digest"}
        return Answer(found.status, headers, change(found.body))

    return fault


def swapped() -> Fault:
    """Other bytes of the same length."""
    return changed(lambda body: bytes(byte ^ 0xFF for byte in body))


def truncated() -> Fault:
    """Half of the bytes, and no more of them when asked for the rest."""
    return changed(lambda body: body[: len(body) // 2])


def cut() -> Fault:
    """The connection ends in the middle."""

    def fault(request: Request, ask: Callable[[Request], Answer]) -> Answer:
        found = ask(request)
        return Answer(found.status, found.headers, found.body, len(found.body) // 2)

    return fault


def unheard() -> Fault:
    """The connection ends before anything is answered, and the registry never hears of the request."""
    return lambda _request, _ask: None


def unanswered() -> Fault:
    """The registry does what it is asked, and its answer is lost."""

    def fault(request: Request, ask: Callable[[Request], Answer]) -> None:
        ask(request)

    return fault


@dataclass
class _Rule:
    method: str
    path: str
    fault: Fault
    times: int


@dataclass
class Proxy:
    """``seen`` are the requests in the order they came. ``login`` (``user:password`` in base64) is asked for. With
    ``tokens``, whoever asks needs a token, which the proxy gives to everybody, for reading or for writing. With
    ``referrers``, it keeps the list of referrers as the OCI Distribution Specification v1.1 says, one on a page."""

    upstream: str
    login: str = ""
    tokens: bool = False
    referrers: bool = False
    listed: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    seen: list[Request] = field(default_factory=list)
    rules: list[_Rule] = field(default_factory=list)

    def break_(self, method: str, path: str, fault: Fault, times: int = -1) -> None:
        """``path`` is a pattern to be found in the request's path; ``times`` is -1 for ever."""
        self.rules.append(_Rule(method, path, fault, times))

    def mend(self) -> None:
        self.rules.clear()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def asked(self, method: str, path: str) -> list[Request]:
        return [item for item in self.seen if item.method == method and re.search(path, item.path)]

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"world": self})
        self._lock = threading.Lock()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request: Request) -> Answer | None:
        with self._lock:
            self.seen.append(request)
            if self.login and request.headers.get("Authorization") != f"Basic {self.login}":
                return Answer(401, {"WWW-Authenticate": 'Basic realm="test"'}, b"{}")
            if self.tokens and (wanted := self._without_token(request)):
                return wanted
            rule = next((rule for rule in self.rules if rule.times and _fits(rule, request)), None)
            if rule:
                rule.times -= 1
        if rule:
            return rule.fault(request, self.ask)
        return self._with_referrers(request) if self.referrers else self.ask(request)

    def _with_referrers(self, request: Request) -> Answer:
        path, _, query = request.path.partition("?")
        name, digest = path.rpartition("/")[::2]
        if name.endswith("/referrers") and request.method == "GET":
            page = int(dict(urllib.parse.parse_qsl(query)).get("page", 0))
            items = self.listed.get(digest, [])
            body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": items[page : page + 1]}).encode()
            more = {"Link": f'<{path}?page={page + 1}>; rel="next"'} if page + 1 < len(items) else {}
            return Answer(200, {"Content-Type": INDEX, **more}, body)
        found = self.ask(request)
        if name.endswith("/manifests") and found.status in (201, 202):
            return self._kept(request, digest, found)
        return found

    def _kept(self, request: Request, name: str, found: Answer) -> Answer:
        """A manifest was put or deleted: the lists follow."""
        for items in self.listed.values():
            items[:] = [item for item in items if item["digest"] != name]
        if request.method != "PUT" or not (document := json.loads(request.body)).get("subject"):
            return found
        said = {"artifactType": document.get("artifactType"), "annotations": document.get("annotations", {})}
        digest = f"sha256:{hashlib.sha256(request.body).hexdigest()}"
        of = {"mediaType": document["mediaType"], "digest": digest, "size": len(request.body)}
        self.listed.setdefault(document["subject"]["digest"], []).append({**of, **said})
        return found._replace(headers={**found.headers, "OCI-Subject": document["subject"]["digest"]})

    def _without_token(self, request: Request) -> Answer | None:
        path, _, query = request.path.partition("?")
        if path == "/token":
            (scope,) = urllib.parse.parse_qs(query)["scope"]
            return Answer(200, {}, json.dumps({"token": scope}).encode())
        rights = "pull" if request.method in ("GET", "HEAD") else "pull,push"
        scope = f"repository:{path.removeprefix('/v2/').rpartition('/blobs')[0] or path.split('/')[2]}:{rights}"
        if request.headers.get("Authorization", "").removeprefix("Bearer ") in (scope, f"{scope},push"):
            return None
        challenge = f'Bearer realm="http://{self.host}/token",service="test",scope="{scope}"'
        return Answer(401, {"WWW-Authenticate": challenge}, b"{}")

    def ask(self, request: Request) -> Answer:
        """What the registry itself says."""
        connection = http.client.HTTPConnection(self.upstream, timeout=30)
        try:
            connection.request(request.method, request.path, request.body, dict(request.headers))
            found = connection.getresponse()
            return Answer(found.status, dict(found.getheaders()), found.read())
        finally:
            connection.close()


def _fits(rule: _Rule, request: Request) -> bool:
    return rule.method == request.method and re.search(rule.path, request.path) is not None


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    world: Proxy

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {
            name: ", ".join(self.headers.get_all(name, [])) for name in self.headers
        }  # skopeo says Accept thrice
        found = self.world.answer(Request(self.command, self.path, headers, body))
        if found is None:
            self.close_connection = True
            return
        self.send_response(found.status)
        for name, value in found.headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "date", "server", "connection"):
                self.send_header(name, value)
        length = found.headers.get("Content-Length") if self.command == "HEAD" else str(len(found.body))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        try:
            self.wfile.write(found.body if found.cut < 0 else found.body[: found.cut])
        except ConnectionError:
            pass
        if found.cut >= 0:
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815  (the names that http.server calls)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass
