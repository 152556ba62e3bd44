"""How a reader makes an environment again from what was published: with reprobox, or Docker only, or Apptainer only.

This is the one place that knows the commands: the README of a crate and its page show the same. They are typed in the
crate's folder, which has the project in ``project/`` and, where they were enclosed, the images in ``image/`` (one tar
for each target, see :func:`reprobox.image.write_archive`) and ``vault.tar``.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from reprobox.crate_files import PROJECT, VAULT, image_file
from reprobox.lock import Lock, request_digest
from reprobox.manifest import Manifest, Mount
from reprobox.urls import without_password

ENVIRONMENT = "environment.tar"
CHECKOUT = "code"
PYTHON = "python:3"
"""An image that has Python 3.11 or newer, in which reprobox runs where it is not installed."""

_HERE = '"$PWD"/'


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step: a sentence, and the shell commands that it takes (none where the reader's own hands are needed)."""

    says: str
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way to recreate: its title, what must be installed for it, and its steps in order."""

    name: str
    title: str
    needs: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Enclosed:
    """What the crate has beside the project: targets whose image is there, the vault, mount points with their data."""

    images: frozenset[str] = frozenset()
    vault: bool = False
    data: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bound:
    """A folder of the reader's machine, relative to the crate, and where the environment sees it."""

    folder: str
    target: str
    mode: str = "rw"
    given: bool = False  # the manifest does not say where it is


def image_tag(manifest: Manifest) -> str:
    """The name and tag of the project's images."""
    version = re.sub("[^A-Za-z0-9_.-]", "-", manifest.project.version or "").lstrip(".-")[:128]
    return f"{manifest.project.name}:{version or 'latest'}"


def ways(manifest: Manifest, lock: Lock, target: str, enclosed: Enclosed | None = None) -> tuple[Way, ...]:
    """The three ways for one target of a project whose lock is ``lock``."""
    enclosed = enclosed or Enclosed()
    selected = manifest.select(target)
    data = _data_in_place(selected, lock, enclosed)
    by_hand = (*_checked_out(manifest, lock), *_downloads(selected, lock, enclosed), *data)
    return (
        _with_reprobox(manifest, selected, target, data, enclosed),
        _with_docker(manifest, selected, target, by_hand, enclosed),
        _with_apptainer(manifest, selected, target, by_hand, enclosed),
    )


# -- the three ---------------------------------------------------------------------------------------------------------


def _with_reprobox(
    manifest: Manifest, selected: Manifest, target: str, before: Sequence[Step], enclosed: Enclosed
) -> Way:
    options = _options(manifest, target)
    mounts = "".join(
        f" --mount {shlex.quote(bound.target)}={_HERE}{shlex.quote(bound.folder)}"
        for bound in _mounted(selected)
        if bound.given
    )
    offline = f" --offline --vault {VAULT}" if enclosed.vault else ""
    source = f"from the files in {VAULT}, without a network" if enclosed.vault else "from the places that offer them"
    verb = "run" if _has_command(selected) else "shell"
    steps = (
        Step(says="Install reprobox.", commands=("pip install reprobox",)),
        Step(
            says=f"Make the environment. Every file is taken {source}, and checked against the lock.",
            commands=(f"reprobox realize -C {PROJECT}{options}{offline}",),
        ),
        *before,
        Step(
            says=_run_says(selected),
            commands=(*_made(selected, given=True), f"reprobox {verb} -C {PROJECT}{options}{mounts}"),
        ),
    )
    return Way(name="reprobox", title="With reprobox", needs="Linux and Python 3.11 or newer", steps=steps)


def _with_docker(
    manifest: Manifest, selected: Manifest, target: str, before: Sequence[Step], enclosed: Enclosed
) -> Way:
    tag = image_tag(manifest)
    made = _made_in_docker(manifest, target, enclosed)
    load = Step(
        says="Load the image.",
        commands=(f"docker load --input {image_file(target) if target in enclosed.images else ENVIRONMENT}",),
    )
    words = ["docker run --rm", '--user "$(id -u):$(id -g)"', "--env HOME=/tmp"]
    words += [f"--volume {_volume(bound)}" for bound in _bound(selected)]
    words += ["--gpus all"] if _wants_gpu(selected, target) else []
    words += [] if _has_command(selected) else ["--interactive --tty"]
    run = Step(says=_run_says(selected), commands=(*_made(selected), _lines([*words, tag])))
    return Way(name="docker", title="With Docker only", needs="Docker", steps=(*made, load, *before, run))


