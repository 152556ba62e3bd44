#!/usr/bin/env python3
"""reprobox against its peers: the same work, on one machine, in one run.

    python benchmarks/bench.py                     all rows
    python benchmarks/bench.py nothing run         some rows
    python benchmarks/bench.py --write benchmarks/RESULTS.md

Needs root, a Docker daemon and the other engines (``tests/engines/install.sh`` and ``start-dockerd.sh``); a peer that
is missing is left out. All downloads come from where this machine's apt and pip are set up for; the base image
comes from a registry on loopback. Times are wall-clock seconds, the median of several runs. Only ratios
can be compared between machines.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.engines import archives, base  # noqa: E402 - the project's own scripts, found by the line above
from tests.engines.registry import Registry, serve  # noqa: E402

REPROBOX = Path(sys.executable).with_name("reprobox")

MANIFEST = """\
[project]
name = "bench"

[base]
image = "{base}"

[[layers]]
name = "system"
kind = "apt"
packages = ["python3", "python3-pip"]

[[layers]]
name = "python"
kind = "pip"
packages = {packages}

[mounts]
"/dataset" = {{ mode = "ro" }}
"/final_log" = {{ mode = "rw" }}
"""

RECIPE = """\
FROM {base}
COPY ca.crt /etc/bench-ca.crt
ENV PIP_CERT=/etc/bench-ca.crt PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update -q && apt-get install -q -y --no-install-recommends python3 python3-pip
RUN pip install -q --break-system-packages {packages}
RUN mkdir /dataset /final_log
"""

DEFINITION = """\
Bootstrap: docker
From: {base}

%files
    ca.crt /etc/bench-ca.crt
%post
    export PIP_CERT=/etc/bench-ca.crt PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
    apt-get update -q && apt-get install -q -y --no-install-recommends python3 python3-pip
    pip install -q --break-system-packages {packages}
    mkdir /dataset /final_log
"""

HUNDRED = """\
[project]
name = "bench-hundred"

[base]
image = "{base}"

[[layers]]
name = "system"
kind = "apt"
packages = {apt}

