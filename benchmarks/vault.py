"""What a vault costs: ``python benchmarks/vault.py`` keeps the quickstart, and writes its table into VAULT.md.

The measure is the sum of the inputs: their bytes, and the time in which ``cp`` and ``sha256sum`` go over them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_name("VAULT.md")
_HEAD = """\
# What a vault costs

Written by `python benchmarks/vault.py`: the quickstart, its inputs in the store, {processors} processors. Each row is
the least of {runs} runs, but for the first vault, which is made once.

| what | MB | seconds |
| --- | ---: | ---: |
"""
RUNS = 3


def call(*argv: str | Path, store: Path) -> str:
    command = [sys.executable, "-m", "reprobox.cli", *map(str, argv)]
    environment = {**os.environ, "REPROBOX_STORE": str(store), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def least(work: Sequence[str | Path], gone: Path | None = None, *, store: Path | None = None) -> float:
    """Seconds of the quickest of some runs; ``gone`` is removed before each."""
    taken = []
    for _ in range(RUNS):
        if gone is not None:
            shutil.rmtree(gone, ignore_errors=True) if gone.is_dir() else gone.unlink(missing_ok=True)
        started = time.perf_counter()
        if store is not None:
            call(*work, store=store)
        else:
            subprocess.run(list(map(str, work)), check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - started)
    return min(taken)


def megabytes(path: Path) -> float:
    files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    return sum(item.stat().st_size for item in files) / 1e6


def measure(place: Path) -> list[tuple[str, float, float]]:
    project, store = place / "project", place / "store"
    shutil.copytree(ROOT / "examples/quickstart", project, ignore=shutil.ignore_patterns("*.lock", "*.png", "*.npz"))
    call("lock", "-q", "-C", project, store=store)
    folder, tar, copied = place / "vault", place / "vault.tar", place / "copied"
    vault = ("vault", "-q", "-C", project)
    started = time.perf_counter()
    told = json.loads(call(*vault, "--json", place / "first", store=store))  # fetches, looks for licences, packs wheels
    first = time.perf_counter() - started
    inputs = f"{told['inputs']} inputs, their sum"
    bare = place / "bare"
    rows = [
        (inputs, told["inputs_size"] / 1e6, 0.0),
        ("`cp` of all blobs of the vault", 0.0, least(["cp", "-r", place / "first", copied], copied)),
        ("`sha256sum` of all blobs", megabytes(copied), least(["sh", "-c", f"sha256sum {copied}/blobs/sha256/*"])),
        ("the first vault: fetching, licences, packing reprobox", megabytes(place / "first"), first),
        ("a vault without reprobox", 0.0, least([*vault, "--without-reprobox", bare], bare, store=store)),
        ("a vault", 0.0, least([*vault, folder], folder, store=store)),
        ("the same as one file", 0.0, least([*vault, tar], tar, store=store)),
        ("the same again: nothing is new", 0.0, least([*vault, folder], store=store)),
        ("`vault --check`", megabytes(folder), least(["vault", "-q", "--check", folder], store=store)),
    ]
    sizes = {"a vault without reprobox": bare, "a vault": folder, "the same as one file": tar}
    sizes |= {"the same again: nothing is new": folder, "`cp` of all blobs of the vault": copied}
    return [(name, megabytes(sizes[name]) if name in sizes else size, taken) for name, size, taken in rows]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="reprobox-bench-", ignore_cleanup_errors=True) as place:
        rows = measure(Path(place))
    text = _HEAD.format(processors=os.cpu_count(), runs=RUNS)
    text += "".join(f"| {name} | {size:.1f} | {f'{taken:.2f}' if taken else ''} |\n" for name, size, taken in rows)
    TABLE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
