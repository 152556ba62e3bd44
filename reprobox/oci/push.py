"""Writing to OCI registries: blobs that are missing there, in chunks that can be continued, and manifests.

Source: OCI Distribution Specification v1.1, "Push" (monolithic and chunked uploads, mounting from another repository).
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from reprobox.digest import prefixed, sha256
from reprobox.download.transfer import Body, Document, Location, StatusError, Watch
from reprobox.errors import FetchError, IntegrityError, OfflineError, PushError
from reprobox.image import Descriptor
from reprobox.oci.registry import Repository

#: Blobs up to this size go in one request; registries that keep them in parts want parts of at least 5 MiB.
_WHOLE = 4 << 20
_CHUNK = 16 << 20
_ATTEMPTS = 5
_BACKOFF = 0.5  # seconds before the first new attempt, doubled each time
_PASSING = frozenset((404, 408, 416, 429, 500, 502, 503, 504))
_BYTES = {"Content-Type": "application/octet-stream"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Blob:
    """What is to be in the registry: ``data``, or the file ``path``; ``digest`` is sha256 hex."""

    media_type: str
    digest: str
    size: int
    data: bytes = b""
    path: Path | None = None

    @classmethod
    def of(cls, data: bytes, media_type: str) -> Blob:
        return cls(media_type=media_type, digest=sha256(data), size=len(data), data=data)

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(media_type=self.media_type, digest=self.digest, size=self.size)

    def body(self, start: int, count: int, watch: Watch) -> Body:
        if self.path is None:
            return Body(data=self.data[start : start + count], watch=watch)
        return Body(path=self.path, start=start, count=count, watch=watch)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Upload:
    """An upload that has begun: where its next bytes go, how many it has, and how many it wants at a time."""

    place: Location
    offset: int = 0
    chunk: int = _CHUNK


@dataclass(kw_only=True)
class Writer:
    """Writes to one repository. ``where`` is what messages call it. Threads may share it."""

    repository: Repository
    where: str = ""
    watch: Watch = field(default_factory=Watch)

    def __post_init__(self) -> None:
        self.where = self.where or self.repository.name

    def has(self, digest: str) -> bool:
        """Whether the repository has the blob with this sha256 hex."""
        try:
            self._send("HEAD", self.repository.place(f"blobs/{prefixed(digest)}"))
        except StatusError as error:
            if error.code == 404:
                return False
            raise self.refused(error) from None
        return True

    def blob(self, blob: Blob, watch: Watch | None = None, *, mounts: Sequence[str] = ()) -> bool:
        """Have a blob there; False where nothing had to be sent. ``mounts`` are repositories of the registry that may
        have it. ``watch`` hears of bytes that are in place, those that were there too.

        Raises :class:`PushError`, and :class:`FetchError` where there is no answer.
        """
        watch = watch or self.watch
        try:
            if self.has(blob.digest):
                watch.advance(blob.size)
                return False
            return self._uploaded(blob, watch, mounts)
        except StatusError as error:
            raise self.refused(error) from None

    def manifest(self, data: bytes, media_type: str, name: str) -> str:
        """Publish a manifest or an index whose blobs are there as ``name``, a tag or ``sha256:…``; returns its sha256.

        Raises :class:`PushError`, and :class:`IntegrityError` where the registry made other bytes of it.
        """
        place = self.repository.place(f"manifests/{name}")
        try:
            answer = self._send("PUT", place, Body(data=data), {"Content-Type": media_type}, good=(200, 201))
        except StatusError as error:
            raise self.refused(error) from None
        digest = sha256(data)
        kept = answer.headers.get("docker-content-digest", prefixed(digest))
        if kept != prefixed(digest):
            raise IntegrityError(
                f"the registry keeps the manifest {prefixed(digest)} as {kept}: it changed what was pushed",
                where=self.where,
                hint="push to a registry that keeps OCI manifests as they are",
            )
        return digest

    def delete(self, name: str) -> bool:
        """Have a manifest (``sha256:…``) gone; False where the registry does not delete, or not for us."""
        try:
            self._send("DELETE", self.repository.place(f"manifests/{name}"), good=(200, 202, 204, 404))
        except StatusError:
            return False
        return True

    # -- uploads -------------------------------------------------------------------------------------------------------

    def _uploaded(self, blob: Blob, watch: Watch, mounts: Sequence[str]) -> bool:
        upload = self._begun(blob, mounts)
        failures = 0
        whole = blob.size <= _WHOLE
        while upload is not None:
            try:
                while upload.offset < blob.size and not whole:
                    upload = self._continued(upload, blob, watch)
                self._finished(upload, blob, watch)
                return True
            except FetchError as error:
                failures += 1
                refused = isinstance(error, StatusError) and error.code not in _PASSING
                if failures >= _ATTEMPTS or (refused and whole):
                    raise
                if not refused:
                    watch.note(f"{self.where}: {error.message}; again")
                    watch.sleep(_BACKOFF * 2 ** (failures - 1))
                if self.has(blob.digest):  # the answer was lost, and the blob is there
                    return True
                # A registry that refuses chunks may still take the whole.
                whole = whole or refused
                resumed = None if whole else self._resumed(upload)
                watch.advance((resumed.offset if resumed else 0) - upload.offset)
                upload = resumed or self._begun(blob, ())
        watch.advance(blob.size)
        return False

    def _begun(self, blob: Blob, mounts: Sequence[str]) -> _Upload | None:
        """A new upload; None where the blob could be mounted from another repository instead."""
        for source in mounts:
            query = urllib.parse.urlencode({"mount": prefixed(blob.digest), "from": source})
            try:
                answer = self._send("POST", self.repository.place(f"blobs/uploads/?{query}"), good=(201, 202))
            except StatusError:
                continue  # not allowed to look there
            if answer.status == 201:
                return None
            return self._at(answer)
        answer = self._send("POST", self.repository.place("blobs/uploads/"), good=(202,))
        return self._at(answer)

    def _continued(self, upload: _Upload, blob: Blob, watch: Watch) -> _Upload:
        """The upload with one more chunk."""
        count = min(upload.chunk, blob.size - upload.offset)
        headers = {**_BYTES, "Content-Range": f"{upload.offset}-{upload.offset + count - 1}"}
        body = blob.body(upload.offset, count, watch)
        answer = self._send("PATCH", upload.place, body, headers, good=(202,), again=False)
        watch.advance(count)
        return replace(self._at(answer), offset=upload.offset + count, chunk=upload.chunk)

    def _finished(self, upload: _Upload, blob: Blob, watch: Watch) -> None:
        """Send what is left, and say which blob it is."""
        url = upload.place.url
        place = replace(
            upload.place,
            url=f"{url}{'&' if '?' in url else '?'}{urllib.parse.urlencode({'digest': prefixed(blob.digest)})}",
        )
        left = blob.size - upload.offset
        body = blob.body(upload.offset, left, watch) if left else Body()
        self._send("PUT", place, body, _BYTES, good=(201, 204), again=False)
        watch.advance(left)

    def _resumed(self, upload: _Upload) -> _Upload | None:
        """The same upload with as many bytes as the registry says that it has; None where it forgot it."""
        try:
            answer = self._send("GET", upload.place, good=(200, 202, 204))
        except StatusError:
            return None
        end = re.fullmatch(r"(?:bytes[= ])?0-(\d+)", answer.headers.get("range", ""))
        offset = int(end[1]) + 1 if end and end[1] != "0" else 0
        if offset < upload.offset:  # those were counted
            return None
        return replace(self._at(answer, upload.place), offset=offset, chunk=upload.chunk)

    def _at(self, answer: Document, otherwise: Location | None = None) -> _Upload:
        """Where an answer says to go on; who we are is told to the registry only."""
        own = self.repository.place("")
        said = answer.headers.get("location", "")
        if not said and otherwise is not None:
            return _Upload(place=otherwise)
        url = urllib.parse.urljoin(own.url, said)
        here, there = urllib.parse.urlsplit(own.url), urllib.parse.urlsplit(url)
        if here.scheme == "https" and there.scheme == "http":  # said by a registry behind a proxy that speaks TLS
            if there.hostname != here.hostname:
                raise FetchError(f"it wants uploads sent to {url}, which is not safe", where=self.where)
            there = there._replace(scheme=here.scheme, netloc=here.netloc)
        same = (there.scheme, there.netloc.lower()) == (here.scheme, here.netloc.lower())
        least = answer.headers.get("oci-chunk-min-length", "")
        return _Upload(
            place=Location(url=there.geturl(), auth=own.auth if same else None),
            chunk=max(_CHUNK, int(least)) if least.isdecimal() else _CHUNK,
        )

    # -- requests ------------------------------------------------------------------------------------------------------

    def _send(
        self,
        method: str,
        place: Location,
        body: Body | None = None,
        headers: dict[str, str] | None = None,
        *,
        good: Sequence[int] = (200,),
        again: bool = True,
    ) -> Document:
        body = body or (Body() if method in ("POST", "PUT") else None)
        try:
            return self.repository.downloader.send(method, place, body=body, headers=headers, good=good, again=again)
        except StatusError:
            raise
        except FetchError as error:
            raise self.unreachable(error) from None
        except OfflineError:
            raise OfflineError(
                f"the network may not be used to push to {self.repository.registry}",
                where=self.where,
                hint="run it again without --offline",
            ) from None

    def unreachable(self, error: FetchError) -> FetchError:
        """What to tell where there is no answer."""
        registry = self.repository.registry
        plain = f"; if {registry} has no TLS, list it under `insecure` in [registries] of the settings"
        secure = self.repository.place("").url.startswith("https:")
        hint = (error.hint or "try again later") + (plain if secure else "")
        return FetchError(error.message, where=self.where, hint=hint)

    def refused(self, error: StatusError) -> PushError:
        """What to tell a person whom the registry does not let push."""
        registry = self.repository.registry
        if error.code in (401, 403):
            notes = "".join(f"; {note}" for note in self.repository.notes)
            return PushError(
                f"{registry} does not let us push there: it answered {error.code}{_said(error)}",
                where=self.where,
                hint=f"check the name, and log in with `docker login {registry}` or `podman login {registry}` as "
                f"somebody who may push, whose files are read{notes}",
                code=error.code,
            )
        return PushError(
            f"{registry} does not take it: {error.message}{_said(error)}", where=self.where, code=error.code
        )


def _said(error: StatusError) -> str:
    """The registry's own words, as the specification has them: ``{"errors": [{"code", "message"}]}``."""
    try:
        first = json.loads(error.body)["errors"][0]
        words = f"{first['code']}: {first.get('message', '')}"
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return ""
    return f" ({''.join(sign for sign in words if sign.isprintable())[:200]})"