[[layers]]
name = "python"
kind = "pip"
packages = {pip}
"""
HUNDRED_APT = ["python3", "git", "curl", "gfortran", "g++", "cmake", "vim-tiny", "jq", "libhdf5-dev", "openssh-client"]
FIFTY_PIP = [
    "numpy",
    "matplotlib",
    "scipy",
    "pandas",
    "scikit-learn",
    "ipython",
    "xarray",
    "bokeh",
    "requests",
    "tqdm",
    "seaborn",
    "sympy",
    "networkx",
]
#: One more in each layer, another each time: an answer that is remembered would be no answer to a new question.
MORE = list(
    zip(
        [
            "tree",
            "file",
            "less",
            "rsync",
            "zip",
            "unzip",
            "bc",
            "gawk",
            "xxd",
            "wget",
            "patch",
            "lsof",
            "psmisc",
            "procps",
            "bzip2",
        ],
        [
            "attrs",
            "rich",
            "click",
            "toolz",
            "tabulate",
            "markdown",
            "psutil",
            "lxml",
            "pytest",
            "h5py",
            "numba",
            "dask",
            "astropy",
            "cython",
            "pydantic",
        ],
        strict=True,
    )
)

BOOTSTRAP = '[project]\nname = "bench-bootstrap"\n\n[base]\nbootstrap = "debian:bookworm"\n'


@dataclass(kw_only=True)
class Row:
    """One line of the table: seconds of reprobox and of each peer, the goals for the ratios, or a limit in seconds."""

    work: str
    seconds: float
    peers: dict[str, float] = field(default_factory=dict)
    goals: dict[str, float] = field(default_factory=dict)
    limit: float | None = None
    notes: list[str] = field(default_factory=list)

    def ratios(self) -> dict[str, float]:
        return {name: self.seconds / seconds for name, seconds in self.peers.items()}

    def verdict(self) -> str:
        told = [(ratio, self.goals.get(name)) for name, ratio in self.ratios().items()]
        judged = [ratio <= goal for ratio, goal in told if goal is not None]
        if self.limit is not None:
            judged.append(self.seconds <= self.limit)
        return "" if not judged else "reached" if all(judged) else "missed"


def call(argv: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program; its output is shown only if it fails."""
    words = [str(word) for word in argv]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)
    if done.returncode:
        sys.exit(f"failed: {' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done


def clock(work: Callable[[], object], before: Callable[[], object] = lambda: None, times: int = 3) -> float:
    """The median wall-clock time of ``work`` in seconds; ``before`` is not counted."""
    taken = []
    for _ in range(times):
        before()
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


@dataclass(kw_only=True)
class Bench:
    """One run of the benchmarks: where it works, the base image, and how often slow work is repeated."""

    folder: Path
    registry: Registry
    base: str
    repeat: int
    numbers: Iterator[int] = field(default_factory=itertools.count)

    # -- reprobox

    def project(self, name: str, text: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "research.toml").write_text(text)
        return folder

    def recipe(self, packages: Sequence[str] = ("numpy", "matplotlib"), name: str = "recipe") -> Path:
        return self.project(name, MANIFEST.format(base=self.base, packages=json.dumps(list(packages))))

    def reprobox(self, store: Path, verb: str, project: Path, *argv: str) -> str:
        # Python keeps what it compiled, as it does where nobody forbids it and as pip does when it installs.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["REPROBOX_STORE"] = str(store)
        return call([REPROBOX, verb, "-C", project, *argv], env=environment).stdout

    def store(self, name: str) -> Path:
        return self.folder / "stores" / name

    def fresh(self, name: str) -> Path:
        """A path where nothing was before. What was measured goes when all is over: for minutes after many files were
        deleted, ext4 is slow to find room for new ones, and whoever comes next would pay for it.
        """
        return self.folder / "stores" / f"{name}-{next(self.numbers)}"

    # -- Docker and buildah

    def context(self, packages: Sequence[str] = ("numpy", "matplotlib")) -> Path:
        folder = self.folder / "context"
        folder.mkdir(exist_ok=True)
        bundle = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
        shutil.copy(bundle, folder / "ca.crt")
        for name, recipe in (("Dockerfile", RECIPE), ("Apptainer.def", DEFINITION)):
            (folder / name).write_text(recipe.format(base=self.base, packages=" ".join(packages)))
        return folder

    def docker_build(self, *options: str, tag: str = "latest") -> None:
        call(["docker", "build", "--network", "host", "--tag", f"reprobox-bench:{tag}", *options, self.context_path])

    @property
    def context_path(self) -> Path:
        return self.folder / "context"

    def docker_forget(self) -> None:
        for image in ("reprobox-bench", self.base):
            subprocess.run(["docker", "image", "rm", "--force", image], capture_output=True)

    def buildah(self, *argv: str | Path) -> None:
        root = self.folder / "buildah"
        call(["buildah", "--root", root / "root", "--runroot", root / "run", *argv])

    def buildah_build(self, *options: str) -> None:
        how = ("--layers", "--isolation", "chroot", "--tls-verify=false", "--network", "host")
        self.buildah("bud", *how, "--tag", "bench", *options, self.context_path)

    def buildah_forget(self) -> None:
        if (self.folder / "buildah").exists():
            self.buildah("rmi", "--all", "--force")

    # -- Apptainer

    def apptainer_build(self) -> None:
        """As the ordinary user that REPROBOX_TEST_USER names, if one is: root needs CAP_SYS_RESOURCE for it."""
        user, place = os.environ.get("REPROBOX_TEST_USER"), self.fresh("apptainer")
        shutil.copytree(self.context_path, place)
        for folder in (self.folder, place.parent):
            folder.chmod(0o755)
        as_user = ["runuser", "--user", user, "--"] if user else []
        if user:
            call(["chown", "-R", f"{user}:", place])
        home = {"HOME": str(place), "APPTAINER_CACHEDIR": str(place / "cache"), "APPTAINER_TMPDIR": str(place)}
        argv = [
            *as_user,
            "apptainer",
            "build",
            "--force",
            *(["--fakeroot"] if user else []),
            "peer.sif",
            "Apptainer.def",
        ]
        call(argv, cwd=place, env={**os.environ, **home, "APPTAINER_NOHTTPS": "1"})


def have(program: str, *argv: str) -> bool:
    if not shutil.which(program):
        return False
    return not argv or subprocess.run([program, *argv], capture_output=True).returncode == 0


def docker_runs() -> bool:
    return have("docker", "version", "--format", "{{.Server.Version}}")


def clear(*folders: Path) -> None:
    for folder in folders:
        subprocess.run(["rm", "-rf", folder], check=True)


def where_time_goes(told: str) -> list[str]:
    """Seconds by layer, from what ``realize --json`` printed."""
    layers = json.loads(told)["layers"]
    parts = [f"{layer['name']} {layer['seconds']:.2f}" for layer in layers if not layer["cached"]]
    return [f"seconds by layer in one run: {', '.join(parts)}"] if parts else []


# -- rows --------------------------------------------------------------------------------------------------------------


def cold(bench: Bench) -> Iterator[Row]:
    """The lock is there, nothing is in the store: fetch and build. The same recipe in Docker and buildah, uncached."""
    project = bench.recipe()
    bench.context()
    bench.reprobox(bench.store("lock"), "lock", project)
    store, inputs, told = bench.fresh("cold"), bench.fresh("inputs"), ""

    def another_store() -> None:
        nonlocal store
        store = bench.fresh("cold")

    def realize() -> None:
        nonlocal told
        told = bench.reprobox(store, "realize", project, "--json")

    row = Row(
        work="cold realize, inputs not in the store",
        seconds=clock(realize, another_store, bench.repeat),
        notes=where_time_goes(told),
    )

    def keep_inputs_only() -> None:
        nonlocal inputs
        inputs = bench.fresh("inputs")
        inputs.mkdir(parents=True)
        call(["cp", "-a", "--reflink=auto", store / "blobs", inputs / "blobs"])

    def realize_from_inputs() -> None:
        nonlocal told
        told = bench.reprobox(inputs, "realize", project, "--offline", "--json")

    second = Row(
        work="realize from inputs in the store, no layers",
        seconds=clock(realize_from_inputs, keep_inputs_only, bench.repeat),
        notes=where_time_goes(told),
    )
    for name, seconds in cold_peers(bench).items():
        row.peers[name], row.goals[name] = seconds, 1 / 3
        second.peers[name], second.goals[name] = seconds, 1 / 4
    yield row
    yield second


def cold_peers(bench: Bench) -> dict[str, float]:
    peers = {}
    if docker_runs():
        peers["docker build"] = clock(lambda: bench.docker_build("--no-cache"), bench.docker_forget, bench.repeat)
    if have("buildah"):
        peers["buildah bud"] = clock(lambda: bench.buildah_build("--no-cache"), bench.buildah_forget, bench.repeat)
    return peers


def ready(bench: Bench) -> tuple[Path, Path]:
    """The recipe, locked and realized: project and store."""
    project, store = bench.recipe(), bench.store("ready")
    bench.reprobox(store, "lock", project)
    bench.reprobox(store, "realize", project)
    return project, store


def nothing(bench: Bench) -> Iterator[Row]:
    """Everything is there already."""
    project, store = ready(bench)
    row = Row(
        work="nothing to do", seconds=clock(lambda: bench.reprobox(store, "realize", project), times=10), limit=0.15
    )
    bench.context()
    if docker_runs():
        bench.docker_build()
        row.peers["docker build"] = clock(bench.docker_build, times=10)
    if have("buildah"):
        bench.buildah_build()
        row.peers["buildah bud"] = clock(bench.buildah_build, times=5)
    yield row
    seconds = clock(lambda: bench.reprobox(store, "lock", project), times=5)
    yield Row(work="lock again, warm, nothing changed", seconds=seconds, limit=2.0)


def package(bench: Bench) -> Iterator[Row]:
    """One pip package is added: only that layer is built again."""
    project, store = ready(bench)
    before, after = ("numpy", "matplotlib"), ("numpy", "matplotlib", "tqdm")
    lock = project / "research.lock"
    first = lock.read_bytes()
    bench.recipe(after)
    bench.reprobox(store, "lock", project)
    second = lock.read_bytes()
    fresh = bench.fresh("package")

    def prepare() -> None:
        nonlocal fresh
        fresh = bench.fresh("package")
        call(["cp", "-a", "--reflink=auto", store, fresh])
        bench.recipe(before)
        lock.write_bytes(first)
        bench.reprobox(fresh, "realize", project)
        bench.recipe(after)
        lock.write_bytes(second)

    row = Row(
        work="realize after one pip package was added to the lock",
        seconds=clock(lambda: bench.reprobox(fresh, "realize", project), prepare, bench.repeat),
    )
    bench.recipe(before)
    if docker_runs():
        bench.context(before)
        bench.docker_build()

        def change() -> None:
            subprocess.run(["docker", "image", "rm", "--force", "reprobox-bench:changed"], capture_output=True)
            bench.context(
                (*after, f"pip>={time.time_ns() % 20}")
            )  # another line each time, or Docker answers from its cache

        row.peers["docker build"] = clock(lambda: bench.docker_build(tag="changed"), change, bench.repeat)
        row.goals["docker build"] = 1 / 10
    yield row


def run(bench: Bench) -> Iterator[Row]:
    """A command that does nothing, in an environment that is there."""
    project, store = ready(bench)
    manifest = (project / "research.toml").read_text()
    (project / "research.toml").write_text(manifest.partition("[mounts]")[0])
    bench.reprobox(store, "lock", project)
    bench.reprobox(store, "realize", project)
    row = Row(work="run -- true", seconds=clock(lambda: bench.reprobox(store, "run", project, "--", "true"), times=20))
    if docker_runs():
        bench.context()
        bench.docker_build()
        row.peers["docker run"] = clock(lambda: call(["docker", "run", "--rm", "reprobox-bench", "true"]), times=10)
        row.goals["docker run"] = 1 / 6
    if have("apptainer"):
        image = bench.folder / "bench.sif"
        root = bench.folder / "root"
        bench.reprobox(store, "export", project, "--format", "rootfs", "-o", str(root))
        call(["apptainer", "build", image, root])
        row.peers["apptainer exec"] = clock(lambda: call(["apptainer", "exec", "--userns", image, "true"]), times=10)
        row.goals["apptainer exec"] = 1 / 3
    if have("bwrap"):
        argv = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "true"]
        row.notes.append(f"`bwrap … true` (no Python, no overlay): {clock(lambda: call(argv), times=20):.3f} s")
    started = clock(lambda: call([sys.executable, "-c", "pass"]), times=20)
    row.notes.append(f"a bare `python -c pass` with this interpreter: {started:.3f} s")
    (project / "research.toml").write_text(manifest)
    bench.reprobox(store, "lock", project)
    yield row


