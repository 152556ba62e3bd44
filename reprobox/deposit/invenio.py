"""An archive that runs InvenioRDM, through its REST API: drafts, files, DOIs, versions.

The same API serves Zenodo and every other InvenioRDM. Zenodo's older API below ``/api/deposit`` is only Zenodo's, and a
layer over this one since October 2023. URLs are made here and never taken from answers: the token goes nowhere else.

Source: InvenioRDM, REST API reference, "Drafts and Records".
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reprobox.deposit.memory import RECORD_ID
from reprobox.digest import Json
from reprobox.download.downloader import Downloader
from reprobox.download.transfer import Body, Document, Location, StatusError, Watch
from reprobox.errors import DepositError, FetchError, UsageError
from reprobox.urls import loopback

ZENODO = "https://zenodo.org"
SANDBOX = "https://sandbox.zenodo.org"
_MOST_ANSWER = 16 << 20
_JSON = {"Content-Type": "application/json", "Accept": "application/json"}
_BYTES = {"Content-Type": "application/octet-stream", "Accept": "application/json"}
#: The hint where an answer is lost: nobody knows what the archive did.
AGAIN = "run the command again: what has arrived is not sent again"
_TOKEN_HINT = "make a token on the account page of the archive, with the scopes deposit:write and deposit:actions"  # noqa: S105


def server_url(text: str) -> str:
    """The base URL of an archive, no slash at its end. Raises :class:`UsageError` where no token may be sent."""
    text = text if "://" in text else f"https://{text}"
    parts = urllib.parse.urlsplit(text)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise UsageError(
            f"{text!r} is no archive", where="--server", hint="give its address, such as https://zenodo.org"
        )
    if parts.scheme == "http" and not loopback(parts.hostname):
        hint = "use https"
        raise UsageError("the token would travel so that everybody can read it", where=f"--server {text}", hint=hint)
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}".removesuffix("/api")


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A record as the archive shows it: ``published`` or not, its identifiers, its page, and what is wrong with it."""

    id: str
    published: bool
    page: str
    pids: Mapping[str, Any] = field(default_factory=dict)
    wrong: tuple[str, ...] = ()

    @property
    def doi(self) -> str:
        """Its DOI; empty where it has none."""
        return str((self.pids.get("doi") or {}).get("identifier", ""))


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A file that a draft has: md5 hex and size, where it arrived as a whole."""

    name: str
    md5: str
    size: int
    complete: bool


@dataclass(frozen=True, kw_only=True)
class Invenio:
    """One archive that runs InvenioRDM, with the token of one of its users."""

    server: str
    token: str
    downloader: Downloader

    # -- records

    def create(self, metadata: Mapping[str, Json]) -> Draft:
        """A new draft. It is asked for once: a lost answer leaves open whether there is one."""
        return self._draft("POST", "records", _body(metadata), good=(201,), again=False)

    def draft(self, record: str) -> Draft | None:
        """The draft of a record; None where it has none."""
        return self._maybe(f"records/{record}/draft")

    def record(self, record: str) -> Draft | None:
        """A published record; None where there is none."""
        return self._maybe(f"records/{record}")

    def update(self, draft: Draft, metadata: Mapping[str, Json]) -> Draft:
        """Give a draft this metadata. Its DOI is said again, for a PUT replaces all."""
        return self._draft("PUT", f"records/{draft.id}/draft", _body(metadata, draft.pids))

    def reserve(self, record: str) -> Draft:
        """Have the archive say which DOI the draft will have; it is registered when it is published."""
        return self._draft("POST", f"records/{record}/draft/pids/doi", None, good=(200, 201))

    def new_version(self, record: str) -> Draft:
        """A draft of the next version of a published record: the one that there is, if there is one."""
        return self._draft("POST", f"records/{record}/versions", None, good=(200, 201))

    def publish(self, record: str) -> Draft:
        """Publish a draft, for ever. Asked for once; if the answer is lost, :meth:`record` tells what became of it."""
        return self._draft("POST", f"records/{record}/draft/actions/publish", None, good=(200, 202), again=False)

    # -- files of a draft

    def files(self, record: str) -> dict[str, Held]:
        """What the draft has, by name."""
        answer = self._send("GET", f"records/{record}/draft/files")
        entries = _json(answer, self.server).get("entries", [])
        return {held.name: held for held in map(_held, entries)}

    def delete_file(self, record: str, name: str) -> None:
        self._send("DELETE", _file(record, name), good=(200, 204))

    def upload(self, record: str, name: str, path: Path, watch: Watch) -> Held:
        """Send a file as a whole; what the archive says that it got."""
        begin = json.dumps([{"key": name}]).encode()
        self._send("POST", f"records/{record}/draft/files", Body(data=begin), good=(200, 201), again=False)
        body = Body(path=path, count=path.stat().st_size, watch=watch)
        self._send("PUT", f"{_file(record, name)}/content", body, headers=_BYTES)
        answer = self._send("POST", f"{_file(record, name)}/commit", good=(200, 201), again=False)
        return _held(_json(answer, self.server))

    # -- requests

    def _draft(
        self, method: str, path: str, body: Body | None, *, good: Collection[int] = (200,), again: bool = True
    ) -> Draft:
        return _read_draft(_json(self._send(method, path, body, good=good, again=again), self.server), self.server)

    def _maybe(self, path: str) -> Draft | None:
        try:
            return self._draft("GET", path, None)
        except DepositError as error:
            if error.code in (404, 410):
                return None
            raise

    def _send(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        *,
        headers: Mapping[str, str] = _JSON,
        good: Collection[int] = (200,),
        again: bool = True,
    ) -> Document:
        place = Location(url=f"{self.server}/api/{path}", headers={"Authorization": f"Bearer {self.token}"})
        if body is None and method == "POST":
            body = Body()  # servers want to hear that there is nothing
        try:
            if method == "GET":
                return self.downloader.get(place, headers=headers, limit=_MOST_ANSWER)
            return self.downloader.send(method, place, body=body, headers=headers, good=good, again=again)
        except StatusError as error:
            raise _refused(error, f"{method} {place.shown}") from None
        except FetchError as error:
            raise DepositError(error.message, where=f"{method} {place.shown}", hint=error.hint or AGAIN) from None


def _file(record: str, name: str) -> str:
    return f"records/{record}/draft/files/{urllib.parse.quote(name, safe='')}"


def _body(metadata: Mapping[str, Json], pids: Mapping[str, Any] | None = None) -> Body:
    document: dict[str, Any] = {
        "access": {"record": "public", "files": "public"},
        "files": {"enabled": True},
        "metadata": metadata,
        **({"pids": pids} if pids else {}),
    }
    return Body(data=json.dumps(document).encode())


# -- answers -----------------------------------------------------------------------------------------------------------


def _json(answer: Document, where: str) -> dict[str, Any]:
    try:
        found = json.loads(answer.body)
        if isinstance(found, dict):
            return found
    except (ValueError, RecursionError):
        pass
    hint = "check the address: `--server` takes one that runs InvenioRDM"
    raise DepositError("it does not answer as InvenioRDM does", where=where, hint=hint)


def _read_draft(found: Mapping[str, Any], server: str) -> Draft:
    try:
        record = str(found["id"])
        if not RECORD_ID.match(record):
            raise ValueError(record)
        pids = dict(found.get("pids") or {})
        page = str((found.get("links") or {}).get("self_html", ""))
        return Draft(
            id=record, published=bool(found.get("is_published")), page=page, pids=pids, wrong=_complaints(found)
        )
    except (KeyError, ValueError, TypeError, AttributeError):
        raise DepositError("it does not answer as InvenioRDM does", where=server) from None


def _complaints(found: Mapping[str, Any]) -> tuple[str, ...]:
    """What the archive says is wrong, field by field."""
    errors = found.get("errors") or ()
    return tuple(
        f"{item.get('field', '')}: {' '.join(map(str, item.get('messages', ())))}".strip(": ")
        for item in errors
        if isinstance(item, dict)
    )


def _held(item: Any) -> Held:
    try:
        checksum = str(item.get("checksum") or "")
        return Held(
            name=str(item["key"]),
            md5=checksum.removeprefix("md5:") if checksum.startswith("md5:") else "",
            size=int(item.get("size") or 0),
            complete=item.get("status") == "completed",
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DepositError("it does not list files as InvenioRDM does", where="") from None


def _refused(error: StatusError, where: str) -> DepositError:
    """An answer in words: the archive's own, and what to do."""
    try:
        said = json.loads(error.body)
        message = str(said.get("message", "")) if isinstance(said, dict) else ""
        wrong = _complaints(said) if isinstance(said, dict) else ()
    except (ValueError, RecursionError):
        message, wrong = "", ()
    text = f"{error.message}{f': {message}' if message else ''}" + "".join(f"\n  {line}" for line in wrong)
    hints = {401: _TOKEN_HINT, 403: f"the token may not do this, or the record is somebody else's; {_TOKEN_HINT}"}
    again = "wait, and run the command again: what has arrived is not sent again"
    return DepositError(
        text, where=where, hint=hints.get(error.code, again if error.code >= 429 else None), code=error.code
    )
