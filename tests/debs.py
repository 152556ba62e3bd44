"""Small Debian packages and signed archives, made for a test: real formats, made by dpkg-deb and OpenPGP."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pysequoia

from reprobox.backend import Bind, ToolResult
from reprobox.debian import deb
from reprobox.debian.control import fields, write
from reprobox.debian.sources import Source
from reprobox.download.downloader import Downloader
from reprobox.lock import Input, Lock
from reprobox.providers import Documents, HintProvider, fetch
from reprobox.store import Store
from tests.servers import Server

NOW = int(datetime.now(UTC).timestamp())
TIME = 1_700_000_000


def make_deb(  # one keyword for each thing that a package can have
    folder: Path,
    name: str,
    *,
    version: str = "1.0",
    architecture: str = "amd64",
    control: Mapping[str, str] | None = None,
    files: Mapping[str, bytes | tuple[str, str]] | None = None,
    scripts: Mapping[str, str] | None = None,
    compression: str = "xz",
) -> Path:
    """A package in ``folder``. ``files``: path -> content, or ("symlink" or "hardlink", target); mode 0755 below bin."""
    root = folder / f"{name}-{version}-tree"
    (root / "DEBIAN").mkdir(parents=True)
    values = {"Package": name, "Version": version, "Architecture": architecture, "Maintainer": "Nobody <n@example.org>"}
    (root / "DEBIAN/control").write_bytes(write({**values, "Description": "a test", **(control or {})})[:-1])
    for path, content in (files or {}).items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            place.write_bytes(content)
            place.chmod(0o755 if "bin/" in path else 0o644)
        elif content[0] == "symlink":
            place.symlink_to(content[1])
        else:
            place.hardlink_to(root / content[1])
    for script, text in (scripts or {}).items():
        (root / "DEBIAN" / script).write_text(text)
        (root / "DEBIAN" / script).chmod(0o755 if text.startswith("#!") else 0o644)
    subprocess.run(["chmod", "-R", "u+rwX,go+rX,go-w", root], check=True)
    subprocess.run(["find", root, "-exec", "touch", "-h", "-d", f"@{TIME}", "{}", "+"], check=True)
    bare = version.partition(":")[2] or version
    target = folder / f"{name}_{bare}_{architecture}.deb"
    command = ["dpkg-deb", f"-Z{compression}", "--root-owner-group", "--build", root, target]
    subprocess.run(command, check=True, capture_output=True)
    return target


def stanza(path: Path, place: str) -> dict[str, str]:
    """The package's stanza in an index."""
    data = path.read_bytes()
    control = fields(deb.control_files(data)["control"])
    size = {"Size": str(len(data)), "SHA256": hashlib.sha256(data).hexdigest()}
    return {**control, "Filename": place, **size}


class Key:
    """A key that signs, and its public half."""

    def __init__(self, name: str = "A Test Archive <archive@example.org>", seconds: int | None = None) -> None:
        self._secret = pysequoia.Tsk.generate(name, validity_seconds=seconds)
        self.certificate = self._secret.extract_certificate()
        self.fingerprint = self.certificate.fingerprint.upper()
        self.armored = str(self.certificate).encode()

    def clear(self, content: bytes) -> bytes:
        return pysequoia.sign(self._secret.signer(), content, mode=pysequoia.SignatureMode.CLEAR)

    def detached(self, content: bytes) -> bytes:
        return pysequoia.sign(self._secret.signer(), content, mode=pysequoia.SignatureMode.DETACHED)