def sif(bench: Bench) -> Iterator[Row]:
    """A SIF of the recipe, with nothing in the store, against `apptainer build`; both download everything."""
    if not have("apptainer"):
        return
    project, store = bench.recipe(), bench.fresh("sif")
    bench.context()
    bench.reprobox(bench.store("lock"), "lock", project)

    def another_store() -> None:
        nonlocal store
        store = bench.fresh("sif")

    def realize(*output: str) -> None:
        bench.reprobox(store, "realize", project, "--backend", "singularity", *output)

    row = Row(work="cold realize to a SIF", seconds=clock(realize, another_store, bench.repeat))
    row.peers["apptainer build"] = clock(bench.apptainer_build, times=1)
    row.goals["apptainer build"] = 1 / 5
    again = clock(lambda: realize("--output", str(bench.folder / f"{time.time_ns()}.sif")))
    row.notes.append(f"another SIF of layers that are in the store: {again:.1f} s")
    yield row


def bootstrap(bench: Bench) -> Iterator[Row]:
    """A Debian base from its packages, against mmdebstrap with the same list of packages; both download everything."""
    project, store = bench.project("bootstrap", BOOTSTRAP), bench.fresh("bootstrap")
    spent: list[float] = []

    def before() -> None:
        nonlocal store
        store = bench.fresh("bootstrap")
        clear(project / "research.lock")

    def both() -> None:
        started = time.perf_counter()
        bench.reprobox(store, "lock", project)
        spent.append(time.perf_counter() - started)
        bench.reprobox(store, "realize", project)

    seconds = clock(both, before, bench.repeat)
    locked = tomllib.loads((project / "research.lock").read_text())
    (target,) = locked["targets"].values()
    names = sorted({item["package"] for item in target["layers"][0]["inputs"] if item["type"] == "deb"})
    row = Row(work="bootstrap of a Debian base: lock and realize", seconds=seconds)
    row.notes.append(
        f"{len(names)} packages; of the time, {statistics.median(spent):.1f} s locking (index, signatures)"
    )
    if have("mmdebstrap"):
        sources = "".join(f"{archive.source}\n" for archive in archives.configured())

        def peer() -> None:
            argv = [
                "mmdebstrap",
                "--quiet",
                "--variant=essential",
                f"--include={','.join(names)}",
                "bookworm",
                str(bench.fresh("mmdebstrap")),
                "-",
            ]
            subprocess.run(argv, input=sources, text=True, check=True, capture_output=True)

        row.peers["mmdebstrap"] = clock(peer, times=bench.repeat)
        row.goals["mmdebstrap"] = 1 / 2
    yield row


