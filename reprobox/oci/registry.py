"""Images in OCI registries: names as Docker reads them, and a client that believes nothing that it has not hashed.

Sources: OCI Distribution Specification v1.1; distribution/reference for names; Docker's token authentication
specification (Bearer challenges).
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import threading
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from reprobox import config
from reprobox.digest import bare, prefixed, sha256
from reprobox.download.downloader import Downloader
from reprobox.download.transfer import Auth, Document, Location, StatusError
from reprobox.errors import FetchError, IntegrityError, OfflineError, ReproboxError, UsageError
from reprobox.image import Descriptor
from reprobox.lock import Input
from reprobox.oci import documents as oci
from reprobox.oci.credentials import Credentials
from reprobox.urls import loopback

_HUB, _HUB_HOST = "docker.io", "registry-1.docker.io"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_HOST_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY = re.compile(rf"(?:{_HOST_PART}(?:\.{_HOST_PART})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """An image's full name: ``registry/repository[:tag][@digest]``; ``digest`` is ``sha256:<hex>`` or empty."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """``text`` as Docker reads it: ``python`` is ``docker.io/library/python:latest``. Raises UsageError."""
        rest, at, digest = text.partition("@")
        head, colon, tag = rest.rpartition(":")
        name, tag = (head, tag) if colon and "/" not in tag else (rest, "")
        registry, repository = _split(name)
        problem = _problem(text, registry, repository, tag if name != rest else None, digest if at else None)
        if problem:
            raise UsageError(
                problem, where=text, hint='write it as Docker does: "python:3.11-slim", "host:5000/group/name"'
            )
        return cls(registry=registry, repository=repository, tag=tag if tag or at else "latest", digest=digest)

    @property
    def name(self) -> str:
        """Registry and repository, which is what other tags and digests of the same image share."""
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}@{self.digest}" if self.digest else f"{self.name}{tag}"


def _split(name: str) -> tuple[str, str]:
    """Registry and repository; the first part is a host where it has a dot, a port or a capital, or is localhost."""
    first, slash, rest = name.partition("/")
    if not slash or not (re.search(r"[.:A-Z]", first) or first == "localhost"):
        first, rest = _HUB, name
    elif first == "index.docker.io":
        first = _HUB
    return first, f"library/{rest}" if first == _HUB and "/" not in rest else rest


def _problem(text: str, registry: str, repository: str, tag: str | None, digest: str | None) -> str:
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return "64 hexadecimal digits are an image's id, which no registry knows; it must be a name"
    if not _REGISTRY.fullmatch(registry):
        return f"{registry!r} is not the name of a registry"
    if not _REPOSITORY.fullmatch(repository) or len(repository) > 255:
        return f"{repository!r} is not an image's name" + ("" if repository.islower() else ": it must be in lower case")
    if tag is not None and not _TAG.fullmatch(tag):
        return f"{tag!r} is not a tag"
    if digest is not None and not _DIGEST.fullmatch(digest):
        return f"{digest!r} is not a digest that can be used: sha256: and 64 lower-case hexadecimal digits"
    return ""


# -- access ------------------------------------------------------------------------------------------------------------


class _Access:
    """Says who asks at one server about one repository: nothing, a password, or a token traded for it.

    An :class:`reprobox.download.transfer.Auth`; many threads share it, and the first whose token expired renews it
    for all.
    """

    def __init__(
        self, server: str, registry: str, repository: str, downloader: Downloader, logins: Credentials
    ) -> None:
        self._server = server
        self._registry = registry
        self._repository = repository
        self._downloader = downloader
        self._logins = logins
        self._header = ""
        self._lock = threading.Lock()

    def headers(self) -> Mapping[str, str]:
        return {"Authorization": self._header} if self._header else {}

    def answer(self, challenge: str, sent: Mapping[str, str]) -> bool:
        with self._lock:
            refused = sent.get("Authorization", "")
            if self._header == refused:
                self._header = self._obtained(challenge)
            return bool(self._header) and self._header != refused

    def _obtained(self, challenge: str) -> str:
        for scheme, words in _challenges(challenge):
            if scheme == "bearer" and "realm" in words:
                return f"Bearer {self._token(words)}"
            if scheme == "basic":
                login = self._logins.login(self._registry, self._repository)
                return login.basic() if login and not login.token else ""
        return ""

    def _token(self, words: Mapping[str, str]) -> str:
        """A token from the server that the registry names; without a login, an anonymous one."""
        realm = words["realm"]
        if not realm.startswith("https://") and not (
            realm.startswith("http://") and self._server.startswith("http://")
        ):
            raise FetchError(f"it wants a login sent to {realm}, which is not safe", where=self._registry)
        login = self._logins.login(self._registry, self._repository)
        scope = words.get("scope") or f"repository:{self._repository}:pull"
        query = {"scope": scope} | ({"service": words["service"]} if "service" in words else {})
        place = Location(url=f"{realm}{'&' if '?' in realm else '?'}{urllib.parse.urlencode(query)}")
        if login and login.token:
            form = {**query, "grant_type": "refresh_token", "client_id": "reprobox", "refresh_token": login.token}
            answer = self._downloader.get(realm, data=urllib.parse.urlencode(form).encode(), limit=1 << 20)
        else:
            sent = {"Authorization": login.basic()} if login else {}
            answer = self._downloader.get(Location(url=place.url, headers=sent), limit=1 << 20)
        try:
            document = json.loads(answer.body)
            return str(document.get("token") or document["access_token"])
        except (ValueError, KeyError, AttributeError):
            raise FetchError("it gave no token that can be read", where=place.shown) from None


