"""What somebody changed by hand in a copy of an environment, as layers that give the same.

Packages are found by the databases of dpkg and of Python: those that were installed become packages of an ``apt`` and a
``pip`` layer. These are locked and built; whatever the copy has beside that, and was touched by hand, is a file for a
``copy`` layer. So nothing is guessed about which file a package made.

What a layer cannot say is told: packages and files that were removed, modes other than 0644 and 0755, empty folders.
Caches, histories and credentials are never frozen.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reprobox.debian.control import fields, stanzas
from reprobox.digest import Entry, unescape
from reprobox.redact import holders
from reprobox.tree import Tree

STATUS = "var/lib/dpkg/status"
MARKS = "var/lib/apt/extended_states"
_PYTHON = re.compile(
    r"(usr/(?:local/)?lib/python3[^/]*/(?:site|dist)-packages/)([^/]+)-([^/-]+)\.dist-info/(METADATA|REQUESTED|RECORD|direct_url\.json|INSTALLER)"
)
Read = Callable[[str], bytes]

#: What is never frozen, and why: patterns of paths, as fnmatch has them.
LEFT_OUT: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        (
            "root/.ssh/*", "root/.gnupg/*", "root/.netrc", "root/.git-credentials", "root/.pypirc", "root/.aws/*",
            "root/.docker/config.json", "root/.config/gh/*", "root/.config/gcloud/*", "root/.config/pip/*",
            "root/.kube/*", "etc/apt/auth.conf", "etc/apt/auth.conf.d/*", "*/id_rsa", "*/id_ed25519", "*.pem.key",
            "etc/shadow", "etc/gshadow",  # a layer would have them as 0644, with the hash of any password that was set
        ),
        "credentials",
    ),
    (
        (
            "root/.*_history", "root/.lesshst", "root/.viminfo", "root/.wget-hsts", "root/.node_repl_history",
            "root/.python_history", "root/.selected_editor",
        ),
        "the history of a shell or an editor",
    ),
    (
        (
            "root/.cache/*", "var/cache/*", "var/tmp/*", "*.pyc", "*/__pycache__", "etc/ld.so.cache", "var/log/*",
            "*.swp",
        ),
        "a cache or a log, made anew where it is needed",
    ),
    (
        ("etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/subuid-", "etc/subgid-"),
        "what useradd and its kin keep of the file as it was",
    ),
    (("var/lib/dpkg/*", "var/lib/apt/*", "etc/apt/apt.conf.d/*"), "the state of apt and dpkg, which the packages make"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class AptChanges:
    """Packages as ``name=version``: asked for, come along with those, another version than before; names removed."""

    asked: tuple[str, ...] = ()
    along: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PipChanges:
    """Packages as ``name==version``: asked for, come along; removed; and those of a file or repository, as files."""

    asked: tuple[str, ...] = ()
    along: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    as_files: tuple[str, ...] = ()
    records: tuple[str, ...] = ()  # paths of the files that these packages own
    gone: tuple[str, ...] = ()  # paths of the files that those removed owned


@dataclass(frozen=True, kw_only=True, slots=True)
class Rest:
    """What no package gives: paths to copy, and what is not kept, in words by path."""

    paths: tuple[str, ...] = ()
    told: tuple[str, ...] = ()


# -- packages ----------------------------------------------------------------------------------------------------------


def apt_changes(before: bytes, after: bytes, marks: bytes) -> AptChanges:
    """Two dpkg status files, and apt's extended states. dpkg-query(1), apt-mark(8)"""
    old, new = _installed(before), _installed(after)
    automatic = {
        found["Package"] for found in map(fields, stanzas(marks)) if found.get("Auto-Installed") == "1"
    }  # fmt: skip
    added = sorted(new.keys() - old.keys())
    return AptChanges(
        asked=tuple(f"{name}={new[name]}" for name in added if name.partition(":")[0] not in automatic),
        along=tuple(f"{name}={new[name]}" for name in added if name.partition(":")[0] in automatic),
        moved=tuple(f"{name}={new[name]}" for name in sorted(old.keys() & new.keys()) if old[name] != new[name]),
        removed=tuple(sorted(old.keys() - new.keys())),
    )