def inputs(bench: Bench) -> Iterator[Row]:
    """Locked inputs by the thousand: read, check, plan. In process, so without the start of Python."""
    from reprobox.plan import plan
    from reprobox.project import Project
    from reprobox.store import Store

    before = None
    for count in (100, 1_000, 10_000):
        project = bench.project(f"inputs{count}", BOOTSTRAP)
        (project / "research.lock").write_text(lock_of_inputs(count))
        store = Store(bench.store(f"inputs{count}"))

        def read_and_plan(project: Path = project, store: Store = store) -> None:
            lock = Project.find(project).lock(store)
            plan(lock.targets["default"], has_layer=lambda _: False, has_blob=store.has_blob)

        first_time = clock(read_and_plan, times=1)
        row = Row(work=f"{count:,} locked inputs: read, check, plan", seconds=clock(read_and_plan, times=5))
        row.limit = 0.5 if count == 10_000 else None
        row.notes.append(f"the first time a lock is seen: {first_time:.2f} s")
        yield grown(row, before)
        before = row


def lock_of_inputs(count: int) -> str:
    from reprobox.lock import Input, Lock, LockedLayer, LockedTarget, with_ids
    from reprobox.lock_text import write

    facts = {"package": "p", "version": "1.0-1", "architecture": "amd64", "path": "pool/main/p/p/p_1.0-1_amd64.deb"}
    files = tuple(
        Input(type="deb", name=f"p{n}_1.0-1_amd64.deb", sha256=f"{n:064x}", size=n, facts={**facts, "package": f"p{n}"})
        for n in range(count)
    )
    first = LockedLayer(name="base", kind="bootstrap", recipe=1, request="0" * 16)
    second = LockedLayer(name="system", kind="apt", recipe=1, request="0" * 16, parents=("base",), inputs=files)
    target = LockedTarget(name="default", platform="linux/amd64", layers=with_ids((first, second), 0))
    return write(Lock(epoch=0, manifest="", keys={}, targets={"default": target}))