def _with_apptainer(
    manifest: Manifest, selected: Manifest, target: str, before: Sequence[Step], enclosed: Enclosed
) -> Way:
    sif = f"{manifest.project.name}.sif"
    made = _made_in_apptainer(manifest, target, enclosed)
    archive = f"oci-archive:{image_file(target)}" if target in enclosed.images else f"docker-archive:{ENVIRONMENT}"
    build = Step(says="Make a SIF file of the image.", commands=(f"apptainer build {sif} {archive}",))
    verb = "run" if _has_command(selected) else "shell"
    words = [f"apptainer {verb} --containall --cleanenv", f"--pwd {shlex.quote(selected.workdir)}"]
    words += [f"--bind {_volume(bound)}" for bound in _bound(selected)]
    words += ["--nv"] if _wants_gpu(selected, target) else []
    run = Step(says=_run_says(selected), commands=(*_made(selected), _lines([*words, sif])))
    needs = "Apptainer 1.2 or newer (or SingularityCE 4.0 or newer, whose command is singularity)"
    return Way(name="apptainer", title="With Apptainer only", needs=needs, steps=(*made, build, *before, run))


# -- an image that was not enclosed is made by reprobox inside a container ---------------------------------------------


def _made_in_docker(manifest: Manifest, target: str, enclosed: Enclosed) -> tuple[Step, ...]:
    if target in enclosed.images:
        return ()
    words = [
        "docker run --rm --security-opt seccomp=unconfined --security-opt systempaths=unconfined",
        "--security-opt apparmor=unconfined",
        '--volume "$PWD":/crate --workdir /crate',
        f"{PYTHON} sh -c {shlex.quote(_inside(manifest, target, enclosed))}",
    ]
    says = "Make the image. reprobox does it inside a container, so that nothing is installed on your machine."
    return (Step(says=says, commands=(_lines(words),)),)


def _made_in_apptainer(manifest: Manifest, target: str, enclosed: Enclosed) -> tuple[Step, ...]:
    if target in enclosed.images:
        return ()
    words = [
        "apptainer exec --cleanenv --no-home",
        '--bind "$PWD":/crate --pwd /crate',
        f"docker://{PYTHON} sh -c {shlex.quote(_inside(manifest, target, enclosed))}",
    ]
    says = "Make the image. reprobox does it inside a container, so that nothing is installed on your machine."
    return (Step(says=says, commands=(_lines(words),)),)


def _inside(manifest: Manifest, target: str, enclosed: Enclosed) -> str:
    offline = f" --offline --vault {VAULT}" if enclosed.vault else ""
    options = f"{_options(manifest, target)}{offline}"
    steps = (
        "t=$(mktemp -d)",
        'python3 -m venv "$t"',
        '"$t/bin/pip" install --quiet reprobox',
        'export REPROBOX_STORE="$t/store"',
        f'"$t/bin/reprobox" export -C {PROJECT}{options} --format docker-archive -o {ENVIRONMENT}',
        'rm -rf "$t"',
    )
    return " &&\n        ".join(steps)


# -- code, data and outputs --------------------------------------------------------------------------------------------


def _checked_out(manifest: Manifest, lock: Lock) -> tuple[Step, ...]:
    """Code that comes from a repository; reprobox gets it by itself."""
    if lock.checkout is None or manifest.code.git is None:
        return ()
    commit = str(lock.checkout.facts.get("commit", ""))
    return (
        Step(
            says="Get the code.",
            commands=(
                f"git clone {shlex.quote(without_password(manifest.code.git))} {CHECKOUT}",
                f"git -C {CHECKOUT} checkout {shlex.quote(commit)}",
            ),
        ),
    )


