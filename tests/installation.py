"""Installs a package of a test's own with ``install.sh``, as a build step does, or with dpkg alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from reprobox.debian import seed
from reprobox.digest import Entry
from reprobox.tree import scan
from tests.debs import TIME, make_deb

#: Everything that is written goes to file systems of this run alone: the tests may be root's.
WORLD = """
set -e
mount --make-rprivate /
for folder in /run $FOLDERS; do mount -t tmpfs none "$folder"; done
mkdir /run/reprobox
cp "$SOURCE"/install.sh "$SOURCE"/compile_later.py "$SOURCE"/update_ca_certificates.pl /run/reprobox
cd /
eval "$BEFORE"
set +e
"$@"
status=$?
mkdir "$RESULT"
cp -a $FOLDERS "$RESULT"
exit $status
"""

#: What apt does here: it lets dpkg unpack, and configure.
APT = """#!/bin/sh
dpkg=/usr/bin/dpkg
if [ "$1" = -o ]; then
    dpkg=${2#Dir::Bin::dpkg=}
fi
options="--admindir=$WORK/admin --force-not-root --force-depends --log=/dev/null"
"$dpkg" $options --unpack "$WORK/one_1.0_all.deb" && "$dpkg" $options --configure one || exit 100
"""

INSTALL = ("/bin/sh", "/run/reprobox/install.sh")


class World:
    """A package with a script, to be installed on this machine's own file system, of which nothing changes.

    What is in ``folders`` is not seen, and the package's ``files`` go into them.
    """

    def __init__(self, folder: Path, folders: Sequence[str], *, files: Mapping[str, bytes] | None = None) -> None:
        self.folder = folder
        self.folders = folders
        self.files = files
        (folder / "apt").write_text(APT)
        (folder / "apt").chmod(0o755)

    def install(
        self, script: str, *, plain: bool = False, before: str = "", environment: dict[str, str] | None = None
    ) -> Installed:
        """``script`` is run when the package is configured, ``before`` when nothing is installed yet."""
        work = self.folder / ("plain" if plain else "quick")
        for name in ("info", "updates", "triggers"):
            (work / "admin" / name).mkdir(parents=True)
        for name in ("status", "available"):
            (work / "admin" / name).touch()
        make_deb(
            work, "one", architecture="all", files=self.files, scripts={"postinst": f"#!/bin/sh\nset -e\n{script}\n"}
        )
        apt = str(self.folder / "apt")
        return self.run(work, [apt] if plain else [*INSTALL, apt], before, environment or {})

    def run(self, work: Path, program: Sequence[str], before: str, environment: Mapping[str, str]) -> Installed:
        argv = ["unshare", "--user", "--map-root-user", "--mount", "/bin/sh", "-c", WORLD, "world", *program]
        fixed = {"SOURCE_DATE_EPOCH": str(TIME), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
        places = {
            "SOURCE": Path(seed.__file__).parent,
            "RESULT": work / "result",
            "WORK": work,
            "FOLDERS": " ".join(self.folders),
            "BEFORE": before,
        }
        values = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **fixed, **places, **environment}
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=values, check=False)
        return Installed(done, work / "result")


class Installed:
    """What came out: the exit status, what was said, and every path with its content."""

    def __init__(self, done: subprocess.CompletedProcess[str], result: Path) -> None:
        self.status = done.returncode
        self.said = done.stdout + done.stderr
        self.entries: list[Entry] = scan(result)
        self.paths = {os.fsdecode(entry.path) for entry in self.entries}