def layers(_: Bench) -> Iterator[Row]:
    """Layers by the thousand, half in a chain and half beside one another: order, ids and plan. In process."""
    from reprobox import graph
    from reprobox.lock import LockedLayer, LockedTarget, with_ids
    from reprobox.manifest import Base, Layer, Manifest, Project
    from reprobox.plan import plan

    class Anything:
        def needs(self, *_: object) -> tuple[str, ...]:
            return ()

    before = None
    for count in (100, 10_000, 100_000):
        tables = tuple(
            Layer(name=f"l{n}", kind="k", index=n, after=(f"l{n - 1}",) if 0 < n < count // 2 else ())
            for n in range(count)
        )
        manifest = Manifest(project=Project(name="large"), base=Base(bootstrap="debian:bookworm"), layers=tables)

        def order_and_plan(manifest: Manifest = manifest) -> None:
            nodes = graph.build(manifest, {"k": Anything()}).nodes
            locked = [LockedLayer(name=n.name, kind=n.kind, recipe=1, request="", parents=n.parents) for n in nodes]
            target = LockedTarget(name="default", platform="linux/amd64", layers=with_ids(locked, 0))
            plan(target, has_layer=lambda _: False, has_blob=lambda _: False)

        times = 3 if count < 100_000 else 1
        row = Row(work=f"{count:,} layers: order, ids, plan", seconds=clock(order_and_plan, times=times))
        yield grown(row, before)
        before = row


def grown(row: Row, before: Row | None) -> Row:
    """The row, with how the time grew from the one before."""
    if before is not None:
        row.notes.append(f"{row.seconds / before.seconds:.1f} times that of {before.work.partition(':')[0]}")
    return row


def fresh_lock(bench: Bench) -> Iterator[Row]:
    """One package that was never asked for more in an apt layer of over 100 packages and in a pip layer of over 50."""
    store, seconds = bench.store("hundred"), []
    for more in [((), ()), *(((apt,), (pip,)) for apt, pip in MORE[: 2 + 2 * bench.repeat])]:
        apt, pip = json.dumps([*HUNDRED_APT, *more[0]]), json.dumps([*FIFTY_PIP, *more[1]])
        project = bench.project("hundred", HUNDRED.format(base=bench.base, apt=apt, pip=pip))
        seconds.append(clock(lambda project=project: bench.reprobox(store, "lock", project), times=1))
    text = (project / "research.lock").read_text()
    row = Row(work="lock, warm, one new package in each layer", seconds=statistics.median(seconds[2:]), limit=2.0)
    debs, wheels = (text.count(f'type = "{kind}"') for kind in ("deb", "wheel"))
    row.notes.append(f"{debs} packages and {wheels} wheels")
    yield row


ROWS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "cold": cold,
    "nothing": nothing,
    "package": package,
    "run": run,
    "sif": sif,
    "bootstrap": bootstrap,
    "lock": fresh_lock,
    "inputs": inputs,
    "layers": layers,
}


