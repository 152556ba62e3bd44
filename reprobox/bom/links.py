"""What components have to do with each other: dependencies, and which of two versions of a package is there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from reprobox.bom.component import Component
from reprobox.debian.control import relations


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What decides what is there. ``removed`` are names of Debian packages, with the layers that took them away;
    ``machine`` and ``python`` (a version) are the environment's; ``apart`` are layers with a Python of their own.
    """

    machine: str
    python: str
    removed: Mapping[str, str]
    apart: Collection[str] = ()


def with_links(components: Sequence[Component], around: Surroundings) -> list[Component]:
    """The same components, in stacking order, each with what it depends on, what replaced it, and what removed it."""
    keys = {item.ref: _key(item, around.apart) for item in components}
    there = {keys[item.ref]: item.ref for item in components}  # a layer above puts its version in place of one below
    present = [item for item in components if there[keys[item.ref]] == item.ref and not item.build_only]
    debs, pythons = _provided([item for item in present if item.kind == "deb"]), _named(present, "pypi")
    markers = _markers(around.machine, around.python)
    linked = []
    for item in components:
        found: Iterable[str] = ()
        if item.kind == "deb":
            found = _of_deb(item, debs)
        elif item.kind == "pypi":
            found = _of_python(item, pythons, markers)
        now = there[keys[item.ref]]
        linked.append(
            replace(
                item,
                depends=tuple(sorted(set(found) - {item.ref})),
                replaced_by=now if now != item.ref else "",
                removed_in=around.removed.get(item.name, "") if item.kind == "deb" and now == item.ref else "",
            )
        )
    return linked


def _key(item: Component, apart: Collection[str]) -> tuple[str, ...]:
    """What there can be one of: a package of one architecture; a Python package of one interpreter."""
    if item.kind == "deb":
        return "deb", item.name, item.architecture
    if item.kind == "pypi" and not item.build_only:
        return "pypi", item.name, *(layer for layer in item.layers if layer in apart)
    return (item.ref,)


def _named(components: Iterable[Component], kind: str) -> dict[str, str]:
    return {item.name: item.ref for item in components if item.kind == kind}


def _provided(debs: Sequence[Component]) -> dict[str, str]:
    """Refs by the names that packages have or provide; a name of its own comes before one that is provided."""
    groups = ((item, group) for item in debs for text in item.metadata.provides for group in relations(text))
    return {group[0].name: item.ref for item, group in groups} | _named(debs, "deb")


def _of_deb(item: Component, known: Mapping[str, str]) -> Iterator[str]:
    """Of each group of alternatives, the first that is there."""
    for text in item.metadata.depends:
        for group in relations(text):
            if found := next((known[relation.name] for relation in group if relation.name in known), ""):
                yield found


def _markers(machine: str, python: str) -> dict[str, str]:
    """PEP 508's variables, for Linux and CPython."""
    return {
        "implementation_name": "cpython",
        "implementation_version": python,
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": python,
        "python_version": ".".join(python.split(".")[:2]),
        "sys_platform": "linux",
        "extra": "",
    }


def _of_python(item: Component, known: Mapping[str, str], environment: Mapping[str, str]) -> Iterator[str]:
    for text in item.metadata.depends:
        try:
            wanted = Requirement(text)
            holds = wanted.marker is None or wanted.marker.evaluate(dict(environment))
        except (InvalidRequirement, ValueError, KeyError):
            continue
        if holds and canonicalize_name(wanted.name) in known:
            yield known[canonicalize_name(wanted.name)]