def _challenges(header: str) -> list[tuple[str, dict[str, str]]]:
    """The schemes of a WWW-Authenticate header (RFC 9110, 11.6.1), each with its parameters."""
    found = []
    for part in re.split(r",\s*(?=[A-Za-z]+\s+[A-Za-z]+=)", header):
        scheme, _, rest = part.strip().partition(" ")
        words = re.findall(r'([A-Za-z_]+)=(?:"([^"]*)"|([^\s,"]+))', rest)
        found.append((scheme.lower(), {name.lower(): quoted or plain for name, quoted, plain in words}))
    return found


# -- repositories ------------------------------------------------------------------------------------------------------


class Repository:
    """The images of one name, at their registry and at the mirrors that the user set up for it."""

    def __init__(
        self, name: str, servers: Sequence[tuple[str, Auth]], downloader: Downloader, logins: Credentials
    ) -> None:
        self.name = name
        self.downloader = downloader
        self.registry, _, self._path = name.partition("/")
        self._servers = servers
        self._logins = logins

    @property
    def notes(self) -> Sequence[str]:
        """What stood in the way of finding a login."""
        return self._logins.notes

    def place(self, path: str) -> Location:
        """Where the registry itself, and none of its mirrors, has ``path``: ``blobs/sha256:…``, ``manifests/TAG``."""
        server, access = self._servers[-1]
        return Location(url=self._url(server, path), auth=access)

    def tagged(self, reference: Reference) -> Location:
        """Where the registry itself says what a name stands for now."""
        server, access = self._servers[-1]
        path = f"manifests/{reference.digest or reference.tag}"
        return Location(url=self._url(server, path), label=str(reference), headers=_MANIFESTS, auth=access)

    def image(self, reference: Reference, platform: str) -> oci.Image:
        """The image for ``platform`` that the registry has under this name now; every document is checked by its hash.

        Raises :class:`FetchError` that says what is there instead, and :class:`IntegrityError`.
        """
        found = self._asked(reference, f"manifests/{reference.digest or reference.tag}", oci.MOST_MANIFEST, _MANIFESTS)
        _check(found.body, reference.digest or found.headers.get("docker-content-digest", ""), reference)
        kind = found.headers.get("content-type", "")
        return oci.open_image(found.body, kind, partial(self._read, reference), platform, str(reference))

    def artifact(self, reference: Reference, types: Sequence[str]) -> Descriptor:
        """The one blob of a type that the artifact of this name has now. Raises what :meth:`image` does."""
        return oci.open_artifact(self.document(reference), types, str(reference))

    def document(self, reference: Reference) -> bytes:
        """The manifest that the registry has under this name now, of whatever it may be; checked by its hash."""
        found = self._asked(reference, f"manifests/{reference.digest or reference.tag}", oci.MOST_MANIFEST, _MANIFESTS)
        _check(found.body, reference.digest or found.headers.get("docker-content-digest", ""), reference)
        return found.body

    def locations(self, digest: str, media_type: str) -> list[Location]:
        """Where the blob or manifest with this sha256 hex can be had, mirrors first."""
        manifest = media_type in (*oci.MANIFEST_TYPES, *oci.INDEX_TYPES)
        path = f"{'manifests' if manifest else 'blobs'}/{prefixed(digest)}"
        return [
            Location(url=self._url(server, path), headers=_MANIFESTS if manifest else {}, auth=access)
            for server, access in self._servers
        ]

    def tags(self) -> list[str]:
        """The first thousand tags, if the registry lists them."""
        try:
            found = json.loads(self._get("tags/list?n=1000", oci.MOST_MANIFEST, {}).body)["tags"]
        except (ReproboxError, ValueError, KeyError, TypeError):
            return []
        return [tag for tag in found or () if isinstance(tag, str)]

    def _url(self, server: str, path: str) -> str:
        return f"{server}/v2/{self._path}/{path}"

    def _read(self, reference: Reference, descriptor: Descriptor) -> bytes:
        digest = prefixed(descriptor.digest)
        if descriptor.media_type in (*oci.MANIFEST_TYPES, *oci.INDEX_TYPES):
            found = self._asked(reference, f"manifests/{digest}", oci.MOST_MANIFEST, _MANIFESTS)
        else:
            found = self._asked(reference, f"blobs/{digest}", oci.MOST_CONFIG, {})
        _check(found.body, digest, reference)
        return found.body

    def _asked(self, reference: Reference, path: str, limit: int, headers: Mapping[str, str]) -> Document:
        try:
            return self._get(path, limit, headers)
        except StatusError as error:
            raise self._refused(error, reference) from None
        except FetchError as error:
            plain = f"; if {self.registry} has no TLS, list it under `insecure` in [registries] of the settings"
            hint = (error.hint or "try again later") + (plain if self._servers[-1][0].startswith("https:") else "")
            raise FetchError(f"{error.where}: {error.message}", where=str(reference), hint=hint) from None
        except OfflineError:
            message = f"the network may not be used to ask {self.registry} for it"
            raise OfflineError(message, where=str(reference), hint="run it once without --offline") from None

    def _get(self, path: str, limit: int, headers: Mapping[str, str]) -> Document:
        """From the first server that has it; what the registry itself says counts, not what its mirrors say."""
        for server, access in self._servers[:-1]:
            with contextlib.suppress(FetchError):
                return self.downloader.get(
                    Location(url=self._url(server, path), auth=access), headers=headers, limit=limit
                )
        server, access = self._servers[-1]
        return self.downloader.get(Location(url=self._url(server, path), auth=access), headers=headers, limit=limit)

    def _refused(self, error: StatusError, reference: Reference) -> FetchError:
        where = str(reference)
        if error.code == 404:
            return FetchError(f"{self.registry} has no such image", where=where, hint=self._near(reference))
        if error.code in (401, 403):
            notes = "".join(f"; {note}" for note in self._logins.notes)
            return FetchError(
                f"{self.registry} does not give it to us: it answered {error.code}",
                where=where,
                hint=f"check the name; if the image is private, log in with `docker login {self.registry}` or "
                f"`podman login {self.registry}`, whose files are read{notes}",
            )
        return FetchError(f"{self.registry}: {error.message}", where=where, hint=error.hint)

    def _near(self, reference: Reference) -> str:
        tags = self.tags()
        if not tags:
            return f"check the name: the registry lists nothing under {self._path!r}"
        near = difflib.get_close_matches(reference.tag, tags, n=3) if reference.tag else []
        if near:
            return f"did you mean {' or '.join(f'{reference.name}:{tag}' for tag in near)}?"
        return f"check the {'digest' if reference.digest else 'tag'}; tags there are {', '.join(tags[:8])}"