# -- the machine and the table -----------------------------------------------------------------------------------------


def version(program: str, *argv: str) -> str:
    if not have(program):
        return "not installed"
    done = subprocess.run([program, *(argv or ("--version",))], capture_output=True, text=True)
    return (done.stdout or done.stderr).strip().splitlines()[0] if done.returncode == 0 else "does not run"


def machine() -> dict[str, str]:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "",
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / (1 << 20)
    return {
        "system": f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Linux {platform.release()}",
        "processor": f"{os.cpu_count()} cores of {cpu}",
        "memory": f"{memory:.0f} GiB",
        "Python": platform.python_version(),
        "reprobox": version(str(REPROBOX)),
        "Docker": version("docker", "version", "--format", "{{.Server.Version}}, {{.Server.Os}}"),
        "buildah": version("buildah"),
        "mmdebstrap": version("mmdebstrap"),
        "Apptainer": version("apptainer"),
    }


def table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| work | reprobox | peers | ratio | goal | |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in rows:
        peers = "<br>".join(f"{name} {seconds:.2f} s" for name, seconds in row.peers.items())
        ratios = "<br>".join(f"1/{1 / ratio:.1f}" if ratio <= 1 else f"{ratio:.1f}" for ratio in row.ratios().values())
        goals = [f"1/{1 / row.goals[name]:.0f}" if name in row.goals else "" for name in row.peers]
        if row.limit is not None:
            goals = [f"{row.limit} s"]
        cells = (row.work, f"{row.seconds:.3f} s", peers, ratios, "<br>".join(goals), row.verdict())
        yield f"| {' | '.join(cells)} |"


def report(rows: Sequence[Row], facts: Mapping[str, str]) -> str:
    lines = [
        "# Measured",
        "",
        f"Written by `python benchmarks/bench.py {' '.join(sys.argv[1:])}`. Wall-clock seconds, medians, one run.",
        "",
        *table(rows),
        "",
        "Where the time goes:",
        "",
        *(f"- {row.work}: {note}" for row in rows for note in row.notes),
        "",
        "The machine:",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
    ]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def prepared(repeat: int, keep: Path) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="reprobox-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "stores").mkdir()
        keep.mkdir(parents=True, exist_ok=True)
        layout = base.oci_layout(base.minbase(keep / "bookworm-minbase.tar"), folder / "layout")
        (folder / "registry").mkdir()
        with serve(folder / "registry") as registry:
            reference = registry.push(f"oci:{layout}:latest", "debian", "bookworm")
            bench = Bench(folder=folder, registry=registry, base=reference, repeat=repeat)
            try:
                yield bench
            finally:
                bench.docker_forget()
                subprocess.run(["docker", "image", "rm", "--force", "reprobox-bench:changed"], capture_output=True)
                with contextlib.suppress(SystemExit):
                    bench.buildah_forget()
                clear(folder / "stores")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure reprobox against its peers.")
    parser.add_argument(
        "rows", nargs="*", choices=[[], *ROWS], metavar="ROW", help=f"of {', '.join(ROWS)}; all if none is named"
    )
    parser.add_argument("--repeat", type=int, default=3, help="how often slow work is done; the median counts")
    parser.add_argument("--write", type=Path, help="write the report to this file as well")
    parser.add_argument(
        "--cache", type=Path, default=ROOT / ".pytest_cache/d/engines", help="where the base image is kept"
    )
    options = parser.parse_args()

    rows: list[Row] = []
    with prepared(options.repeat, options.cache) as bench:
        for name in options.rows or ROWS:
            print(f"{name}: {(ROWS[name].__doc__ or '').strip()}", file=sys.stderr)
            for row in ROWS[name](bench):
                rows.append(row)
                print(
                    f"  {row.work}: {row.seconds:.3f} s {row.peers or ''} {row.verdict()}", file=sys.stderr, flush=True
                )
    text = report(rows, machine())
    print(text)
    if options.write:
        options.write.write_text(text)


if __name__ == "__main__":
    main()
