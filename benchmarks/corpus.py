#!/usr/bin/env python3
"""Packages that are hard to build twice, built twice: are the layers the same, bit for bit?

    python benchmarks/corpus.py build                    every set, twice
    python benchmarks/corpus.py build apt:dbus pip:lxml  some sets
    python benchmarks/corpus.py agree                    the locks against `apt-get install` in a Docker container
    python benchmarks/corpus.py write                    benchmarks/CORPUS.md from what was found

The first build of a set is root's. The second is an ordinary user's (``--user``), in a store of its own, on another
file system where ``--second`` names one, and with another clock: libfaketime tells reprobox and every dynamically
linked program of the step that it is forty days later. Inputs are shared, layers are not. Layers are removed when they
are compared; files that differ are kept below ``--work``.

Needs root, Debian's package ``libfaketime``, and for ``agree`` a Docker daemon. Packages come from where this machine's
apt and pip are set up for.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from reprobox.digest import read_index  # noqa: E402 - the project's own, found by the line above
from reprobox.lock import LockedLayer  # noqa: E402
from reprobox.lock_text import read  # noqa: E402
from reprobox.scrub import rule_for  # noqa: E402
from reprobox.tree import remove  # noqa: E402

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
SHIFT = "+40d"
_TOGETHER = 12

#: One package a set, unless its worth is in what several do to each other.
APT: Mapping[str, tuple[str, ...]] = {
    name.partition(" ")[0]: tuple(name.split())
    for name in (
        "apache2",
        "ca-certificates",
        "chrony",
        "cmake",
        "cron",
        "dbus",
        "docker.io",
        "emacs-nox",
        "exim4-daemon-light",
        "ffmpeg",
        "fontconfig fonts-dejavu",
        "gdal-bin",
        "gfortran",
        "ghostscript",
        "git",
        "graphviz",
        "imagemagick",
        "info install-info",
        "iputils-ping",
        "libgtk-3-0 libgtk-3-bin adwaita-icon-theme",
        "libhdf5-dev",
        "libnetcdf-dev",
        "libopenmpi-dev",
        "libxml-libxml-perl libwww-perl libdbi-perl",
        "locales",
        "man-db manpages-dev",
        "mariadb-server",
        "mpich",
        "munge",
        "nginx-light",
        "nodejs",
        "octave",
        "openjdk-17-jre-headless",
        "openssh-server",
        "postfix",
        "postgresql",
        "python3-dev",
        "python3-numpy python3-matplotlib",
        "r-base-core",
        "redis-server",
        "ruby",
        "sgml-base xml-core docbook-xml",
        "shared-mime-info desktop-file-utils",
        "slurm-client",
        "sqlite3",
        "ssl-cert",
        "sudo",
        "systemd",
        "tcl-dev",
        "texlive-latex-base",
        "texlive-luatex",
        "tzdata",
        "vim",
    )
}
PIP_NAMES = """
astropy biopython black bokeh cryptography cython dask duckdb fastapi flask gensim geopandas grpcio
h5py ipython jax[cpu] jupyterlab llvmlite lxml matplotlib mypy netcdf4 networkx nltk notebook numba
numpy opencv-python-headless pandas pillow plotly polars protobuf psutil pyarrow pydantic pytest
pyyaml pyzmq requests scikit-image scikit-learn scipy seaborn shapely spacy sqlalchemy statsmodels
sympy tables tifffile transformers xarray zarr
"""


# -- the manifests -----------------------------------------------------------------------------------------------------


def manifest(kind: str, subjects: Mapping[str, Sequence[str]]) -> str:
    """``subjects``: the packages of each layer in question, by the layer's name."""
    layers = [("system", "apt", ["python3"])] if kind == "pip" else []
    layers += [(name, kind, list(packages)) for name, packages in subjects.items()]
    text = '[project]\nname = "corpus"\n\n[base]\nbootstrap = "debian:bookworm"\n'
    for name, layer, wanted in layers:
        text += f'\n[[layers]]\nname = "{name}"\nkind = "{layer}"\npackages = {json.dumps(wanted)}\n'
    return text


