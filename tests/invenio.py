"""An archive on loopback that answers as InvenioRDM's REST API is documented to: drafts, files, DOIs, versions.

Source: InvenioRDM, REST API reference, "Drafts and Records" and "Quickstart". Where the documentation leaves open what
happens, it does what is worst for a client: a PUT without ``pids`` loses a reserved DOI, and another one comes, a file that has begun cannot
begin again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.servers import Request, Server

TOKEN = "a-token-of-somebody"
_LICENCES = {"mit", "cc-by-4.0", "apache-2.0"}
_TYPES = {"software", "dataset", "workflow", "other"}

Answer = tuple[int, Mapping[str, str], bytes]


@dataclass
class Stored:
    """A file of a record."""

    data: bytes | None = None
    complete: bool = False


@dataclass
class Record:
    """A record, or the draft of one."""

    id: str
    parent: str
    index: int = 1
    metadata: dict[str, Any] = field(default_factory=dict)
    pids: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Stored] = field(default_factory=dict)
    published: bool = False


@dataclass
class Invenio:
    """The archive: put :meth:`answer` into ``otherwise`` of a :class:`tests.servers.Server`."""

    records: dict[str, Record] = field(default_factory=dict)
    published: list[str] = field(default_factory=list)  # ids, once for each time
    damages: bool = False  # files arrive with other bytes

    def serve(self) -> Server:
        return Server(otherwise=self.answer)

    def answer(self, request: Request) -> Answer:
        headers = {name.lower(): value for name, value in request.headers.items()}
        if "authorization" not in headers:
            return _error(401, "The server could not verify that you are authorized to access the URL requested.")
        if headers["authorization"] != f"Bearer {TOKEN}":
            return _error(403, "Permission denied.")
        for method, pattern, handle in _ROUTES:
            found = re.fullmatch(pattern, request.path)
            if found and method == request.method:
                return handle(self, request, *found.groups())
        return _error(405 if any(re.fullmatch(pattern, request.path) for _, pattern, _ in _ROUTES) else 404, "No.")

    # -- records

    def create(self, request: Request) -> Answer:
        record = self._new(f"parent-{len(self.records)}")
        record.metadata = _said(request)["metadata"]
        return self._shown(record, 201)

    def _new(self, parent: str, index: int = 1) -> Record:
        record = Record(id=str(1001 + len(self.records)), parent=parent, index=index)
        self.records[record.id] = record
        return record

    def read_draft(self, request: Request, name: str) -> Answer:
        record = self.records.get(name)
        return _gone() if record is None or record.published else self._shown(record)

    def read_record(self, request: Request, name: str) -> Answer:
        record = self.records.get(name)
        return self._shown(record) if record and record.published else _gone()

    def update(self, request: Request, name: str) -> Answer:
        record, said = self.records.get(name), _said(request)
        if record is None or record.published:
            return _gone()
        record.metadata, record.pids = said["metadata"], said.get("pids", {})
        return self._shown(record)

    def reserve(self, request: Request, name: str) -> Answer:
        record = self.records.get(name)
        if record is None or record.published:
            return _gone()
        if "doi" in record.pids:
            return _invalid([("pids", "A PID already exists for type doi")])
        record.pids["doi"] = {"identifier": f"10.5072/zenodo.{name}", "provider": "datacite", "client": "datacite"}
        return self._shown(record, 201)

    def publish(self, request: Request, name: str) -> Answer:
        record = self.records.get(name)
        if record is None or record.published:
            return _gone()
        wrong = self._wrong(record)
        if not record.files or not all(item.complete for item in record.files.values()):
            wrong.append(
                (
                    "files.enabled",
                    "Missing uploaded files. To disable files for this record please mark it as metadata-only.",
                )
            )
        if wrong:
            return _invalid(wrong)
        if "doi" not in record.pids:
            record.pids["doi"] = {
                "identifier": f"10.5072/not-reserved.{name}",
                "provider": "datacite",
                "client": "datacite",
            }
        record.published = True
        self.published.append(name)
        return self._shown(record, 202)

    def new_version(self, request: Request, name: str) -> Answer:
        old = self.records.get(name)
        if old is None or not old.published:
            return _gone()
        family = [item for item in self.records.values() if item.parent == old.parent]
        record = next((item for item in family if not item.published), None) or self._new(old.parent, len(family) + 1)
        record.metadata = {
            key: value for key, value in old.metadata.items() if key not in ("publication_date", "version")
        }
        return self._shown(record, 201)

    # -- files

    def list_files(self, request: Request, name: str) -> Answer:
        record = self.records.get(name)
        if record is None or record.published:
            return _gone()
        return _json(200, {"enabled": True, "entries": [_entry(*item) for item in record.files.items()], "order": []})

    def begin_files(self, request: Request, name: str) -> Answer:
        record = self.records.get(name)
        if record is None or record.published:
            return _gone()
        for item in json.loads(request.body):
            if item["key"] in record.files:
                return _error(400, f"File with key {item['key']} already exists.")
            record.files[item["key"]] = Stored()
        return _json(201, {"enabled": True, "entries": [_entry(*item) for item in record.files.items()]})

    def content(self, request: Request, name: str, key: str) -> Answer:
        stored = self.records[name].files.get(key)
        if stored is None or stored.complete:
            return _gone()
        stored.data = bytes(byte ^ 1 for byte in request.body) if self.damages else request.body
        return _json(200, _entry(key, stored))

    def commit(self, request: Request, name: str, key: str) -> Answer:
        stored = self.records[name].files.get(key)
        if stored is None or stored.data is None:
            return _error(400, "File upload was not completed.")
        stored.complete = True
        return _json(200, _entry(key, stored))

    def delete_file(self, request: Request, name: str, key: str) -> Answer:
        if self.records[name].published:
            return _error(403, "Permission denied.")
        return (204, {}, b"") if self.records[name].files.pop(key, None) else _gone()

    # -- answers

    def _shown(self, record: Record, code: int = 200) -> Answer:
        page = "records" if record.published else "uploads"
        document = {
            "id": record.id,
            "is_published": record.published,
            "is_draft": not record.published,
            "metadata": record.metadata,
            "pids": record.pids,
            "parent": {"id": record.parent},
            "versions": {"index": record.index},
            "links": {"self_html": f"https://archive.example/{page}/{record.id}"},
        }
        wrong = self._wrong(record)
        return _json(code, {**document, **({"errors": _errors(wrong)} if wrong else {})})

    @staticmethod
    def _wrong(record: Record) -> list[tuple[str, str]]:
        said = record.metadata
        needed = ("title", "creators", "publication_date", "resource_type")
        wrong = [(f"metadata.{name}", "Missing data for required field.") for name in needed if not said.get(name)]
        if said.get("resource_type", {}).get("id") not in {None, *_TYPES}:
            wrong.append(("metadata.resource_type", "Invalid value."))
        for number, item in enumerate(said.get("rights", ())):
            if "id" in item and item["id"] not in _LICENCES:
                wrong.append((f"metadata.rights.{number}", f"Invalid value {item['id']}."))
        return wrong


_RECORD, _FILE = r"/api/records/([a-z0-9-]+)", r"/api/records/([a-z0-9-]+)/draft/files/([^/]+)"
_ROUTES: Any = (
    ("POST", r"/api/records", Invenio.create),
    ("GET", _RECORD, Invenio.read_record),
    ("GET", f"{_RECORD}/draft", Invenio.read_draft),
    ("PUT", f"{_RECORD}/draft", Invenio.update),
    ("POST", f"{_RECORD}/draft/pids/doi", Invenio.reserve),
    ("POST", f"{_RECORD}/draft/actions/publish", Invenio.publish),
    ("POST", f"{_RECORD}/versions", Invenio.new_version),
    ("GET", f"{_RECORD}/draft/files", Invenio.list_files),
    ("POST", f"{_RECORD}/draft/files", Invenio.begin_files),
    ("DELETE", _FILE, Invenio.delete_file),
    ("PUT", f"{_FILE}/content", Invenio.content),
    ("POST", f"{_FILE}/commit", Invenio.commit),
)


def _entry(name: str, stored: Stored) -> dict[str, Any]:
    entry: dict[str, Any] = {"key": name, "status": "completed" if stored.complete else "pending"}
    if stored.complete:
        assert stored.data is not None
        entry |= {"checksum": f"md5:{hashlib.md5(stored.data).hexdigest()}", "size": float(len(stored.data))}
    return entry


def _said(request: Request) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(request.body)
    return said


def _json(code: int, document: object) -> Answer:
    return code, {"Content-Type": "application/json"}, json.dumps(document).encode()


def _error(code: int, message: str) -> Answer:
    return _json(code, {"status": code, "message": message})


def _gone() -> Answer:
    return _error(404, "The persistent identifier does not exist.")


def _errors(wrong: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"field": name, "messages": [message]} for name, message in wrong]


def _invalid(wrong: list[tuple[str, str]]) -> Answer:
    return _json(400, {"status": 400, "message": "A validation error occurred.", "errors": _errors(wrong)})
