"""What one value of a manifest may be: a check for each sort of path, name, address and number."""

from __future__ import annotations

import posixpath
import re
from functools import partial

from reprobox import cpu
from reprobox.host import MPI_FAMILIES
from reprobox.table_rules import Check, Finding, pattern
from reprobox.wording import did_you_mean, listed, quote

GIT_SCHEMES = ("https", "http", "ssh", "git", "file")


def _absolute(text: str) -> Finding | None:
    plain = posixpath.normpath(f"/{text.lstrip('/')}")
    if not text.startswith("/"):
        return Finding(
            f"expected an absolute path, found {quote(text)}", f"write {quote(plain)}" if text else "begin it with /"
        )
    return None if text == plain else Finding(f"{quote(text)} is not a plain path", f"write {quote(plain)}")


def _inside(text: str) -> Finding | None:
    hint = "name a path inside the project folder: manifest and lock travel with it"
    if not text:
        return Finding("the path is empty", 'write "." for the project folder')
    if text.startswith("/"):
        return Finding(f"expected a path relative to this file, found {quote(text)}", hint)
    outside = posixpath.normpath(text).split("/")[0] == ".."
    return Finding(f"{quote(text)} leads out of the project folder", hint) if outside else None


def _host(text: str) -> Finding | None:
    if text.startswith("~"):
        return Finding(
            f"{quote(text)}: ~ is not expanded here", "write a path relative to this file, or an absolute one"
        )
    return None if text else Finding("the path is empty", "write a path relative to this file, or an absolute one")


_NO_MOUNTS = ("/proc", "/dev", "/sys")


def _mount_point(text: str) -> Finding | None:
    if finding := _absolute(text):
        return finding
    if text == "/" or any(text == top or text.startswith(f"{top}/") for top in _NO_MOUNTS):
        return Finding(f"nothing can be mounted at {quote(text)}", f"choose a path outside {listed(_NO_MOUNTS)}")
    return None


def _mounted(text: str) -> Finding | None:
    plain = posixpath.normpath(text.rstrip("/"))
    if text and not text.startswith("/") and plain == text.rstrip("/") and plain.split("/")[0] not in ("..", "."):
        return None
    return Finding(f"expected a name inside the mount, found {quote(text)}", 'such as "train/images.npy"')


_SCHEMES = ("https", "http", "file")


def _find_in_url(text: str) -> Finding | None:
    scheme, mark, rest = text.partition("://")
    if not mark or not scheme or any(char.isspace() for char in text):
        hint = 'begin it with https://; files of the project are put in place by a layer of kind "copy"'
        return Finding(f"expected a URL, found {quote(text)}", hint)
    if scheme not in _SCHEMES:
        return Finding(f"{quote(scheme)} is no way to fetch a file", did_you_mean(scheme, _SCHEMES))
    good = rest.startswith("/") if scheme == "file" else bool(rest) and not rest.startswith("/")
    return None if good else Finding(f"expected a URL, found {quote(text)}", "write https://host/path or file:///path")


def _orcid(text: str) -> Finding | None:
    """The check digit is ISO 7064 MOD 11-2, as ORCID documents it."""
    digits = text.replace("-", "")
    total = 0
    for digit in digits[:-1]:
        total = (total + int(digit)) * 2
    good = "0123456789X"[(12 - total % 11) % 11] == digits[-1]
    return None if good else Finding(f"{quote(text)} has a wrong check digit", "copy it again from orcid.org")


def _repository(text: str) -> Finding | None:
    if finding := word.find(text):
        return finding
    scheme, mark, rest = text.partition("://")
    if mark:
        if scheme not in GIT_SCHEMES:
            return Finding(f"{quote(scheme)} is no way to a repository", did_you_mean(scheme, GIT_SCHEMES))
        good = rest.startswith("/") if scheme == "file" else bool(rest) and not rest.startswith("/")
        return None if good else Finding(f"expected a repository, found {quote(text)}", "write https://host/path")
    if "::" in text.partition("/")[0] or text.startswith("~"):
        return Finding(
            f"expected a repository, found {quote(text)}", "write a URL, user@host:path, or the path of a folder"
        )
    return None


def both(first: Check, second: Check) -> Check:
    """The value must pass ``first`` and then ``second``."""
    return Check(find=lambda text: first.find(text) or second.find(text), schema={**first.schema, **second.schema})


absolute_path = Check(find=_absolute, schema={"pattern": "^/"})
"""A path inside the environment: absolute, without ``.``, ``..``, doubled or trailing slashes."""

relative_inside = Check(find=_inside, schema={"pattern": r"^(?!/)(?!\.\.(?:/|$))."})
"""A path on the host, relative to the manifest, that stays inside the project folder."""