def batches(wanted: Iterable[tuple[str, str, Sequence[str]]]) -> Iterator[tuple[str, dict[str, Sequence[str]]]]:
    """Sets to build in one go: apt sets alone, for each is to be over the base; of pip's, layers on one another."""
    waiting: dict[str, Sequence[str]] = {}
    for kind, name, packages in wanted:
        if kind == "apt":
            yield kind, {name: packages}
        else:
            waiting[name] = packages
    names = list(waiting)
    for start in range(0, len(names), _TOGETHER):
        yield "pip", {name: waiting[name] for name in names[start : start + _TOGETHER]}


def sets(asked: Sequence[str]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    every = [("apt", name, packages) for name, packages in APT.items()] + [
        ("pip", name, (name,)) for name in PIP_NAMES.split()
    ]
    for kind, name, packages in every:
        if not asked or kind in asked or f"{kind}:{name}" in asked:
            yield kind, name, packages


# -- building one set twice --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Place:
    """Who builds where: ``store`` and ``project`` are the user's own."""

    user: str
    store: Path
    shift: str = ""

    def reprobox(self, project: Path, *argv: str) -> str:
        """Standard output of a command, run as the user, at the shifted time."""
        entry = pwd.getpwnam(self.user)
        environment = {**os.environ, "HOME": entry.pw_dir, "REPROBOX_STORE": str(self.store)}
        command = [sys.executable, str(Path(__file__).resolve()), "reprobox", "--shift", self.shift, "--"]
        if self.shift:
            environment |= _later(str(FAKETIME), self.shift)
        options: dict[str, Any] = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [*command, *argv, "-C", str(project)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            **(options if self.user != "root" else {}),
        )
        if done.returncode:
            raise RuntimeError(f"reprobox {' '.join(argv)}: {done.stderr[-1500:]}")
        return done.stdout

    def layer(self, identity: str) -> Path:
        return self.store / "layers" / identity.removeprefix("sha256:")

    def blob(self, digest: str) -> Path:
        return self.store / "blobs" / digest[:2] / digest


def _later(library: str, shift: str) -> dict[str, str]:
    return {"LD_PRELOAD": library, "FAKETIME": shift, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}


def reprobox_later(shift: str, argv: Sequence[str]) -> int:
    """The command line in this process, with the clock of every step moved by ``shift``."""
    from reprobox.backend import Bind, BuildRequest, BuildResult
    from reprobox.cli import main
    from reprobox.sandbox.backend import Sandbox

    build, library = Sandbox.build, "/run/reprobox/libfaketime.so.1"

    def build_later(self: Sandbox, request: BuildRequest) -> BuildResult:
        environment = {**request.environment, **_later(library, shift)}
        binds = (*request.binds, Bind(source=FAKETIME, target=library))
        return build(self, replace(request, environment=environment, binds=binds))

    if shift:
        Sandbox.build = build_later  # type: ignore[method-assign]
    sys.argv = ["reprobox", *argv]
    return main()


@contextlib.contextmanager
def project(folder: Path, text: str) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir=folder))
    path.chmod(0o755)
    (path / "research.toml").write_text(text)
    yield path
    shutil.rmtree(path)


def share_inputs(lock: Path, first: Place, second: Place) -> None:
    """Give the second store the inputs of a lock."""
    if not second.store.exists():
        second.store.mkdir(mode=0o700)
        (second.store / "blobs").mkdir(mode=0o700)
        for path in (second.store, second.store / "blobs"):
            shutil.chown(path, second.user)
    for digest in sorted(set(re.findall(r"\b[0-9a-f]{64}\b", lock.read_text()))):
        source, target = first.blob(digest), second.blob(digest)
        if source.is_file() and not target.exists():
            target.parent.mkdir(mode=0o700, exist_ok=True)
            shutil.copyfile(source, target)
            target.chmod(0o444)
            for path in (target, target.parent):
                shutil.chown(path, second.user, pwd.getpwnam(second.user).pw_gid)


