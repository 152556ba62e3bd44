"""What a layer leaves out or writes anew, so that two builds of it are the same: one table of rules.

Most packages install the same bytes every time. What does not comes from a clock, a random number, the order in which
a file system lists a folder, or is a log, a cache or the data of a service. ``reprobox.normalise`` applies these rules
to every layer; changing one changes layers, so ``digest.NORMALISER`` counts the versions of this table.

Standard library only: the sandbox's launcher imports this module in a bare interpreter.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
import struct
from collections.abc import Callable
from typing import NamedTuple

Rewrite = Callable[[bytes, int], bytes]


class Rule(NamedTuple):
    """``paths`` are patterns as fnmatch has them (``*`` matches ``/`` too), without the first slash.

    Files at these paths stay as the layers below have them. What ``told`` says is told to the user for every path (with
    ``whole``, once for the pattern); caches and logs are not worth a word. With ``rewrite`` files are kept, with the
    content that it makes of theirs and of the epoch. ``whole``: folders at these paths are left out as well.
    ``installing``: only in layers that install packages; in others a script may have put something there on purpose.
    """

    paths: tuple[str, ...]
    why: str
    told: str = ""
    rewrite: Rewrite | None = None
    whole: bool = False
    installing: bool = False


# -- files that are written anew ---------------------------------------------------------------------------------------


def _empty(_: bytes, __: int) -> bytes:
    return b""


def _shadow_dates(content: bytes, epoch: int) -> bytes:
    """shadow(5): the third field, the day of the last change, is the epoch's."""
    lines = []
    for line in content.split(b"\n"):
        fields = line.split(b":")
        if len(fields) == 9 and fields[2]:
            fields[2] = b"%d" % (epoch // 86400)
        lines.append(b":".join(fields))
    return b"\n".join(lines)


def _sorted_menu(content: bytes, _: int) -> bytes:
    """The directory of Info (info, "Installing Dir Entries"): sections and entries in order of their bytes.

    A file in which they are in order already stays as it is.
    """
    head, menu, body = content.partition(b"* Menu:")
    inner = body.strip(b"\n")
    pieces = re.split(rb"(\n{2,})", inner)
    pieces[::2] = sorted(map(_sorted_entries, pieces[::2]))
    return head + menu + body.replace(inner, b"".join(pieces), 1) if inner else content


def _sorted_entries(section: bytes) -> bytes:
    title, *entries = re.split(rb"\n(?=\* )", section)
    return b"\n".join((title, *sorted(entries)))


def _sorted_listing(content: bytes, _: int) -> bytes:
    """``ls-R`` as kpathsea reads it: folders in order of their bytes, and names below each."""
    title, _newline, body = content.partition(b"\n")
    listed = []
    for folder in filter(None, (part.strip(b"\n") for part in body.split(b"\n\n"))):
        lines = folder.split(b"\n")
        heads = [line for line in lines if line.endswith(b":")]  # the first folder has two
        listed.append(b"\n".join((*heads, *sorted(line for line in lines if line not in heads))))
    return b"\n\n".join((title, *sorted(listed))) + b"\n"


def _sorted_settings(content: bytes, _: int) -> bytes:
    """Settings of which each has a line, in order of their bytes, below the comment that comes first."""
    lines = content.splitlines(keepends=True)
    comment = [line for line in lines if line.startswith(b"#")]
    return b"".join((*comment, *sorted(line for line in lines if not line.startswith(b"#"))))


def _octave_date(content: bytes, _: int) -> bytes:
    """Octave's list of packages, saved as text: its first line says when, and who saved it."""
    return re.sub(rb"\A(# Created by Octave [^\s,]+),[^\n]*", rb"\1", content)


_JKS = struct.Struct(">II")
_JKS_MAGIC = 0xFEEDFEED
#: The keystore's checksum is salted with its password, "changeit" as everywhere, and with these words.
_JKS_SALT = "changeit".encode("utf-16-be") + b"Mighty Aphrodite"


def _java_dates(content: bytes, epoch: int) -> bytes:
    """A Java keystore of trusted certificates, as ca-certificates-java writes it: in order, each of the epoch's date.

    Files of another form, or with another password, stay as they are.
    """
    body = content[:-20]
    if content[:4] != _JKS_MAGIC.to_bytes(4, "big") or hashlib.sha1(_JKS_SALT + body).digest() != content[-20:]:  # noqa: S324 - the format's
        return content
    try:
        version, entries = _java_entries(body, epoch)
    except (struct.error, ValueError):
        return content
    written = _JKS_MAGIC.to_bytes(4, "big") + _JKS.pack(version, len(entries)) + b"".join(sorted(entries))
    return written + hashlib.sha1(_JKS_SALT + written).digest()  # noqa: S324


def _java_entries(body: bytes, epoch: int) -> tuple[int, list[bytes]]:
    version, count = _JKS.unpack_from(body, 4)
    at, entries = 12, []
    for _number in range(count):
        tag, length = struct.unpack_from(">IH", body, at)
        date = at + 6 + length
        (kind,) = struct.unpack_from(">H", body, date + 8)
        (size,) = struct.unpack_from(">I", body, date + 10 + kind)
        end = date + 14 + kind + size
        if tag != 2 or version != 2 or end > len(body):
            raise ValueError("not a plain list of certificates")
        entries.append(body[at:date] + struct.pack(">Q", epoch * 1000) + body[date + 8 : end])
        at = end
    if at != len(body):
        raise ValueError("more than its certificates")
    return version, entries


_DB_MAGIC = (0x00061561, 0x00053162)  # of a hash and of a tree
_DB_META, _DB_ENTRIES = (8, 9), (2, 5, 13)  # types of pages


def _aliases(content: bytes, epoch: int) -> bytes:
    """The database of mail aliases, a Berkeley DB (its ``db_page.h``).

    Without the ids of its first pages, which are made of the clock and the process; without what memory happened to
    hold between the entries of the others; and with the epoch as the date that it keeps for NIS.
    """
    if len(content) < 512 or struct.unpack_from("<I", content, 12)[0] not in _DB_MAGIC:
        return content
    made, size = bytearray(content), max(struct.unpack_from("<I", content, 20)[0], 512)
    for page in range(0, len(made) - size + 1, size):
        entries, first, _level, kind = struct.unpack_from("<HHBB", made, page + 20)
        start, end = 26 + 2 * entries, first or 65536
        if kind in _DB_META:
            made[page + 52 : page + 72] = bytes(20)
        elif kind in _DB_ENTRIES and start <= end <= size:
            made[page + start : page + end] = bytes(end - start)
    date = rb"(?<=\x01)[0-9]{10}(?=\x01YP_LAST_MODIFIED)"
    return re.sub(date, b"%010d" % (epoch % 10**10), bytes(made))


# -- the rules ---------------------------------------------------------------------------------------------------------

_MADE = "a secret made at installation; make it where the environment runs"
_DATA = "the data of a service, made at installation; let the service make it where the environment runs"

RULES: tuple[Rule, ...] = (
    Rule(
        (
            "var/log/alternatives.log",
            "var/log/apt/*",
            "var/log/bootstrap.log",
            "var/log/dpkg.log",
            "var/log/fontconfig.log",
        ),
        "logs of installing: they hold the time, and the order of work",
    ),
    Rule(
        (
            "var/cache/apt/*",
            "var/cache/fontconfig/*",
            "var/cache/ldconfig/aux-cache",
            "var/cache/man/*",
            "var/lib/apt/lists/*",
        ),
        "caches, made anew where they are needed: they hold times and inode numbers",
    ),
    Rule(
        ("usr/share/info/dir.old", "var/cache/debconf/*-old", "var/lib/dpkg/*-old"),
        "copies of what was there before",
    ),
    Rule(("var/lib/dpkg/lock*", "var/lib/dpkg/triggers/Lock"), "locks of programs at work"),
    Rule(
        ("etc/apt/apt.conf.d/01autoremove-kernels", "var/lib/systemd/catalog/database"),
        "made from what is installed, with the clock or the kernel of the machine",
    ),
    Rule(("usr/sbin/policy-rc.d",), "says that services are not started; it belongs to the builder"),
    Rule(("var/lib/dbus/machine-id",), "the identity of one machine"),
    Rule(("etc/machine-id",), "the identity of one machine; empty, it is made at the first boot", rewrite=_empty),
    Rule(("etc/shadow", "etc/shadow-"), "the day of each password's last change is the epoch's", rewrite=_shadow_dates),
    Rule(("usr/share/info/dir",), "entries stand as the file system listed their files", rewrite=_sorted_menu),
    Rule(("usr/share/octave/octave_packages",), "holds the time, the user and the host", rewrite=_octave_date),
    Rule(("etc/ssl/certs/java/cacerts",), "every certificate has the time at which it was added", rewrite=_java_dates),
    Rule(("etc/aliases.db",), "the database holds the time, and ids made of it", rewrite=_aliases),
    Rule(("var/lib/texmf/ls-R*",), "names stand as the file system listed them", rewrite=_sorted_listing),
    Rule(
        ("var/lib/texmf/updmap.cfg-*",), "fonts stand as the file system listed their files", rewrite=_sorted_settings
    ),
    Rule(("var/lib/texmf/*.log",), "logs of making TeX's formats and lists of fonts: they hold the time"),
    Rule(
        (
            "etc/munge/munge.key",
            "etc/postfix/*.pem",
            "etc/ssh/ssh_host_*",
            "etc/ssl/certs/ssl-cert-snakeoil.pem",
            "etc/ssl/private/ssl-cert-snakeoil.key",
        ),
        "a secret that is shared by every copy of an environment would be a hole",
        told=_MADE,
    ),
    Rule(("var/lib/mysql/*",), "a database born at installation", told=_DATA, whole=True, installing=True),
)


def _matcher(*rules: Rule) -> Callable[[str], object]:
    return re.compile("|".join(fnmatch.translate(pattern) for rule in rules for pattern in rule.paths)).match


_MATCHERS = tuple((rule, _matcher(rule)) for rule in RULES)
_is_any = _matcher(*RULES)  # most paths are none of ours, and that should be found out quickly


def rule_for(path: str, *, installing: bool) -> Rule | None:
    """The rule about ``path`` (relative), if there is one; the first of the table counts."""
    if not _is_any(path):
        return None
    return next((rule for rule, is_its in _MATCHERS if is_its(path) and (installing or not rule.installing)), None)
