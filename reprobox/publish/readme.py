"""``README.md`` of a publication: for readers who have the folder and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from reprobox.crate_files import IMAGES, METADATA, PREVIEW, PROJECT, VAULT
from reprobox.digest import prefixed
from reprobox.lock import Lock
from reprobox.manifest import Manifest
from reprobox.publish.description import doi_url, published, title
from reprobox.recreate import Enclosed, Way, ways
from reprobox.urls import without_password


def readme(
    manifest: Manifest,
    lock: Lock,
    lock_digest: str,
    names: Sequence[str],
    enclosed: Enclosed,
    left_out: Mapping[str, str],
) -> bytes:
    """The text. ``names`` are paths of files that are there already; ``left_out`` says what recreating needs and is not
    in the publication, with the reason.
    """
    lines = [
        *_head(manifest, lock, lock_digest),
        *_contents(names, enclosed, without_password(manifest.code.git or "")),
        *_not_in_it(enclosed, lock, left_out),
        "## Recreate it",
        "",
        "Type the commands in this folder. Each of the ways stands for itself.",
        "",
    ]
    for name in sorted(lock.targets):
        lines += _target(manifest, lock, name, enclosed)
    lines += _check(lock)
    return ("\n".join(lines).rstrip("\n") + "\n").encode()


def _head(manifest: Manifest, lock: Lock, lock_digest: str) -> list[str]:
    project = manifest.project
    people = ", ".join(author.full_name for author in project.authors)
    said = [
        ("By", people),
        ("Version", project.version or ""),
        ("Date", published(project, lock)),
        ("Licence", project.license or ""),
        ("DOI", f"<{doi_url(project.doi)}>" if project.doi else ""),
        ("Lock", f"`{prefixed(lock_digest)}`"),
    ]
    listed = [f"- {name}: {value}" for name, value in said if value]
    return [
        f"# {title(project)}",
        "",
        project.description or "",
        "",
        *listed,
        "",
        "How to cite it: `CITATION.cff`.",
        "",
    ]


#: Files and folders that readers may look for, in the order in which they are told.
_CONTENTS = {
    f"{PROJECT}/": "the manifest `research.toml`, the lock `research.lock`, the code",
    f"{IMAGES}/": "the finished environment, one tar for each target",
    VAULT: "everything that the environment is made of, to make it again without any network",
    "sbom/": "bills of materials: SPDX and CycloneDX",
    "attestations/": "what others have signed about this lock",
    "runs/": "records of runs: commands, inputs, outputs",
    PREVIEW: "all of this as a page",
    METADATA: "all of this for programs: an RO-Crate",
    "CITATION.cff": "how to cite",
    "codemeta.json": "the software in CodeMeta's words",
    "badge.svg": "a badge with the beginning of the lock's sha256",
}


def _contents(names: Sequence[str], enclosed: Enclosed, repository: str) -> list[str]:
    there = {*names, *(name.partition("/")[0] + "/" for name in names), METADATA, PREVIEW}
    told = dict(_CONTENTS)
    if repository:
        told["project/"] = f"the manifest `research.toml` and the lock `research.lock`; the code is in <{repository}>"
    if enclosed.data:
        told["project/"] += f", and the data that is seen at {', '.join(sorted(enclosed.data))}"
    rows = [f"| `{name}` | {says} |" for name, says in told.items() if name in there]
    return ["## What is in it", "", "| | |", "| --- | --- |", *rows, ""]


def _not_in_it(enclosed: Enclosed, lock: Lock, left_out: Mapping[str, str]) -> Iterator[str]:
    lacking = [f"- {name}: {reason}" for name, reason in sorted(left_out.items())]
    without = sorted(set(lock.targets) - enclosed.images)
    if without:
        lacking.append(
            f"- the image of {', '.join(without)}: it was published without `--with-image`, so the ways without"
            " reprobox make it first, which needs a network"
        )
    if not enclosed.vault:
        lacking.append(
            "- the packages themselves: it was published without `--with-vault`, so they come from the archives and"
            " indices that have them today"
        )
    if lacking:
        yield from ("## What is not in it", "", *lacking, "")


def _target(manifest: Manifest, lock: Lock, name: str, enclosed: Enclosed) -> Iterator[str]:
    if len(lock.targets) > 1:
        yield from (f"### The target {name}, for {lock.targets[name].platform}", "")
    for way in ways(manifest, lock, name, enclosed):
        yield from _way(way, "####" if len(lock.targets) > 1 else "###")


def _way(way: Way, heading: str) -> Iterator[str]:
    yield from (f"{heading} {way.title}", "", f"You need: {way.needs}.", "")
    for number, step in enumerate(way.steps, 1):
        yield from (f"{number}. {step.says}", "")
        if step.commands:
            yield "   ```sh"
            yield from (f"   {line}" for command in step.commands for line in command.splitlines())
            yield from ("   ```", "")


def _check(lock: Lock) -> Iterator[str]:
    sealed = {name: target.seal for name, target in sorted(lock.targets.items()) if target.seal}
    if not sealed:
        return
    yield from (
        "## Is it the same?",
        "",
        "The lock says what the environment must be. `reprobox realize` compares.",
        "",
    )
    yield from ("| target | image digest | tree digest |", "| --- | --- | --- |")
    for name, seal in sealed.items():
        yield f"| {name} | `{seal.image_digest}` | `{seal.tree_digest}` |"