@dataclass
class Suite:
    """One suite of an archive, as files below its base."""

    name: str
    packages: Sequence[Path] = ()
    label: str = "Debian"
    origin: str = "Debian"
    date: int = NOW - 3600
    valid: int | None = None
    by_hash: bool = True
    architecture: str = "amd64"
    packings: Sequence[str] = (".xz",)
    extra: Mapping[str, str] = field(default_factory=dict)

    def files(self, key: Key, *, in_release: bool = True) -> dict[str, bytes]:
        """Paths below the archive's base."""
        pool = {f"pool/main/{path.name}": path for path in self.packages}
        packages = b"".join(write(stanza(path, place)) for place, path in pool.items())
        component = f"main/binary-{self.architecture}"
        packed = {".gz": gzip.compress(packages, mtime=0), ".xz": lzma.compress(packages)}
        indices = {f"{component}/Packages": packages}
        indices |= {f"{component}/Packages{suffix}": packed[suffix] for suffix in self.packings}
        release = self._release(indices)
        dists = f"dists/{self.name}"
        files = {place: path.read_bytes() for place, path in pool.items()}
        for path, data in indices.items():
            if path.endswith((".gz", ".xz")):  # as in Debian's archive: the bare index is listed, and not there
                files[f"{dists}/{path}"] = data
                if self.by_hash:
                    files[f"{dists}/{component}/by-hash/SHA256/{hashlib.sha256(data).hexdigest()}"] = data
        if in_release:
            return {**files, f"{dists}/InRelease": key.clear(release)}
        return {**files, f"{dists}/Release": release, f"{dists}/Release.gpg": key.detached(release)}

    def flat(self, key: Key, folder: str = "") -> dict[str, bytes]:
        """The same packages as a flat repository: an index and packages in one folder, nothing by name."""
        prefix = f"{folder}/" if folder else ""
        packages = b"".join(write(stanza(path, f"./{prefix}{path.name}")) for path in self.packages)
        indices = {"./Packages": packages, "./Packages.gz": gzip.compress(packages, mtime=0)}
        hashes = "".join(f"\n{hashlib.sha256(data).hexdigest()} {len(data)} {path}" for path, data in indices.items())
        values = {"Date": _date(self.date), "SHA256": hashes, **({"Label": self.label} if self.label else {})}
        files = {"InRelease": key.clear(write(values)[:-1]), "Packages.gz": indices["./Packages.gz"]}
        files |= {path.name: path.read_bytes() for path in self.packages}
        return {f"{prefix}{name}": data for name, data in files.items()}

    def _release(self, indices: Mapping[str, bytes]) -> bytes:
        values = {"Origin": self.origin, "Label": self.label, "Suite": self.name, "Codename": self.name}
        values |= {"Date": _date(self.date), "Architectures": self.architecture, "Components": "main", **self.extra}
        if self.valid is not None:
            values["Valid-Until"] = _date(self.valid)
        if self.by_hash:
            values["Acquire-By-Hash"] = "yes"
        listed = (f"\n{hashlib.sha256(data).hexdigest()} {len(data)} {path}" for path, data in indices.items())
        values["SHA256"] = "".join(listed)
        return write(values)[:-1]


def _date(seconds: int) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC)).replace("+0000", "UTC")


def serve(server: Server, base: str, suites: Sequence[Suite], key: Key) -> str:
    """Put suites under ``base`` of the server; returns the archive's base URI."""
    for suite in suites:
        server.files.update({f"{base}/{path}": data for path, data in suite.files(key).items()})
    return server.url(base)


@dataclass
class SmallWorld:
    """A world with a store, the network, and nothing of this machine's configuration."""

    store: Store
    project: Path
    archives: Mapping[str, Sequence[str]] = field(default_factory=dict)
    offline: bool = False
    index: Mapping[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    here: str = "linux/amd64"
    roots: Mapping[str, Lock] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.downloader = Downloader(offline=self.offline, attempts=2, backoff=0.01)
        self.documents = Documents(self.store, self.downloader)
        self.hints = HintProvider(self.store)

    def get(self, url: str, *, fresh: bool = True, limit: int = 64 << 20) -> bytes:
        return self.documents.get(url, fresh=fresh, limit=limit)

    def fetch(self, inputs: Sequence[Input]) -> None:
        fetch(inputs, [self.hints], self.store, downloader=self.downloader, offline=self.offline)

    def remember(self, item: Input, urls: Sequence[str]) -> None:
        self.hints.remember(item, urls)

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    def find(self, folder: str) -> tuple[str, ...]:
        return tuple(sorted(path for path in self.files if path.startswith(f"/{folder.strip('/')}/")))

    def tool(
        self, argv: Sequence[str], *, binds: Sequence[Bind] = (), stdin: bytes = b"", root: Lock | None = None
    ) -> ToolResult:
        raise NotImplementedError(argv)

    def say(self, text: str) -> None:
        self.said.append(text)


def debian(server: Server, key: Key, debs: Sequence[Path] = (), **extra: Any) -> str:
    """A mirror with bookworm and its updates, and security beside it."""
    base = serve(server, "/debian", [Suite("bookworm", debs), Suite("bookworm-updates")], key)
    security = Suite("bookworm-security", label="Debian-Security", **extra)
    serve(server, "/debian-security", [security], key)
    return base


def source(uri: str, suite: str = "bookworm", **more: Any) -> Source:
    return Source(uri=uri, suite=suite, where="/etc/apt/sources.list:1", **more)