def _downloads(selected: Manifest, lock: Lock, enclosed: Enclosed) -> tuple[Step, ...]:
    """Data that can be downloaded; reprobox does that by itself."""
    steps = []
    for bound in _mounted(selected):
        if bound.target not in lock.downloads or bound.target in enclosed.data:
            continue
        hashes = {item.facts.get("source"): item.sha256 for item in lock.downloads[bound.target].inputs}
        for file in selected.mounts[bound.target].files:
            name = file.to or unquote(urlsplit(file.url).path.rpartition("/")[2])
            url, digest = without_password(file.url), hashes.get(request_digest(file.url), "")
            if file.unpack:
                places = f"{bound.folder}/{file.to or ''}".rstrip("/")
                steps.append(Step(says=f"Download {url} (sha256 {digest}) and unpack it in {places}."))
            else:
                steps.append(_download(url, f"{bound.folder}/{name}", digest))
    return tuple(steps)


def _download(url: str, path: str, digest: str) -> Step:
    folder = os.path.dirname(path)
    return Step(
        says="Download the data, and check it.",
        commands=(
            f"mkdir -p {shlex.quote(folder)}",
            f"curl --fail --location --output {shlex.quote(path)} {shlex.quote(url)}",
            f"printf '%s  %s\\n' {digest} {shlex.quote(path)} | sha256sum --check",
        ),
    )


def _data_in_place(selected: Manifest, lock: Lock, enclosed: Enclosed) -> tuple[Step, ...]:
    missing = [
        bound
        for bound in _mounted(selected)
        if bound.mode == "ro" and bound.target not in (*enclosed.data, *lock.downloads)
    ]
    if not missing:
        return ()
    folders = " and ".join(f"{bound.folder} (seen at {bound.target})" for bound in missing)
    return (Step(says=f"The data is not enclosed. Put it into {folders}."),)


def _bound(selected: Manifest) -> list[_Bound]:
    """The code and the mounts."""
    path = os.path.normpath(selected.code.path)
    folder = CHECKOUT if selected.code.git else os.path.normpath(f"{PROJECT}/{path}")
    return [_Bound(folder=folder, target=selected.code.target), *_mounted(selected)]


def _mounted(selected: Manifest) -> list[_Bound]:
    """The mounts, outer ones first."""
    found = [_place(target, mount) for target, mount in selected.mounts.items()]
    return sorted(found, key=lambda bound: bound.target.count("/"))


def _place(target: str, mount: Mount) -> _Bound:
    source = mount.source
    if source is None or os.path.isabs(source) or os.path.normpath(source).split("/")[0] == "..":
        name = target.strip("/").replace("/", "-")
        return _Bound(folder=name, target=target, mode=mount.mode, given=True)
    return _Bound(folder=os.path.normpath(f"{PROJECT}/{source}"), target=target, mode=mount.mode)


def _made(selected: Manifest, *, given: bool = False) -> tuple[str, ...]:
    """Folders for outputs are made before they are mounted; ``given``: only those that the manifest does not place."""
    folders = [
        shlex.quote(item.folder) for item in _mounted(selected) if item.mode == "rw" and (item.given or not given)
    ]
    return (f"mkdir -p {' '.join(folders)}",) if folders else ()


def _volume(bound: _Bound) -> str:
    """``source:target:mode``; engines take it apart at its colons."""
    read_only = ":ro" if bound.mode == "ro" else ""
    return f"{_HERE}{shlex.quote(bound.folder)}:{shlex.quote(bound.target)}{read_only}"


# -- words -------------------------------------------------------------------------------------------------------------


def _options(manifest: Manifest, target: str) -> str:
    return f" --target {shlex.quote(target)}" if len(manifest.targets) > 1 else ""


def _has_command(selected: Manifest) -> bool:
    return bool(selected.run.command or selected.run.entrypoint)


def _run_says(selected: Manifest) -> str:
    writable = [bound.folder for bound in _mounted(selected) if bound.mode == "rw"]
    where = f" The results are written to {', '.join(writable)}." if writable else ""
    return ("Run it." if _has_command(selected) else "Open a shell in it.") + where


def _wants_gpu(selected: Manifest, target: str) -> bool:
    requires = selected.targets[target].requires
    return bool(requires.cuda or requires.gpu_memory)


def _lines(words: Sequence[str]) -> str:
    """One command over several lines."""
    return " \\\n    ".join(words)
