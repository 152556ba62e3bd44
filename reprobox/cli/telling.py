"""A description of a project in words, for a terminal that nobody shall be able to steer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reprobox.cli.report import human, on_one_line, plain
from reprobox.sources.description import Description, LayerSaid, TargetSaid, command_line

_FEW = 5
_LINES = 30
_LONGEST = 2000
_WIDTH = 13


def sentences(said: Description, *, brief: bool = False) -> Iterator[str]:
    """Line by line; ``brief`` shows the beginning of long scripts only."""
    for line in _sentences(said, brief=brief):
        shown = plain(line)
        more = len(shown) - _LONGEST
        yield f"{shown[:_LONGEST]}… ({more} more: `reprobox show` shows all)" if brief and more > 0 else shown


def _sentences(said: Description, *, brief: bool) -> Iterator[str]:
    yield f"{said.name} {said.version}".strip() + (f": {_flowing(said.about)}" if said.about else "")
    yield from _pairs(said)
    for target in said.targets:
        yield from _target(target, brief=brief, vault=bool(said.vaults))
    for mount in said.mounts:
        shown = f" {mount.source}" if mount.source else ""
        yield _row("mount", f"{mount.target} ({mount.mode}){shown}: {mount.state}")
    for name, place in said.secrets.items():
        yield _row("secret", f"{name}: {place}")
    yield _row("command", command_line(said.command) or "none: the base's own")
    yield from _code(said)
    for folder in said.left_out:
        yield _row("left out", f"{folder}: what is in it would be believed or run without being locked")
    for reach in said.reaches:
        yield _row("reaches", f"{reach.key}: {reach.message}")


def _pairs(said: Description) -> Iterator[str]:
    yield _row("from", ", ".join([said.origin, *(f"{name} {value}" for name, value in said.facts.items())]))
    yield _row("authors", "; ".join(map(_flowing, said.authors)) or "not said")
    yield _row("licence", _flowing(said.license) or "not said")
    if said.doi:
        yield _row("doi", said.doi)
    yield _row("lock", f"sha256:{said.lock}, epoch {said.epoch}")


def _target(target: TargetSaid, *, brief: bool, vault: bool) -> Iterator[str]:
    sealed = "sealed: what is built must have the digests in the lock" if target.sealed else "not sealed"
    yield _row("target", f"{target.name}, {target.platform}, {sealed}")
    yield _row("base", target.base)
    for layer in target.layers:
        yield _row("layer", _layer(layer))
        yield from _script(layer, brief=brief)
    if target.downloads:
        place = "in the vault that comes with it" if vault else "to be downloaded"
        yield _row("inputs", f"{target.downloads} files, {human(target.download_size)}, {place}")
    else:
        yield _row("inputs", "all are here already")


def _layer(layer: LayerSaid) -> str:
    parts = [f"{layer.name:16} {layer.kind:10}"]
    if layer.packages:
        parts.append(f"{layer.packages} packages, {human(layer.size)}")
    elif layer.inputs:
        parts.append(f"{layer.inputs} files, {human(layer.size)}")
    if layer.script:
        parts.append(f"runs a script, {'WITH NETWORK' if layer.network else 'without network'}")
    if layer.secrets:
        parts.append(f"which sees {', '.join(layer.secrets)}")
    return " ".join(parts).rstrip()


def _script(layer: LayerSaid, *, brief: bool) -> Iterator[str]:
    lines = layer.script.splitlines()
    shown = lines[:_LINES] if brief else lines
    yield from (f"{'':{_WIDTH}} | {line}" for line in shown)
    if len(lines) > len(shown):
        yield f"{'':{_WIDTH}} … and {len(lines) - len(shown)} more lines: `reprobox show` shows all of them"


def _code(said: Description) -> Iterator[str]:
    code = said.code
    state = "as locked" if code.locked else "NOT what was locked"
    if not code.files:
        yield _row("code", f"{said.code_place}, tree {code.tree}, {state}")
    else:
        yield _row("code", f"{said.code_place}, {_listed(code.files)}, {state}")
    if code.others:
        yield _row("also there", f"{_listed(code.others)}: the lock says nothing of it")


def _listed(files: Sequence[str]) -> str:
    more = f" and {len(files) - _FEW} more" if len(files) > _FEW else ""
    return f"{len(files)} file{'s' if len(files) > 1 else ''} ({', '.join(files[:_FEW])}{more})"


def _row(name: str, text: str) -> str:
    return f"{name:{_WIDTH}} {on_one_line(text)}"


def _flowing(text: str) -> str:
    """Prose on one line: where its author broke it says nothing."""
    return " ".join(text.split())