def _check(data: bytes, digest: str, reference: Reference) -> None:
    if digest.startswith("sha256:") and sha256(data) != bare(digest):
        raise IntegrityError(
            f"{reference.registry} sent other bytes than those of {digest}: their sha256 is {sha256(data)}",
            where=str(reference),
            hint="something between here and there changes what is sent, or the registry is broken",
        )


_MANIFESTS: Mapping[str, str] = {"Accept": ", ".join((*oci.MANIFEST_TYPES, *oci.INDEX_TYPES))}


class Registries:
    """All registries, as this user's settings and logins have them. Threads may share it."""

    def __init__(
        self, downloader: Downloader, settings: config.Registries | None = None, logins: Credentials | None = None
    ) -> None:
        self._downloader = downloader
        self._settings = settings or config.Registries()
        self._logins = logins or Credentials()
        self._repositories: dict[str, Repository] = {}
        self._lock = threading.Lock()

    def image(self, reference: Reference, platform: str) -> oci.Image:
        """See :meth:`Repository.image`."""
        return self.repository(reference).image(reference, platform)

    def artifact(self, reference: Reference, types: Sequence[str]) -> Descriptor:
        """See :meth:`Repository.artifact`."""
        return self.repository(reference).artifact(reference, types)

    def repository(self, reference: Reference) -> Repository:
        with self._lock:
            if reference.name not in self._repositories:
                self._repositories[reference.name] = self._opened(reference)
            return self._repositories[reference.name]

    def _opened(self, reference: Reference) -> Repository:
        own = f"{self._scheme(reference.registry)}://{_HUB_HOST if reference.registry == _HUB else reference.registry}"
        mirrors = [url.rstrip("/") for url in self._settings.mirrors.get(reference.registry, ())]
        servers = [(url, urllib.parse.urlsplit(url).netloc) for url in mirrors] + [(own, reference.registry)]
        access = [
            (url, _Access(url, registry, reference.repository, self._downloader, self._logins))
            for url, registry in servers
        ]
        return Repository(reference.name, access, self._downloader, self._logins)

    def private(self, registry: str) -> bool:
        """Whether nobody on the way to the registry can change what it says."""
        host = urllib.parse.urlsplit(f"//{registry}").hostname or ""
        return loopback(host) or self._scheme(registry) == "https"

    def _scheme(self, registry: str) -> str:
        host = urllib.parse.urlsplit(f"//{registry}").hostname or ""
        return "http" if registry in self._settings.insecure or loopback(host) else "https"


class BlobProvider:
    """Finds locked blobs in the registry that they were locked from, and in its mirrors."""

    name = "registry"

    def __init__(self, registries: Registries) -> None:
        self._registries = registries

    def locate(self, inputs: Sequence[Input]) -> Mapping[str, Sequence[Location]]:
        """Asks nobody: a registry's answer to the download itself says enough."""
        return {
            item.sha256: self._registries.repository(Reference.parse(item.facts["repository"])).locations(
                item.sha256, item.facts.get("media_type", "")
            )
            for item in inputs
            if item.type == "blob" and "repository" in item.facts
        }
