"""A Python package index on loopback, with wheels made for the purpose: uv and reprobox ask it as they ask any other."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.servers import Request, Server


def wheel(
    name: str,
    version: str,
    *,
    tag: str = "py3-none-any",
    requires: Iterable[str] = (),
    python: str = "",
    files: Mapping[str, str | bytes] | None = None,
) -> tuple[str, bytes]:
    """File name and bytes of a wheel with a module of its own; the same arguments give the same bytes."""
    stem = f"{name.replace('-', '_')}-{version}"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {item}\n" for item in requires)
    metadata += f"Requires-Python: {python}\n" if python else ""
    content: dict[str, str | bytes] = dict(files if files is not None else {f"{name.replace('-', '_')}.py": "x = 1\n"})
    content[f"{stem}.dist-info/METADATA"] = metadata
    tags = "".join(f"Tag: {tag.rsplit('-', 1)[0]}-{platform}\n" for platform in tag.rsplit("-", 1)[1].split("."))
    content[f"{stem}.dist-info/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n{tags}"
    record = "".join(_record(path, _bytes(data)) for path, data in content.items())
    content[f"{stem}.dist-info/RECORD"] = f"{record}{stem}.dist-info/RECORD,,\n"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path, data in content.items():
            archive.writestr(zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0)), _bytes(data))
    return f"{stem}-{tag}.whl", stream.getvalue()


def _bytes(data: str | bytes) -> bytes:
    return data.encode() if isinstance(data, str) else data


def _record(path: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(data)}\n"


def uv_wheel(version: str, program: Path | None = None) -> tuple[str, bytes]:
    """A wheel as uv's static one is: with ``program`` in it, else with nothing."""
    files = {f"uv-{version}.data/scripts/uv": program.read_bytes()} if program else {}
    return wheel("uv", version, tag="py3-none-musllinux_1_1_x86_64", files=files)


class Index:
    """A simple index (PEP 503, PEP 691) on ``server``. ``plain`` answers with HTML, which says no sizes; ``hashes=False``
    leaves the hashes out too; ``login`` is the user:password that it wants."""

    def __init__(self, server: Server, *, plain: bool = False, hashes: bool = True, login: str = "") -> None:
        self._server = server
        self._plain = plain
        self._hashes = hashes
        self._login = login
        self.wheels: dict[str, dict[str, bytes]] = {}
        self.yanked: dict[str, str] = {}  # reasons by file name
        server.otherwise = self._answer

    @property
    def url(self) -> str:
        return self._server.url("/simple")

    @property
    def url_with_login(self) -> str:
        return self.url.replace("://", f"://{self._login}@")

    def add(self, name: str, version: str, **about: object) -> bytes:
        file, data = wheel(name, version, **about)  # type: ignore[arg-type]
        return self.add_file(name, file, data)

    def add_file(self, name: str, file: str, data: bytes) -> bytes:
        self.wheels.setdefault(name, {})[file] = data
        return data

    def forget(self, name: str, file: str) -> None:
        del self.wheels[name][file]

    def _answer(self, request: Request) -> tuple[int, Mapping[str, str], bytes]:
        wanted = f"Basic {base64.b64encode(self._login.encode()).decode()}"
        if self._login and request.headers.get("Authorization", request.headers.get("authorization")) != wanted:
            return 401, {"WWW-Authenticate": 'Basic realm="index"'}, b""
        kind, _, rest = request.path.strip("/").partition("/")
        if kind == "simple" and rest in self.wheels:
            return self._page(rest)
        if kind == "files":
            name, _, file = rest.partition("/")
            if file in self.wheels.get(name, {}):
                return 200, {"Content-Type": "application/zip"}, self.wheels[name][file]
            if file.removesuffix(".metadata") in self.wheels.get(name, {}):
                return 200, {"Content-Type": "text/plain"}, _metadata(self.wheels[name][file.removesuffix(".metadata")])
        return 404, {}, b""

    def _page(self, name: str) -> tuple[int, Mapping[str, str], bytes]:
        if self._plain:
            links = "".join(self._link(name, file, data) for file, data in self.wheels[name].items())
            return 200, {"Content-Type": "text/html"}, f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
        files = [
            {
                "filename": file,
                "url": f"/files/{name}/{file}",
                "hashes": {"sha256": hashlib.sha256(data).hexdigest()} if self._hashes else {},
                "size": len(data),
                "core-metadata": file.endswith(".whl"),
                **({"yanked": self.yanked[file]} if file in self.yanked else {}),
            }
            for file, data in self.wheels[name].items()
        ]
        document = {"meta": {"api-version": "1.1"}, "name": name, "files": files}
        return 200, {"Content-Type": "application/vnd.pypi.simple.v1+json"}, json.dumps(document).encode()

    def _link(self, name: str, file: str, data: bytes) -> str:
        fragment = f"#sha256={hashlib.sha256(data).hexdigest()}" if self._hashes else ""
        return f'<a href="/files/{name}/{file}{fragment}" data-core-metadata="true">{file}</a>'


def _metadata(data: bytes) -> bytes:
    """PEP 658: what uv reads of a wheel before it wants it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA")))


BACKEND = '''
"""A build backend (PEP 517) of one file: the wheel has the modules that lie beside pyproject.toml, and says how it was built."""
import glob, os, sys, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    name, version = os.path.basename(os.getcwd()).rsplit("-", 1)
    info = f"{name}-{version}.dist-info"
    files = {path: open(path).read() for path in sorted(glob.glob("*.py"))}
    files[f"{name}_built.py"] = f"place = {os.getcwd()!r}\\nepoch = {os.environ.get('SOURCE_DATE_EPOCH')!r}\\n"
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    files[f"{info}/RECORD"] = "".join(f"{path},,\\n" for path in [*files, f"{info}/RECORD"])
    target = f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, target), "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return target
'''
PYPROJECT = '[build-system]\nrequires = ["tinybackend{versions}"]\nbuild-backend = "{backend}"\n'


def sdist(
    name: str, version: str, files: Mapping[str, str], *, versions: str = "", backend: str = "tinybackend"
) -> tuple[str, bytes]:
    """A source distribution that ``BACKEND``, as the package tinybackend, builds; its metadata needs no build."""
    stem = f"{name.replace('-', '_')}-{version}"
    content = {
        "pyproject.toml": PYPROJECT.format(versions=versions, backend=backend),
        "PKG-INFO": f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n",
        **files,
    }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for path, text in content.items():
            info = tarfile.TarInfo(f"{stem}/{path}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return f"{stem}.tar.gz", stream.getvalue()
