"""What a base may be called: images as Docker reads them, and the prefixes by which engines say where something is.

Prefixes are those of containers-transports(5), as skopeo, podman and Apptainer write them.
"""

from __future__ import annotations

import re

from reprobox.table_rules import Check, Finding, pattern
from reprobox.wording import did_you_mean, quote

#: Prefixes that say where an image is.
REGISTRY, DAEMON = "docker://", "docker-daemon:"
#: The prefix of a SIF in a registry.
ORAS = "oras://"

_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_STEM = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = rf"(?:{_HOST}/)?{_STEM}(?:/{_STEM})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_REFERENCE = rf"{_REPOSITORY}(?::{_TAG})?(?:@sha256:[0-9a-f]{{64}})?"
_IN_ENGINE = rf"{_REPOSITORY}:{_TAG}|sha256:[0-9a-f]{{64}}"
_IN_REGISTRY = rf"{_HOST}/{_STEM}(?:/{_STEM})*(?::{_TAG})?(?:@sha256:[0-9a-f]{{64}})?"

image_reference = pattern(
    _REFERENCE,
    "an image reference",
    'for example "python:3.11-slim" or "registry.example/group/name:tag"; names are in lower case',
)
"""The name of an image in a registry, without a prefix."""

#: Prefixes that belong to another key, and what to write there.
_ELSEWHERE = {
    "docker-archive:": 'archive = "base.tar"',
    "oci-archive:": 'archive = "base.tar"',
    "oci:": 'oci = "layout"',
    "dir:": 'oci = "layout", after `skopeo copy dir:… oci:layout`',
}
_GONE = {
    "library": Finding(
        "library:// is the Container Library of Sylabs; Apptainer asks no such server by default, since its first"
        " version in 2022, and reprobox asks none",
        'fetch it once with SingularityCE (`singularity pull base.sif library://…`) and write sif = "base.sif", or take'
        ' the image that it was made of: image = "…"',
    ),
    "shub": Finding(
        "shub:// was Singularity Hub, which closed in April 2021; what is left is an archive of its images that is only"
        " read",
        'if you have the image\'s file, write sif = "base.sif"; else build it anew from its recipe, which is in the'
        " repository that the image was named after",
    ),
}


def _gone(text: str) -> Finding | None:
    return _GONE.get(text.partition("://")[0].lower()) if "://" in text else None


def _image(text: str) -> Finding | None:
    if finding := _gone(text):
        return finding
    if text.startswith(ORAS):
        return Finding(f"{quote(text)} is a SIF, not an image", f"write sif = {quote(text)}")
    for prefix, instead in _ELSEWHERE.items():
        if text.startswith(prefix):
            return Finding(f"{quote(text)} is no image of a registry or an engine", f"write {instead}")
    if text.startswith(DAEMON):
        return _in_engine.find(text.removeprefix(DAEMON))
    if (mark := text.partition("://"))[1] and mark[0] != "docker":
        return Finding(
            f"{quote(mark[0] + '://')} is no way to an image", did_you_mean(f"{mark[0]}://", [REGISTRY], _AS_DOCKER)
        )
    return image_reference.find(text.removeprefix(REGISTRY))


_AS_DOCKER = 'write it as Docker does: "python:3.11-slim", "host:5000/group/name:tag"'
_in_engine = pattern(
    _IN_ENGINE,
    "the name and tag of an image in an engine",
    'for example "docker-daemon:python:3.11-slim"; `docker images` lists them, and a tag is always needed',
)


def _sif(text: str) -> Finding | None:
    if finding := _gone(text):
        return finding
    if text.startswith(ORAS):
        return _in_registry.find(text.removeprefix(ORAS))
    if text.startswith((REGISTRY, DAEMON)):
        return Finding(f"{quote(text)} is an image, not a SIF", f"write image = {quote(text)}")
    if (mark := text.partition("://"))[1]:
        hint = f'fetch the file first and write sif = "base.sif", or give {quote(ORAS + "host/name:tag")}'
        return Finding(f"{quote(mark[0] + '://')} is no way to a SIF", hint)
    if text.startswith("~"):
        return Finding(
            f"{quote(text)}: ~ is not expanded here", "write a path relative to this file, or an absolute one"
        )
    return None if text else Finding("the path is empty", "write a path relative to this file, or an absolute one")


_PATH = "write a path relative to this file, or an absolute one"
_in_registry = pattern(
    _IN_REGISTRY, "a registry and a name after oras://", 'for example "oras://registry.example/group/name:tag"'
)

base_image = Check(
    find=_image,
    schema={"pattern": f"^(?:(?:{REGISTRY})?{_REFERENCE}|{DAEMON}(?:{_IN_ENGINE}))$"},
)
"""An image of a registry, with ``docker://`` or without, or ``docker-daemon:`` and the name of an engine's image."""

base_sif = Check(find=_sif, schema={"pattern": rf"^(?:{ORAS}{_IN_REGISTRY}|(?![a-z][a-z0-9+.-]*://)[^~][\s\S]*)$"})
"""A path on the host, or ``oras://`` and the name of a SIF in a registry."""

_SCHEME = re.compile(r"^(?:docker://|docker-daemon:|oras://)")


def bare_name(text: str) -> str:
    """The name without its prefix."""
    return _SCHEME.sub("", text)