def _installed(status: bytes) -> dict[str, str]:
    """Versions by name; packages of a foreign architecture by ``name:architecture``."""
    found = [item for item in map(fields, stanzas(status)) if item.get("Status", "").endswith(" installed")]
    own = next((item["Architecture"] for item in found if item.get("Package") == "dpkg"), "")
    versions = {}
    for item in found:
        architecture = item.get("Architecture", own)
        name = item["Package"] if architecture in ("all", own) else f"{item['Package']}:{architecture}"
        versions[name] = item.get("Version", "")
    return versions


def pip_changes(before: Tree, changed: Sequence[Entry], read: Read, debian: frozenset[str]) -> PipChanges:
    """Python packages of the system's interpreters that came or went. ``debian`` are paths that dpkg owns or owned.

    Recording Installed Projects, PyPA specifications: INSTALLER, REQUESTED, RECORD and direct_url.json.
    """
    new: dict[tuple[str, str, str], set[str]] = {}
    gone: set[tuple[str, str, str]] = set()
    for entry in changed:
        path = entry.path.decode(errors="surrogateescape")
        if entry.kind == "w":
            gone |= {
                (match[1], match[2], match[3])
                for name in _below(before, entry.path)
                if (match := _PYTHON.fullmatch(name)) and match[4] == "METADATA" and name not in debian
            }
        elif (match := _PYTHON.fullmatch(path)) and path not in debian:
            new.setdefault((match[1], match[2], match[3]), set()).add(match[4])
    found = {key: files for key, files in new.items() if "METADATA" in files}
    packages = {key: f"{key[1].replace('_', '-').lower()}=={key[2]}" for key in found}
    files = {key for key, has in found.items() if "direct_url.json" in has}
    requested = {key for key, has in found.items() if "REQUESTED" in has}
    asked = (requested or set(found)) - files
    kept = set(found) - files
    gone = {key for key in gone if _canonical(key[1]) not in {_canonical(other[1]) for other in found}}
    return PipChanges(
        asked=tuple(sorted({packages[key] for key in asked})),
        along=tuple(sorted({packages[key] for key in kept - asked})),
        removed=tuple(sorted({_canonical(key[1]) for key in gone})),
        as_files=tuple(sorted({packages[key] for key in files})),
        records=tuple(sorted({path for key in kept for path in _owned(key, read)})),
        gone=tuple(sorted({path for key in gone for path in _owned(key, read)})),
    )


def _below(before: Tree, path: bytes) -> Iterator[str]:
    """The METADATA of the parents at and below a path that is gone."""
    for known in before.entries:
        if known == path or known.startswith(path + b"/"):
            yield known.decode(errors="surrogateescape")


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _owned(key: tuple[str, str, str], read: Read) -> Iterator[str]:
    folder, name, version = key
    record = read(f"{folder}{name}-{version}.dist-info/RECORD").decode(errors="surrogateescape")
    for line in record.splitlines():
        path = line.rsplit(",", 2)[0].strip('"')
        yield os.path.normpath(path.lstrip("/") if path.startswith("/") else f"{folder}{path}")
    for extra in ("INSTALLER", "REQUESTED", "RECORD", "METADATA"):
        yield f"{folder}{name}-{version}.dist-info/{extra}"


def dpkg_files(status_folder: Tree, read: Read) -> frozenset[str]:
    """Every path that a package of dpkg lists, without the first slash."""
    lists = [
        path for path in status_folder.entries if path.startswith(b"var/lib/dpkg/info/") and path.endswith(b".list")
    ]
    return frozenset(
        line.lstrip("/") for path in lists for line in read(os.fsdecode(path)).decode(errors="replace").splitlines()
    )


# -- files -------------------------------------------------------------------------------------------------------------


