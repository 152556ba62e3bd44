"""The package archives that this machine's own apt is set up for: tests name no mirror of their own."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from dataclasses import dataclass

SUITES = ("bookworm", "bookworm-updates", "bookworm-security")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class NoArchivesError(Exception):
    """This machine's apt knows no Debian archive of the suites that the tests use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """One suite of an archive, for example ``debian`` and ``bookworm-updates``."""

    name: str
    uri: str
    suite: str

    @property
    def release(self) -> str:
        return f"{self.uri}/dists/{self.suite}/InRelease"

    @property
    def source(self) -> str:
        return f"deb [signed-by={KEYRING}] {self.uri} {self.suite} main"


@functools.cache
def configured() -> tuple[Archive, ...]:
    """Debian's archives as apt would update them, the main suite first. Raises :class:`NoArchivesError`."""
    if not shutil.which("apt-get"):
        raise NoArchivesError("this machine has no apt")
    argv = ["apt-get", "update", "--print-uris"]
    printed = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    found = {}
    for uri, name, suite in re.findall(r"'([^']+?/([^/']+))/dists/([^/']+)/InRelease'", printed):
        if suite in SUITES and name in ("debian", "debian-security"):
            found.setdefault(suite, Archive(name=name, uri=uri, suite=suite))
    if "bookworm" not in found:
        raise NoArchivesError("this machine's apt has no Debian bookworm archive")
    return tuple(found[suite] for suite in SUITES if suite in found)