host_path = Check(find=_host, schema={"pattern": "^[^~]"})
"""Any path on the host; relative ones start at the manifest."""

file_url = Check(find=_find_in_url, schema={"pattern": r"^(?:https?://[^/\s]|file:///)\S*$"})
"""A URL that a file can be had from."""

mounted_name = Check(find=_mounted, schema={"pattern": r"^(?!/)(?!\.\.?(?:/|$))."})
"""A relative path inside a mount."""

mount_point = Check(find=_mount_point, schema={"pattern": "^/(?!(?:proc|dev|sys)(?:/|$))."})

nonempty = pattern(r"[\s\S]*\S[\s\S]*", "some text", "write it, or leave the key out")
word = pattern(r"[^\s-]\S*", "one word", "write it without spaces; it cannot begin with -")
url = pattern(r"[a-z][a-z0-9+.-]*://\S+", "a URL", "begin it with https://")
repository = Check(find=_repository, schema={"pattern": r"^[^\s~-]\S*$"})
"""A URL, ``user@host:path``, or the path of a folder of this machine, relative to the manifest."""
sha256_hex = pattern(r"[0-9a-f]{64}", "64 lower-case hexadecimal digits", "write what sha256sum prints")
env_name = pattern(
    r"[A-Za-z_][A-Za-z0-9_]*",
    "the name of an environment variable",
    "use letters, digits and _, and no digit at the start",
)
apt_package = pattern(
    r"[a-z0-9][a-z0-9+.-]+(?::[a-z0-9-]+)?(?:=[A-Za-z0-9.+:~*-]+)?",
    "a Debian package",
    "write a name in lower case, or name=version; a version may end in *",
)
_name = partial(pattern, hint="use lower-case letters, digits, ., _ and -, and begin with a letter or digit")
slug = _name(r"[a-z0-9][a-z0-9._-]*", "a short name")
layer_name = _name(r"[a-z0-9][a-z0-9._-]*", "the name of a layer")
_CLAUSE = r"(?:[<>=~!]=|[<>]) ?[0-9]+(?:\.[0-9]+)*"
version = pattern(
    rf"[0-9]+(?:\.[0-9]+)*|{_CLAUSE}(?: ?, ?{_CLAUSE})*", "a version", 'for example "12.4", ">=12.4" or ">=4,<5"'
)
size = pattern(r"[0-9]+(?:\.[0-9]+)? ?(?:[kKMGTP]i?)?B", "a size", 'for example "16 GiB"')


def _mpi_family(text: str) -> Finding | None:
    family = re.split(r"[ <>=~!]", text, maxsplit=1)[0]
    if family in MPI_FAMILIES:
        return None
    return Finding(f"unknown MPI {quote(family)}", did_you_mean(family, MPI_FAMILIES))


def _find_cpu(text: str) -> Finding | None:
    if cpu.family(text) in cpu.FAMILIES.values():
        return None
    known = [name for architecture in cpu.FAMILIES for name in cpu.names(architecture)]
    return Finding(
        f"unknown CPU {quote(text)}",
        did_you_mean(text, known, 'for example "x86-64-v3", "skylake", "zen3" or "neoverse_n1"'),
    )


mpi_library = both(
    pattern(rf"[a-z][a-z0-9-]*(?: ?{_CLAUSE}(?: ?, ?{_CLAUSE})*)?", "an MPI", 'for example "openmpi>=4"'),
    Check(find=_mpi_family),
)
cpu_name = both(word, Check(find=_find_cpu))

email_address = pattern(r"[^@\s]+@[^@\s]+", "an e-mail address", "write name@host, or leave the key out")
distribution = pattern(r"debian:[a-z][a-z0-9-]*", "a distribution to bootstrap", 'for example "debian:bookworm"')
doi_name = pattern(r"10\.[0-9]{4,9}/\S+", "a DOI", 'begin with "10.", without https://doi.org/')
orcid_id = both(
    pattern(r"[0-9]{4}-[0-9]{4}-[0-9]{4}-[0-9]{3}[0-9X]", "an ORCID iD", 'for example "0000-0002-1825-0097"'),
    Check(find=_orcid),
)
web_page = pattern(r"https?://[^\s/]+(?:/\S*)?", "the address of a page", "begin it with https://")
ror_id = pattern(
    r"https://ror\.org/0[a-hj-km-np-tv-z0-9]{6}[0-9]{2}", "a ROR identifier", 'for example "https://ror.org/03yrm5c26"'
)


def _find_in_day(text: str) -> Finding | None:
    import datetime as dt

    try:
        good = dt.date.fromisoformat(text).isoformat() == text
    except ValueError:
        good = False
    return None if good else Finding(f"expected a day, found {quote(text)}", 'for example "2026-11-22"')


day = Check(find=_find_in_day, schema={"format": "date"})