def build(work: Path, first: Place, second: Place, kind: str, subjects: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Build sets, each a layer of its own, in both places; what is the same, and what is not."""
    slugs = {name: re.sub(r"[^a-z0-9]+", "-", f"subject-{name}").strip("-") for name in subjects}
    with project(
        work / "projects", manifest(kind, {slugs[name]: packages for name, packages in subjects.items()})
    ) as path:
        first.reprobox(path, "lock")
        lock = read((path / "research.lock").read_text()).targets["default"]
        share_inputs(path / "research.lock", first, second)
        for file in (path, *path.iterdir()):
            shutil.chown(file, second.user)
        told = [json.loads(place.reprobox(path, "realize", "--json")) for place in (first, second)]
    layers = [{layer["name"]: layer for layer in one["layers"]} for one in told]
    locked = {layer.name: layer for layer in lock.layers}
    found = {}
    for name, slug in slugs.items():
        kept = work / "differ" / kind / name
        found[f"{kind}:{name}"] = {
            "kind": kind,
            "name": name,
            "packages": list(subjects[name]),
            **compare(first, second, layers[0][slug], layers[1][slug], kept),
            **({"debs": debs(locked[slug]), "removed": locked[slug].options["removed"]} if kind == "apt" else {}),
            "inputs": len(locked[slug].inputs),
        }
    clean(first, second, [locked[slug] for slug in slugs.values()])
    return found


def attempt(
    work: Path, first: Place, second: Place, kind: str, subjects: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """The same, and it is said; an error is a finding too."""
    try:
        answers = build(work, first, second, kind, subjects)
    except RuntimeError as error:
        answers = {f"{kind}:{name}": {"kind": kind, "name": name, "error": str(error)} for name in subjects}
    for key, answer in answers.items():
        print(key, answer.get("error") or ("same" if answer["same"] else answer["files"][:20]), flush=True)
    return answers


def compare(
    first: Place, second: Place, one: Mapping[str, Any], other: Mapping[str, Any], kept: Path
) -> dict[str, Any]:
    """One layer as both places told it."""
    identity = one["id"]
    return {
        "size": one["size"],
        "seconds": [round(layer["seconds"], 1) for layer in (one, other)],
        "same": one["diff_id"] == other["diff_id"],
        "dropped": json.loads((first.layer(identity) / "layer.json").read_text())["dropped"],
        "files": differences(first.layer(identity), second.layer(identity), kept),
    }


def clean(first: Place, second: Place, layers: Sequence[LockedLayer]) -> None:
    """Remove the layers, and wheels, which are large and of which few sets share any."""
    for place in (first, second):
        for layer in layers:
            remove(place.layer(layer.id))
            for item in layer.inputs:
                if item.type == "wheel":
                    remove(place.blob(item.sha256))
        for path in (place.store / "realizations").iterdir():
            remove(path)


def debs(layer: LockedLayer) -> list[list[str]]:
    """Name, version and architecture of each package of a locked layer."""
    return [[item.facts[key] for key in ("package", "version", "architecture")] for item in layer.inputs]


def differences(first: Path, second: Path, kept: Path) -> list[str]:
    """Paths that differ between two layers, with how; both versions of files are kept below ``kept``."""
    remove(kept)
    one, two = (
        {entry.path: entry for entry in read_index((layer / "index").read_bytes())} for layer in (first, second)
    )
    found = []
    for path in sorted(one.keys() | two.keys()):
        old, new = one.get(path), two.get(path)
        if old == new:
            continue
        how = "content" if old and new and (old.kind, old.mode) == (new.kind, new.mode) else f"{old} / {new}"
        found.append(f"/{os.fsdecode(path)}: {how}")
        for layer, entry, name in ((first, old, "first"), (second, new, "second")):
            if entry and entry.kind == "f":
                place = kept / os.fsdecode(path) / name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(layer / "tree" / os.fsdecode(path), place)
    return found


# -- the solver --------------------------------------------------------------------------------------------------------


def agree(work: Path, first: Place, wanted: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What apt in a container of the same base would do for each set of packages.

    The container gets this machine's apt sources and keys when it starts; its base is what reprobox exports.
    """
    with project(work / "projects", manifest("apt", {})) as path:
        first.reprobox(path, "lock")
        archive = path / "base.tar"
        first.reprobox(path, "export", "--format", "docker-archive", "--output", str(archive))
        image = docker("load", "--quiet", "--input", str(archive)).rpartition(" ")[2].strip()
    with container(image) as name:
        command = ("exec", name, "apt-get", "install", "-s", "-q", "--no-install-recommends")
        return {key: simulated(docker(*command, *packages)) for key, packages in wanted.items()}


@contextlib.contextmanager
def container(image: str) -> Iterator[str]:
    """A container of ``image`` with fresh indices of this machine's apt sources."""
    places = ("/etc/apt/sources.list", "/etc/apt/sources.list.d", "/usr/share/keyrings", "/etc/ssl/certs")
    binds = [f"--volume={path}:{path}:ro" for path in places if Path(path).exists()]
    proxies = [f"--env={name}" for name in os.environ if name.lower().endswith("_proxy")]
    options = ("--detach", "--rm", "--network=host", *binds, *proxies)
    name = docker("run", *options, image, "sleep", "infinity").strip()
    try:
        docker("exec", name, "apt-get", "-q", "update")
        yield name
    finally:
        docker("rm", "--force", name)
        docker("rmi", image)


def simulated(text: str) -> dict[str, list[list[str]]]:
    """What ``apt-get -s`` says it would do: [name, version, architecture] of each package, and what it removes."""
    installed = re.findall(r"^Inst (\S+?)(?::\S+)? (?:\[[^]]*\] )?\((\S+) .*\[(\S+)\]\)", text, re.MULTILINE)
    removed = re.findall(r"^Remv (\S+)", text, re.MULTILINE)
    return {"debs": sorted(map(list, installed)), "removed": sorted(removed)}


def docker(*argv: str) -> str:
    done = subprocess.run(["docker", *argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(argv)}: {done.stderr}")
    return done.stdout


# -- the report --------------------------------------------------------------------------------------------------------


def report(found: Sequence[Mapping[str, Any]]) -> str:
    lines = [HEAD]
    for kind in ("apt", "pip"):
        mine = [item for item in found if item["kind"] == kind and "error" not in item]
        same = sum(item["same"] for item in mine)
        mended = sum(verdict(item) == "mended" for item in mine)
        lines += [f"## {kind}: {same} of {len(mine)} identical" + (f", {mended} more mended" if mended else ""), ""]
        lines += ["| set | inputs | layer, MB | seconds | identical |", "| --- | --- | --- | --- | --- |"]
        lines += [
            f"| {' '.join(item['packages'])} | {item['inputs']} | {item['size'] / 1e6:.1f}"
            f" | {item['seconds'][0]}, {item['seconds'][1]} | {verdict(item)} |"
            for item in mine
        ]
        lines.append("")
        for item in mine:
            if verdict(item) == "**no**":
                lines += [f"`{item['name']}` differs{REASONS.get(item['name'], '')}:", ""]
                lines += [*(f"- `{path}`" for path in item["files"] or ["times"]), ""]
    asked = [item for item in found if item.get("apt") and "debs" in item]
    if asked:
        equal = [item for item in asked if agrees(item)]
        lines += [f"## The solver: {len(equal)} of {len(asked)} sets as `apt-get install` in Docker", ""]
        lines += [TOLD, ""]
        lines += [f"- `{' '.join(item['packages'])}`: {disagreement(item)}" for item in asked if not agrees(item)]
    dropped = sorted({line for item in found for line in item.get("dropped", ()) if item["kind"] == "apt"})
    lines += ["## What was dropped, and told", "", *(f"- {line}" for line in dropped)]
    return "\n".join(lines) + "\n"


def verdict(item: Mapping[str, Any]) -> str:
    if item["same"]:
        return "yes"
    paths = [line.partition(": ")[0].lstrip("/") for line in item["files"]]
    return "mended" if paths and all(rule_for(path, installing=item["kind"] == "apt") for path in paths) else "**no**"


def agrees(item: Mapping[str, Any]) -> bool:
    return disagreement(item) == ""


def disagreement(item: Mapping[str, Any]) -> str:
    ours, apts = ({" ".join(deb) for deb in debs} for debs in (item["debs"], item["apt"]["debs"]))
    words = [f"only in the lock: {', '.join(sorted(ours - apts))}"] if ours - apts else []
    words += [f"only in Docker: {', '.join(sorted(apts - ours))}"] if apts - ours else []
    words += ["removals differ"] if sorted(item["removed"]) != item["apt"]["removed"] else []
    return "; ".join(words)


#: Why a set differs, where it is known.
REASONS: Mapping[str, str] = {
    "texlive-latex-base": (
        " in its LuaTeX and plain TeX formats, and in no other file. These engines write the clock into a format, and"
        " LuaTeX what its memory happened to hold; pdfTeX's formats are the same. Without a format LuaTeX does not"
        " run, so no rule leaves them out; when one did, for a try, the two layers were identical"
    ),
}

HEAD = """\
# The corpus

Packages chosen for being hard to build twice, each built twice over the same base by `benchmarks/corpus.py`: by root,
and by an ordinary user in a store of its own on another file system, with a clock that is forty days ahead. Identical
means the same diff id: the same paths, types, modes, contents, links and times. An apt set stands on the base alone,
a pip set on Python, and on the pip sets that were built in the same go.

Sets that differed at first, in nothing but files for which a [rule](../docs/reference/scrubbed-paths.md) was made then,
were built twice again under that rule, or are *mended*. Sets that were identical before were not built again.
"""
TOLD = """\
`apt-get install --no-install-recommends` of each set, simulated in a Docker container of the same base, names the same
packages in the same versions and architectures as the lock, and the same removals."""


# -- the command line --------------------------------------------------------------------------------------------------


def main() -> int:
    if sys.argv[1:2] == ["reprobox"]:
        return reprobox_later(sys.argv[3], sys.argv[5:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("build", "agree", "write"))
    parser.add_argument("sets", nargs="*", help="apt, pip, apt:NAME, pip:NAME; all of them if none is named")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "reprobox-corpus")
    parser.add_argument("--second", type=Path, help="where the second store is made; a tmpfs is a good one")
    parser.add_argument("--user", default=os.environ.get("REPROBOX_TEST_USER", "nobody"))
    asked = parser.parse_args()
    asked.work.mkdir(exist_ok=True)
    (asked.work / "projects").mkdir(exist_ok=True)
    first = Place(user="root", store=asked.work / "store")
    folder = asked.second or asked.work / "second"
    folder.mkdir(exist_ok=True)
    shutil.chown(folder, asked.user)
    second = Place(user=asked.user, store=folder / "store", shift=SHIFT)
    results, agreement = asked.work / "results.json", asked.work / "agreement.json"
    found: dict[str, dict[str, Any]] = json.loads(results.read_text()) if results.exists() else {}
    known: dict[str, Any] = json.loads(agreement.read_text()) if agreement.exists() else {}
    wanted = {f"{kind}:{name}": (kind, name, packages) for kind, name, packages in sets(asked.sets)}
    if asked.verb == "build":
        for kind, subjects in batches(wanted.values()):
            found |= attempt(asked.work, first, second, kind, subjects)
            results.write_text(json.dumps(found, indent=1))
    if asked.verb == "agree":
        built = {key: packages for key, (_, _, packages) in wanted.items() if "debs" in found.get(key, ())}
        known |= agree(asked.work, first, built)
        agreement.write_text(json.dumps(known, indent=1))
        for key in built:
            print(key, disagreement(found[key] | {"apt": known[key]}) or "as apt", flush=True)
    if asked.verb == "write":
        (ROOT / "benchmarks/CORPUS.md").write_text(
            report([found[key] | {"apt": known.get(key)} for key in wanted if key in found])
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
