"""``reprobox export --push``: the image to a registry instead of a file."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from reprobox.errors import UsageError

if TYPE_CHECKING:
    from reprobox.lock import LockedTarget
    from reprobox.oci.registry import Reference

_COMPRESSIONS = ("none", "gzip", "zstd")


def add_push_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--push", metavar="REF", help="push the image to a registry instead: host/name:tag")
    parser.add_argument(
        "--compression",
        choices=_COMPRESSIONS,
        help="how pushed layers travel; none (the default) keeps the image digest",
    )
    parser.add_argument("--all-targets", action="store_true", help="push every target, as an index of platforms")


def check_wishes(options: argparse.Namespace) -> None:
    """What an export to a file needs, and what only a push takes. Raises :class:`UsageError`."""
    if not options.format or not options.output:
        raise UsageError(
            "it is not said where to: give --format and -o, or --push REF", hint="`reprobox export --help` has examples"
        )
    if options.all_targets or options.compression or len(options.target or ()) > 1:
        given = "--all-targets" if options.all_targets else "--compression" if options.compression else "two --target"
        raise UsageError(f"{given} is for --push", hint="export targets one by one, each to its own -o")


def push_image(options: argparse.Namespace) -> int:
    """Build what is missing, and have the registry have the image."""
    from reprobox.cli.session import open_session
    from reprobox.freshness import ensure_fresh
    from reprobox.oci.image_push import Pushing, push
    from reprobox.oci.push import Writer
    from reprobox.realize import Wish, make

    reference = _reference(options)
    session, project = open_session(options)
    manifest, lock = project.manifest(session.plugins.kinds), project.lock(session.store)
    names = _targets(options, list(manifest.targets))
    images, told = [], []
    for name in names or [next(iter(manifest.select(None).targets))]:
        ensure_fresh(session, manifest, lock, str(project.lock_path), name)
        wish = Wish(target=name, image=True, with_code=options.with_code)
        environment = make(session, manifest, lock, wish, image_wanted=True).environment
        for item in environment.outside:
            session.reporter.say(f"layer {item.layer.name} is placed in the project, and is not in what is pushed")
        target = environment.target
        images.append(
            Pushing(image=environment.image, platform=target.platform, mounts=_beside(target, reference.registry))
        )
        told.append(
            {
                "target": name,
                "platform": target.platform,
                "image_digest": f"sha256:{environment.image_digest}",
                "tree_digest": f"sha256:{environment.tree_digest}",
            }
        )
    _check_platforms(told)
    pushed = push(
        Writer(repository=session.registries.repository(reference), where=str(reference)),
        session.store,
        images,
        reference.tag,
        session.reporter.moving(f"pushing to {reference}"),
        compression=options.compression or "none",
        index=bool(options.all_targets) or len(names) > 1,
    )
    for document, digest in zip(told, pushed.manifests, strict=True):
        document["transport_digest"] = f"sha256:{digest}"
    _show(options, reference, told, f"sha256:{pushed.digest}", {"sent": pushed.sent, "there": pushed.there})
    return 0


def _reference(options: argparse.Namespace) -> Reference:
    from reprobox.oci.registry import Reference

    for name in ("format", "output", "tag"):
        if getattr(options, name):
            raise UsageError(f"--{name} and --push do not go together", hint="run it twice: once for each")
    if options.offline:
        raise UsageError("--push needs the network, and --offline forbids it", hint="leave one of them out")
    reference = Reference.parse(options.push)
    if reference.digest:
        raise UsageError(
            "a digest follows from what is pushed, and cannot be chosen",
            where=f"--push {options.push}",
            hint=f"give a tag: {reference.name}:{reference.tag or 'latest'}",
        )
    return reference


def _targets(options: argparse.Namespace, all_of_them: list[str]) -> list[str]:
    if not options.all_targets:
        return list(dict.fromkeys(options.target or ()))
    if options.target:
        raise UsageError("--target and --all-targets do not go together", hint="leave one of them out")
    return all_of_them


def _check_platforms(told: list[dict[str, Any]]) -> None:
    """An index has one image for a platform, or nobody can say which of them is meant."""
    first: dict[str, str] = {}
    for item in told:
        other = first.setdefault(item["platform"], item["target"])
        if other != item["target"]:
            raise UsageError(
                f"targets {other!r} and {item['target']!r} are both for {item['platform']}, and an index has one image"
                " for each platform",
                hint="push them under two tags, each with its own --target",
            )


def _beside(target: LockedTarget, registry: str) -> tuple[str, ...]:
    """Repositories of the same registry from which the base came."""
    names = dict.fromkeys(item.facts.get("repository", "") for item in target.base.inputs)
    return tuple(name.partition("/")[2] for name in names if name.partition("/")[0] == registry)


def _show(
    options: argparse.Namespace, reference: Reference, told: list[dict[str, Any]], digest: str, counts: dict[str, int]
) -> None:
    if options.json:
        print(json.dumps({"push": str(reference), "digest": digest, "images": told, **counts}))
        return
    print(f"pushed {reference}: {counts['sent']} blobs sent, {counts['there']} were there")
    for item in told:
        if len(told) > 1:
            print(f"target {item['target']} ({item['platform']})")
        print(f"tree digest   {item['tree_digest']}\nimage digest  {item['image_digest']}")
        if item["transport_digest"] != item["image_digest"]:
            print(f"pushed as     {item['transport_digest']}")
    if digest not in (item["transport_digest"] for item in told):
        print(f"index digest  {digest}")
    print(f"pull it with  docker pull {reference.name}@{digest}")
