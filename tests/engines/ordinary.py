"""An ordinary user: reprobox must need no root, also where the tests themselves run as root (in CI)."""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Set by CI, which creates the user; root's tests do not add accounts to anyone's machine.
TEST_USER = os.environ.get("REPROBOX_TEST_USER", "")
ROOT = Path(__file__).resolve().parents[2]

_KEPT = ("PIP_", "UV_", "SSL_CERT_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "REPROBOX_REQUIRE_ENGINES")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True, kw_only=True)
class OrdinaryUser:
    """Runs commands as an account without privileges, with a home folder of its own and a clean environment."""

    name: str
    uid: int
    gid: int
    home: Path

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k.startswith(_KEPT) or k.lower() in _PROXIES}
        path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        return {**kept, "PATH": path, "HOME": str(self.home), "LANG": "C.UTF-8", "USER": self.name, **(extra or {})}

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """``subprocess.run`` as this user, output captured as text, never raising; ``env`` adds to the clean environment."""
        if os.geteuid() == 0:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        settings = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "timeout": 900, **options}
        words = [str(word) for word in argv]
        return subprocess.run(words, cwd=cwd or self.home, env=self.environment(env), check=False, **settings)

    def can_start(self, program: str) -> bool:
        """Whether a program is within this user's reach: root's Python may lie in root's own home."""
        try:
            return self.run([program, "--version"]).returncode == 0
        except PermissionError:
            return False

    def give(self, path: Path) -> Path:
        """Make a tree this user's own."""
        if os.geteuid() == 0:
            for folder, _, names in os.walk(path):
                for entry in (folder, *(os.path.join(folder, name) for name in names)):
                    os.chown(entry, self.uid, self.gid, follow_symlinks=False)
        return path

    def copy(self, source: Path, name: str) -> Path:
        """A copy of a tree in the user's home, owned by the user."""
        return self.give(Path(shutil.copytree(source, self.home / name, symlinks=True)))

    @functools.cached_property
    def command(self) -> Path:
        """The ``reprobox`` command as this user can run it; installed into the user's home when root's is out of reach."""
        if os.geteuid() != 0:
            return Path(sys.executable).with_name("reprobox")
        source, venv = self.home / "source", self.home / "venv"
        source.mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        shutil.copytree(ROOT / "reprobox", source / "reprobox", ignore=shutil.ignore_patterns("__pycache__"))
        self.give(source)
        self.run(["python3", "-m", "venv", venv]).check_returncode()
        done = self.run([venv / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", source])
        if done.returncode:
            raise RuntimeError(f"pip: {done.stderr}")
        return venv / "bin/reprobox"


def ordinary_user(home: Path) -> OrdinaryUser:
    """The test user (``REPROBOX_TEST_USER``) when running as root, else the caller; ``home`` becomes the home folder."""
    entry = pwd.getpwnam(TEST_USER) if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    user = OrdinaryUser(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid, home=home)
    user.give(home)
    return user
