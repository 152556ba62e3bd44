"""What a publication still lacks for each artifact badge of the ACM.

Source: ACM, "Artifact Review and Badging", version 1.1 (2020): Available, Evaluated Functional, Evaluated Reusable.
Reviewers decide; this says what can be told from the manifest, the lock and the files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from reprobox.crate_files import VAULT, image_file
from reprobox.layers.kind import uses_network
from reprobox.lock import Lock
from reprobox.manifest import Manifest
from reprobox.publish.description import undescribed

BADGES = ("Available", "Functional", "Reusable")


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One thing that a badge asks for: whether it is there, and what to do if not."""

    badge: str
    what: str
    met: bool
    fix: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """What is known of the files that go in: their paths, mount points whose data goes in, and inputs that may not be
    passed on, with the reason."""

    paths: frozenset[str]
    data: frozenset[str]
    closed: Mapping[str, str]

    def has(self, folder: str) -> bool:
        return any(path.startswith(folder) for path in self.paths)


def checklist(manifest: Manifest, lock: Lock, contents: Contents) -> tuple[Item, ...]:
    """All items, badge by badge."""
    return (*_available(manifest), *_functional(manifest, lock, contents), *_reusable(manifest, lock, contents))


def _available(manifest: Manifest) -> list[Item]:
    project = manifest.project
    deposit = "deposit it where it stays (Zenodo, an institute's archive), and write the DOI as project.doi"
    missing = [problem.key for problem in undescribed(manifest)]
    fix = f"add {', '.join(missing)} to the manifest"
    return [
        _item(0, "it is described: what it is, by whom, under which licence", not missing, fix),
        _item(0, "it has a DOI", project.doi is not None, deposit),
    ]


def _functional(manifest: Manifest, lock: Lock, contents: Contents) -> list[Item]:
    unsealed = sorted(name for name, target in lock.targets.items() if target.seal is None)
    network = sorted({layer.name for target in lock.targets.values() for layer in target.layers if uses_network(layer)})
    missing = sorted(_missing_data(manifest, lock, contents.data))
    unlocked = sorted(path for path, mount in manifest.mounts.items() if mount.mode == "ro" and not mount.digest)
    has_command = bool(manifest.run.command or manifest.run.entrypoint)
    sealing = f"run `reprobox lock --seal`: {', '.join(unsealed)} has no output digests to compare with"
    loading = f"let layers of kind fetch load what these steps load: {', '.join(network)}"
    data = f"add --with-data, or `files` to the mounts: {', '.join(missing)}"
    digests = f"add `digest = true` to the mounts: {', '.join(unlocked)}"
    return [
        _item(1, "documented: a README says how to recreate and run it", contents.has("README.md"), "it is written"),
        _item(1, "consistent: the code and the environment are those of the lock", True, ""),  # noqa: FBT003
        _item(1, "complete: every input of the environment is locked", not network, loading),
        _item(1, "complete: its data is here, or can be downloaded", not missing, data),
        _item(1, "verifiable: the data is locked by hash", not unlocked, digests),
        _item(1, "verifiable: the environment has digests to compare with", not unsealed, sealing),
        _item(1, "exercisable: it says what to run", has_command, 'add [run] command = ["…"]'),
        _item(1, "exercised: a run is recorded", contents.has("runs/"), "run it with `reprobox run --record`"),
    ]


def _missing_data(manifest: Manifest, lock: Lock, enclosed: Collection[str]) -> list[str]:
    return [
        path
        for path, mount in manifest.mounts.items()
        if mount.mode == "ro" and path not in enclosed and path not in lock.downloads
    ]


def _reusable(manifest: Manifest, lock: Lock, contents: Contents) -> list[Item]:
    project = manifest.project
    nobody = [author.full_name for author in project.authors if author.orcid is None]
    found = bool(project.authors) and not nobody
    lacking = [key for key in ("version", "keywords", "repository") if not getattr(project, key)]
    lasting = VAULT in contents.paths or {image_file(name) for name in lock.targets} <= contents.paths
    closed = "; ".join(f"{name}: {reason}" for name, reason in sorted(contents.closed.items()))
    return [
        _item(2, "it outlives its sources: vault or images are in it", lasting, "add --with-vault or --with-image"),
        _item(
            2, "everything in it may be passed on", not closed, f"make these layers private, or replace them: {closed}"
        ),
        _item(
            2,
            "others vouch for it",
            contents.has("attestations/"),
            "let somebody run `reprobox verify --rebuild --sign`",
        ),
        _item(
            2, "people can be found: authors have an ORCID", found, f"add `orcid` for {', '.join(nobody) or 'authors'}"
        ),
        _item(2, "it can be found", not lacking, f"add {', '.join(f'project.{key}' for key in lacking)}"),
    ]


def _item(badge: int, what: str, met: bool, fix: str) -> Item:  # noqa: FBT001 - a row of a table
    return Item(badge=BADGES[badge], what=what, met=met, fix="" if met else fix)
