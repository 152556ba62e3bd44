"""What is about to be downloaded, on a disk of one mebibyte: what cannot fit is refused, and nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from reprobox.digest import sha256
    from reprobox.errors import ReproboxError
    from reprobox.lock import Input, LockedLayer
    from reprobox.room import check_room, check_room_for
    from reprobox.store import Store

    store = Store(Path(sys.argv[1]) / "store")
    data = {name: name.encode() * size for name, size in {"a": 400_000, "b": 600_000, "c": 700_000}.items()}

    def named(names):
        return [Input(type="file", name=x, sha256=sha256(data[x]), size=len(data[x])) for x in names]

    def fits(names):
        layers = [LockedLayer(name=x, kind="fetch", recipe=1, request="", inputs=tuple(named(x)), id=x) for x in names]
        said = set()
        for check, what in ((check_room, named(names)), (check_room_for, layers)):
            try:
                check(what, store)
            except ReproboxError as error:
                said.add((error.status, str(error)))
            else:
                said.add(None)
        (one,) = said
        print(repr(one))
    """
)


def told(tmp_path: Path, body: str, size: str = "1m") -> list[Any]:
    """What the lines of ``body`` printed, on a disk of this size."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f'mount -t tmpfs -o size={size} none "$0" && exec "$@"'
    command = [sys.executable, "-c", PROGRAM + textwrap.dedent(body), str(disk)]
    argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(disk), *command]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return [ast.literal_eval(line) for line in done.stdout.splitlines()]


@pytest.mark.userns
def test_what_does_not_fit_is_refused_with_what_is_needed_and_what_is_free(tmp_path: Path) -> None:
    fit, (status, said), twice = told(tmp_path, 'fits("ab")\nfits("abc")\nfits("bb")')
    assert (fit, twice, status) == (None, None, 1)
    assert said == (
        f"{tmp_path}/disk/store: 1.7 MB have to be downloaded (1700000 bytes), and 1.0 MB are free there (1048576 bytes)"
        "\n  hint: make room: `reprobox cache gc` removes what no environment needs; or set REPROBOX_STORE to a folder on"
        " another disk"
    )


@pytest.mark.userns
def test_what_the_store_has_is_not_needed_again(tmp_path: Path) -> None:
    body = 'store.add_blob(data["a"])\nfits("ab")\nfits("abc")\nfits("c")'
    first, second, third = told(tmp_path, body)
    assert first is None
    assert second is not None
    assert third is not None
    (tmp_path / "disk").rmdir()
    continued = (
        'store.add_blob(data["a"])\nstore.partial(sha256(data["b"])).write_bytes(data["b"][:350_000])\nfits("ab")'
    )
    assert told(tmp_path, continued) == [None]


@pytest.mark.userns
def test_what_a_killed_build_left_is_no_obstacle(tmp_path: Path) -> None:
    """It is in the way of what is fetched alone, and removed before a whole lock is."""
    body = """
    import os
    if os.fork() == 0:
        with store.scratch() as folder:
            (folder / "half").write_bytes(bytes(500_000))
            os._exit(0)
    os.wait()
    layer = LockedLayer(name="x", kind="fetch", recipe=1, request="", inputs=tuple(named("c")), id="x")
    print(repr(check_room_for([layer], store)))
    print(list((store.root / "tmp").iterdir()))
    """
    assert told(tmp_path, body) == [None, []]


@pytest.mark.userns
def test_a_disk_that_says_nothing_of_its_size_refuses_nothing(tmp_path: Path) -> None:
    assert told(tmp_path, 'fits("abc")', size="0") == [None]
