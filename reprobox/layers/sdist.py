"""Source distributions: what one needs to be built, read from it without running anything of it.

Sources: PEP 517 and PEP 518 (``build-system``), and the specification of source distributions.
"""

from __future__ import annotations

import io
import tarfile
import tomllib
import zipfile

from packaging.requirements import InvalidRequirement, Requirement

from reprobox.errors import ResolveError

#: What is meant where a source says nothing (PEP 517); older ones also expect wheel.
DEFAULT = ("setuptools>=40.8.0", "wheel")
_LARGEST = 1 << 20
_SEEN = 10_000  # members of an archive that are looked at


def build_requirements(data: bytes, name: str) -> tuple[str, ...]:
    """``build-system.requires`` of the source distribution ``name``. Raises :class:`ResolveError` without ``where``."""
    try:
        text = _pyproject(data, name)
        table = tomllib.loads(text.decode()).get("build-system", {}) if text else {}
        requires = table.get("requires", DEFAULT)
        return tuple(str(Requirement(item)) for item in requires)
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        OSError,
        EOFError,
        ValueError,
        TypeError,
        InvalidRequirement,
    ) as error:
        hint = "choose another version, or one that has wheels"
        raise ResolveError(f"{name} is no source distribution that can be read: {error}", hint=hint) from None


def _pyproject(data: bytes, name: str) -> bytes:
    """``NAME-VERSION/pyproject.toml``; empty without."""
    if name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [info for info in archive.infolist()[:_SEEN] if _is_wanted(info.filename)]
            if members and members[0].file_size > _LARGEST:
                raise ValueError("its pyproject.toml is larger than 1 MiB")
            return archive.read(members[0]) if members else b""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for _, member in zip(range(_SEEN), tar, strict=False):
            if _is_wanted(member.name) and member.isfile():
                if member.size > _LARGEST:
                    raise ValueError("its pyproject.toml is larger than 1 MiB")
                file = tar.extractfile(member)
                return file.read() if file else b""
    return b""


def _is_wanted(path: str) -> bool:
    return path.removeprefix("./").count("/") == 1 and path.endswith("/pyproject.toml")