def rest_of(
    before: Tree,
    built: Tree,
    changed: Sequence[Entry],
    owned: Sequence[str],
    secret: Mapping[str, str],
    gone: Collection[str] = (),
) -> Rest:
    """Of what was changed by hand, what ``built`` does not give: the packages' layers over what was ``before``.

    ``owned`` are files of Python packages that have a layer; ``secret`` has the names of secrets by the paths that hold
    them; ``gone`` are files of packages that were removed, which are told by the packages' names.
    """
    paths: list[str] = []
    told: list[str] = []
    owners = frozenset(owned)
    covered = _covered(before, gone)
    for entry in changed:
        path = os.fsdecode(entry.path)
        there = built.get(entry.path)
        if entry == there or path in owners:
            continue
        why = _left_out(path, secret)
        if entry.kind == "w":
            if there is not None and not why and path not in covered:
                told.append(f"/{path}: was removed, which no layer says; leave it out of what brings it")
        elif entry.kind == "d":
            _tell_folder(entry, there, changed, told, why)
        elif why:
            if why.startswith(("credentials", "it holds")):
                told.append(f"/{path}: {why}, never frozen")
        else:
            paths.append(path)
            wanted = 0o755 if entry.mode & 0o111 else 0o644
            if entry.kind == "f" and entry.mode != wanted:
                told.append(f"/{path}: its mode {entry.mode:04o} becomes {wanted:04o}")
    known = before.entries.keys() | Tree.merged([before.sorted(), changed]).entries.keys()
    for lost in sorted(built.entries.keys() - known):
        path = os.fsdecode(lost)
        if path not in owners and not _left_out(path, secret):
            told.append(f"/{path}: was removed after it was installed, which no layer says")
    return Rest(paths=tuple(paths), told=tuple(told))


def _covered(before: Tree, gone: Collection[str]) -> set[str]:
    """The files in ``gone`` by their real paths, and the folders that held nothing else but what Python compiled."""
    if not gone:
        return set()
    files = {_real(before, path) for path in gone}
    known = map(os.fsdecode, (path for path, entry in before.entries.items() if entry.kind != "d"))
    others = (path for path in known if path not in files and not path.endswith(".pyc"))
    return _with_folders(files) - _with_folders(others)


def _real(before: Tree, path: str) -> str:
    """A list of dpkg has ``lib/x`` for what is ``usr/lib/x`` where /lib is a link."""
    top, _, rest = path.partition("/")
    link = before.get(os.fsencode(top))
    if link is None or link.kind != "l" or not rest:
        return path
    return os.path.normpath(os.path.join(os.fsdecode(unescape(link.detail)).lstrip("/"), rest))


def _with_folders(paths: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        while path and path not in found:
            found.add(path)
            path = os.path.dirname(path)  # noqa: PLW2901 - up to the root, or to where another path has been
    return found


def _left_out(path: str, secret: Mapping[str, str]) -> str:
    if path in secret:
        return f"it holds the secret {secret[path]!r}"
    return next((why for patterns, why in LEFT_OUT if any(fnmatch.fnmatch(path, item) for item in patterns)), "")


def _tell_folder(entry: Entry, there: Entry | None, changed: Sequence[Entry], told: list[str], why: str) -> None:
    path = os.fsdecode(entry.path)
    if why:
        return
    if there is None and not any(other.path.startswith(entry.path + b"/") for other in changed if other.kind != "w"):
        told.append(f"/{path}: an empty folder, which no layer has")
    elif (there is None or there.kind == "d") and entry.mode != (0o755 if there is None else there.mode):
        told.append(f"/{path}: the folder's mode {entry.mode:04o} is not kept")


def secrets_in(tree: Path, values: Mapping[str, bytes]) -> dict[str, str]:
    """Which files hold which secret."""
    return {os.fsdecode(path): name for path, name in holders(tree, values)}


def write_files(tree: Path, index: Sequence[Entry], paths: Sequence[str], folder: Path) -> int:
    """Put the files into a new folder of the project, each where it belongs below it; returns their size in bytes."""
    entries = {entry.path: entry for entry in index}
    size = 0
    for path in paths:
        source, target = tree / path, folder / path
        entry = entries[os.fsencode(path)]
        target.parent.mkdir(parents=True, exist_ok=True)
        if entry.kind == "l":
            target.symlink_to(os.fsdecode(unescape(entry.detail)))
        else:
            shutil.copyfile(source, target)
            target.chmod(0o755 if entry.mode & 0o111 else 0o644)
            size += target.stat().st_size
    return size
