"""``reprobox doctor``"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from reprobox import __version__, config, cpu, host, survey
from reprobox.backend import Availability
from reprobox.cli.plugins import probed
from reprobox.cli.report import human
from reprobox.errors import ManifestError, ReproboxError, UsageError
from reprobox.host import Host
from reprobox.leases import has_locks
from reprobox.manifest import Manifest
from reprobox.plugins import Plugins, left_out
from reprobox.project import Project
from reprobox.requirements import Finding, check, shown
from reprobox.session import staged
from reprobox.shared import problem
from reprobox.store import Store

DETAILS = """\
In a project's folder, it also compares each target with this machine: what the target requires, what was found, and
what to do. With --host, it compares with another machine, of which `reprobox doctor --json` there wrote the
description. Exit status 4 if no backend works, or if a target that is asked for (or the only one) lacks
something; 1 if the store cannot be used.

examples:
  reprobox doctor
  reprobox doctor --target gpu
  reprobox doctor --json > cluster.json           on the cluster
  reprobox doctor --host cluster.json             on the laptop: will the cluster do?"""

Verdicts = Mapping[str, Sequence[Finding]]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", metavar="NAME", help="judge this target alone")
    parser.add_argument("--host", metavar="FILE", help="judge the machine that FILE describes, instead of this one")


def execute(options: argparse.Namespace) -> int:
    plugins = Plugins()
    manifest = _manifest(options, plugins)
    return _there(options, manifest) if options.host is not None else _here(options, plugins, manifest)


def _here(options: argparse.Namespace, plugins: Plugins, manifest: Manifest | None) -> int:
    settings = config.load()
    store, wrong = _store(settings)
    asked = {name: staged(item, store) if store else item for name, item in plugins.backends.items()}
    backends = probed(asked, options.reporter.say)
    machine = replace(
        survey.look(places=_places(settings.store, manifest)),
        backends={name: "" if found.ok else found.reason or "no reason is known" for name, found in backends.items()},
    )
    verdicts = _judge(manifest, machine)
    document: dict[str, Any] = {
        "reprobox": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "store": {
            "path": str(settings.store),
            "free": machine.disks[0].free,
            "problem": wrong.message if wrong else None,
            "locks": has_locks(store.root) if store else None,
            "shared": [{"path": str(root), "problem": problem(root)} for root in settings.shared],
        },
        "configuration": str(settings.path) if settings.path else None,
        "backends": {
            name: {"ok": found.ok, "reason": found.reason, "hint": found.hint, "details": dict(found.details)}
            for name, found in backends.items()
        },
        "host": host.document(machine),
        "targets": _told(verdicts),
    }
    broken = [item for item in plugins.installed if item.problem]
    document["plugins"] = {item.name: item.problem for item in broken}
    if options.json:
        print(json.dumps(document))
        return _status(machine, verdicts) or int(wrong is not None)
    print(f"reprobox {__version__}, Python {document['python']}, {document['system']}, {document['cpus']} CPUs")
    _print_store(document["store"], wrong)
    print(f"configuration {document['configuration'] or 'none'}")
    _print_machine(machine)
    for name, found in backends.items():
        _print_backend(name, found)
    for item in broken:
        print(left_out(item))
    _print_verdicts(verdicts, "this machine")
    sys.stdout.flush()
    return _status(machine, verdicts) or int(wrong is not None)


def _store(settings: config.Config) -> tuple[Store | None, ReproboxError | None]:
    """The store, or what is wrong with it: then there is still more to be said of this machine."""
    try:
        return Store(settings.store), None
    except ReproboxError as error:
        return None, error


def _print_store(store: Mapping[str, Any], wrong: ReproboxError | None) -> None:
    if wrong is not None:
        print(f"store {store['path']}: {wrong.message}\n  hint: {wrong.hint}")
    else:
        print(f"store {store['path']}: {human(store['free'])} free")
    if store["locks"] is False:
        print("  its file system has no locks: two commands may do the same work, and gc cannot tell what is in use")
    for shared in store["shared"]:
        print(f"shared store {shared['path']}: {shared['problem'] or 'can be read'}")


def _there(options: argparse.Namespace, manifest: Manifest | None) -> int:
    file = Path(options.host)
    try:
        with file.open("rb") as stream:
            data = stream.read(host.MAX_BYTES + 1)
    except OSError as error:
        hint = "write it on that machine: `reprobox doctor --json > FILE`"
        raise UsageError(f"it cannot be read: {error.strerror}", where=f"--host {file}", hint=hint) from None
    machine = host.parse(data, file=str(file))
    verdicts = _judge(manifest, machine)
    if options.json:
        print(json.dumps({"reprobox": __version__, "host": host.document(machine), "targets": _told(verdicts)}))
        return _status(machine, verdicts)
    _print_machine(machine)
    for name, reason in machine.backends.items():
        print(f"backend {name}: {f'does not work there: {reason}' if reason else 'works there'}")
    _print_verdicts(verdicts, machine.name)
    if manifest is None:
        print("there is no research.toml here or in a folder above: nothing to compare it with")
    return _status(machine, verdicts)


# -- what is judged ----------------------------------------------------------------------------------------------------


def _manifest(options: argparse.Namespace, plugins: Plugins) -> Manifest | None:
    """The manifest, if there is one, with the target that is asked for; a wrong one keeps nobody from a diagnosis."""
    try:
        manifest = Project.find(Path(options.project)).manifest(plugins.kinds)
    except ManifestError as error:
        if options.target is not None:
            raise
        print(f"warning: targets are not compared, since the manifest is wrong:\n{error}", file=sys.stderr)
        return None
    except UsageError:
        if options.target is not None or not Path(options.project).exists():
            raise
        return None
    return manifest if options.target is None else manifest.select(options.target)


def _places(store: Path, manifest: Manifest | None) -> list[tuple[str, Path]]:
    """The store, and where the runs of the project write: the folder here, where there is no project."""
    root = Path(manifest.file).parent if manifest else Path.cwd()
    writable = [mount for mount in manifest.mounts.values() if mount.mode == "rw"] if manifest else []
    sources = [root / mount.source for mount in writable if mount.source] or [root]
    return [("store", store), *(("output", source) for source in dict.fromkeys(sources))]


def _judge(manifest: Manifest | None, machine: Host) -> Verdicts:
    targets = manifest.targets if manifest else {}
    return {name: check(target.platform, target.requires, machine) for name, target in targets.items()}


def _does(findings: Sequence[Finding]) -> bool:
    return all(item.ok for item in findings)


def _status(machine: Host, verdicts: Verdicts) -> int:
    """4 if nothing works there, or if the one target that is judged lacks something."""
    works = not machine.backends or "" in machine.backends.values()
    lacking = len(verdicts) == 1 and not all(map(_does, verdicts.values()))
    return 4 if lacking or not works else 0


def _told(verdicts: Verdicts) -> dict[str, Any]:
    return {
        name: {"ok": _does(findings), "requirements": [asdict(item) for item in findings]}
        for name, findings in verdicts.items()
    }


# -- what is shown -----------------------------------------------------------------------------------------------------


def _print_machine(machine: Host) -> None:
    print(f"machine {machine.name}: {', '.join(_facts(machine))}")
    if machine.nvidia is None:
        print("GPU: no NVIDIA driver")
    elif machine.nvidia.problem:
        print(f"GPU: the NVIDIA driver does not answer: {machine.nvidia.problem}")
    else:
        print(f"GPU: NVIDIA driver {machine.nvidia.driver}, CUDA {machine.nvidia.cuda or 'of unknown version'}")
    for gpu in machine.nvidia.gpus or () if machine.nvidia else ():
        print(f"  {gpu.name}{f', {shown(gpu.memory)}' if gpu.memory is not None else ''}")
    print(
        f"MPI: {machine.mpi.family} {machine.mpi.version}, {machine.mpi.program}" if machine.mpi else "MPI: no mpirun"
    )


def _facts(machine: Host) -> Iterator[str]:
    yield f"linux/{machine.architecture}"
    if machine.cpu:
        level = cpu.level((machine.cpu.name, *machine.cpu.also))
        yield f"CPU {cpu.spelled(machine.cpu.name)}" + (f" ({level})" if level else "")
    if machine.memory:
        limit = f" of {shown(machine.memory.total)}" if machine.memory.limit is not None else ""
        yield f"{shown(machine.memory.usable)}{limit} memory"
    if machine.kernel:
        yield f"Linux {machine.kernel}"
    yield f"glibc {machine.glibc}" if machine.glibc else "no glibc"


def _print_backend(name: str, found: Availability) -> None:
    print(f"backend {name}: {'works' if found.ok else f'does not work: {found.reason}'}")
    for link, state in found.details.items():
        print(f"  {link}: {state}")
    if found.hint:
        print(f"  hint: {found.hint}")
    if found.ok and found.details.get("overlay", "yes") != "yes":
        print("  without overlay, layers are copied: slower, and the same bytes")


def _print_verdicts(verdicts: Verdicts, machine: str) -> None:
    for name, findings in verdicts.items():
        print(f"target {name}: {machine} {'will do' if _does(findings) else 'will not do'}")
        rows = [(item.key, item.need, "ok" if item.ok else "LACKING", item.found) for item in findings]
        rows.insert(0, ("requires", "need", "", "found"))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        for number, row in enumerate(rows):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            print(f"  {'  '.join(cells)}  {row[3]}")
            item = findings[number - 1] if number else None
            for word, text in (("fix", item.fix), ("note", item.note)) if item else ():
                if text:
                    print(f"  {'':{widths[0]}}  {word}: {text}")
