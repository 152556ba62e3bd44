"""How quick a data folder is locked and checked again: ``python benchmarks/data.py [FILES [MEGABYTES]]``.

The peer is ``sha256sum`` of the same files, on every processor. Files are read from memory: hashing is measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from reprobox.data import content
from reprobox.store import Store

_FOLDERS = 100


def fill(root: Path, files: int, size: int) -> None:
    block = os.urandom(1 << 20)
    for number in range(files):
        folder = root / f"{number % _FOLDERS:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        each = size // files
        data = number.to_bytes(8, "big") + block * (each // len(block)) + block[: each % len(block)]
        (folder / str(number)).write_bytes(data[:each])


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main(files: int = 10_000, megabytes: int = 1000) -> None:
    with tempfile.TemporaryDirectory(prefix="reprobox-bench-") as place:
        root, store = Path(place, "data"), Store(Path(place, "store"))
        fill(root, files, megabytes * 1_000_000)
        time.sleep(3)  # files at rest are remembered
        peer = f"find {root} -type f -print0 | xargs -0 -P {os.cpu_count()} -n 64 sha256sum >/dev/null"
        rows = {
            "sha256sum": seconds(lambda: subprocess.run(["sh", "-c", peer], check=True)),
            "first look": seconds(lambda: content(root, store)),
            "second look": seconds(lambda: content(root, store)),
        }
        (root / "00" / "0").write_bytes(b"changed")
        rows["one file changed"] = seconds(lambda: content(root, store))
    print(f"{files} files, {megabytes} MB, {os.cpu_count()} processors")
    for name, taken in rows.items():
        print(f"{name:18} {taken:8.2f} s  {taken / rows['sha256sum']:6.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
