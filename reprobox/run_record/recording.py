"""Recording a run: what was there before, what came out of it."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reprobox import __version__, data, survey
from reprobox.backend import Backend, Bind, RunRequest
from reprobox.digest import read_index
from reprobox.errors import IntegrityError, ManifestError, ReproboxError
from reprobox.git.worktree import NEVER
from reprobox.lock import Lock
from reprobox.lock_text import lock_digest, pins
from reprobox.manifest import Manifest
from reprobox.redact import Redactor
from reprobox.run_record.child import Ended, run_child
from reprobox.run_record.folders import Look, look, skipping, unknown, written
from reprobox.run_record.record import Agent, File, Options, Read, RunRecord, Usage, Written
from reprobox.secret_values import secret_values
from reprobox.store import Store

#: More files than this are recorded by their tree hash alone.
MOST_LISTED = 1000
#: What of the machine's variables decides how a run goes, and tells nothing of whose it is.
_HOST_VARIABLES = re.compile(
    r"OMP_[A-Z_]+|(CUDA|NVIDIA|ROCR)_VISIBLE_DEVICES|NSLOTS|SLURM_(NTASKS|NPROCS|NNODES|CPUS_PER_TASK|CPUS_ON_NODE|GPUS)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A run that is ready to start: what it is of, the launch record by which it runs, and the request."""

    project: Path
    store: Store
    manifest: Manifest  # narrowed to the target
    lock: Lock
    target: str
    record: Mapping[str, Any]
    backend: Backend
    backend_name: str
    request: RunRequest


def recorded(prepared: Prepared, agent: Agent | None) -> RunRecord:
    """Run the command and say how it went: also where it failed or was interrupted."""
    binds = prepared.request.binds
    inputs = {bind.target: read(bind.source, prepared.store) for bind in binds if not bind.writable}
    before = {bind.target: looked(prepared, binds, bind) for bind in binds if bind.writable}
    started = time.time()
    ended = run_child(prepared.backend, prepared.request)
    times = (started, time.time())
    return masked(prepared, _record(prepared, agent, ended, times, inputs, outcome(prepared, binds, before)))


def read(source: Path, store: Store) -> Read:
    """What a folder or file that is only read holds. Raises what :func:`reprobox.data.content` does."""
    found = data.content(source, store)
    files = [entry for entry in read_index(found.listing) if entry.kind == "f"] if found.files <= MOST_LISTED else []
    top = Path(os.path.realpath(source))
    sizes = {entry.path: os.lstat(top / os.fsdecode(entry.path)).st_size for entry in files}
    return Read(
        tree=f"sha256:{found.tree}",
        size=found.size,
        count=found.files,
        files={
            os.fsdecode(entry.path): File(sha256=f"sha256:{entry.detail}", size=sizes[entry.path]) for entry in files
        },
    )


def looked(prepared: Prepared, binds: Sequence[Bind], bind: Bind) -> Look:
    """What is in one of the folders that a run may write to.

    What lies in it and is mounted elsewhere is told there; of code, what is never code is no output.
    """
    others = [str(other.source) for other in binds if other is not bind]
    code = prepared.record["code"]
    is_code = bool(code) and bind.target == code["target"]
    return look(bind.source, skipping(bind.source, others, NEVER if is_code else ()))


def outcome(prepared: Prepared, binds: Sequence[Bind], before: Mapping[str, Look]) -> dict[str, Written]:
    """What a run wrote, by mount point. A run that is over has its outcome, whatever it left behind."""
    found = {}
    for bind in (bind for bind in binds if bind.writable):
        try:
            after = looked(prepared, binds, bind)
            found[bind.target] = written(bind.source, before[bind.target], after, prepared.store)
        except ReproboxError as error:
            found[bind.target] = unknown(error, bind.source, bind.target)
        except KeyboardInterrupt:
            found[bind.target] = unknown(IntegrityError("hashing it was interrupted"), bind.source, bind.target)
    return found


def _record(
    prepared: Prepared,
    agent: Agent | None,
    ended: Ended,
    times: tuple[float, float],
    inputs: Mapping[str, Read],
    outputs: Mapping[str, Written],
) -> RunRecord:
    request, lock, project = prepared.request, prepared.lock, prepared.manifest.project
    result = prepared.record["result"]
    target = lock.targets[prepared.target]
    host = survey.look()
    limits = request.limits
    return RunRecord(
        reprobox=__version__,
        project=project.name,
        version=project.version,
        agent=agent,
        started=_moment(times[0]),
        ended=_moment(times[1]),
        command=request.argv,
        workdir=request.workdir,
        variables=dict(sorted(prepared.record["environment"].items())),
        host_variables={name: value for name, value in sorted(os.environ.items()) if _HOST_VARIABLES.fullmatch(name)},
        status=ended.status,
        signal=ended.signal,
        lock=f"sha256:{lock_digest(lock)}",
        pins=f"sha256:{pins(lock)}",
        code=lock.code or (str(lock.checkout.facts["commit"]) if lock.checkout else ""),
        target=prepared.target,
        platform=target.platform,
        backend=prepared.backend_name,
        image=result["image_digest"],
        tree=result["tree_digest"],
        unpinned=target.unpinned(),
        options=Options(
            network="host" if request.network else "none",
            isolate=request.isolate,
            memory=limits.memory,
            cpus=f"{limits.cpus:g}" if limits.cpus else "",
            gpus=request.gpus,
        ),
        inputs=inputs,
        outputs=outputs,
        host=replace(host, name="", disks=()),  # whose machine it is, is nobody's business
        usage=Usage(cpu=ended.cpu, memory=ended.memory) if request.realization.trees else None,
    )


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def masked(prepared: Prepared, record: RunRecord) -> RunRecord:
    """The record without the value of any secret of the manifest that is known here."""
    values: dict[str, bytes] = {}
    for name in prepared.manifest.secrets:
        with contextlib.suppress(ManifestError):  # it is not here, and so it is in nothing that was recorded
            values |= secret_values(prepared.manifest, prepared.project, [(name, "")])
    if not values:
        return record
    return replace(
        record,
        command=tuple(_masked(values, record.command)),
        variables=dict(zip(record.variables, _masked(values, [*record.variables.values()]), strict=True)),
        host_variables=dict(
            zip(record.host_variables, _masked(values, [*record.host_variables.values()]), strict=True)
        ),
    )


def _masked(values: Mapping[str, bytes], texts: Sequence[str]) -> list[str]:
    return [Redactor(values).text(text) for text in texts]
