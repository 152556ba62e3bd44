"""Which files a package is installed from: of those that there are, the one that suits the interpreter best."""

from __future__ import annotations

import contextlib
import functools
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from reprobox.digest import sha256
from reprobox.errors import ResolveError
from reprobox.layers.asked_packages import built_from_source, where_asked
from reprobox.layers.interpreter import Python
from reprobox.layers.kind import ResolveRequest, World
from reprobox.lock import Input
from reprobox.pypi import Package, Wheel

if TYPE_CHECKING:
    from reprobox.layers.requirement_files import Asked


#: Types of inputs that are installed.
FILES = ("wheel", "sdist")
_LARGEST = 8 << 30  # a wheel whose size and hash the index does not tell is read whole, if it is not larger than this
NO_WHEEL = (
    'choose a version that has wheels, or let it be built from source: add build = ["{}"] to the layer,'
    " and what compiling it needs to an apt layer above"
)
_REHASH = "make the hashes anew with `uv pip compile --generate-hashes`, or find out why the file is another"


def pins(inputs: Iterable[Input]) -> dict[str, str]:
    return {item.facts["package"]: item.facts["version"] for item in inputs if item.type in FILES}


def facts_of(package: str, version: str, python: Python) -> dict[str, str]:
    return {"package": package, "python": ".".join(map(str, python.release)), "version": version}


def wheel_input(package: Package, python: Python, asked: Asked, request: ResolveRequest) -> Input:
    """The wheel that suits the interpreter best; one that was locked before stays while it suits."""
    before = {item.sha256 for item in request.previous.inputs} if request.previous and not request.upgrade else set()
    kind = "wheel"
    wheels = list(ranked(package.wheels, python))
    if package.source and package.name in built_from_source(request):
        kind, wheels = "sdist", [package.source]
    if not wheels:
        raise ResolveError(
            f"{package.name} {package.version} has no wheel for Python {python.version} on {python.uv_platform}",
            where=where_asked(request, asked, package.name),
            hint=NO_WHEEL.format(package.name),
        )
    wanted = asked.hashes_of(package.name)
    hashed = [item for item in wheels if item.sha256 in wanted or not item.sha256] if wanted else wheels
    wheel = next((item for item in hashed if item.sha256 in before), next(iter(hashed), wheels[0]))
    found = file_input(kind, wheel, facts_of(package.name, package.version, python), request.world)
    if found.sha256 not in wanted and (wanted or asked.hashed):
        raise _unhashed(package, asked, request)
    return found


def _unhashed(package: Package, asked: Asked, request: ResolveRequest) -> ResolveError:
    said = f"{package.name} {package.version} has no hash, and --require-hashes is said"
    if asked.hashes_of(package.name):
        said = f"no file of {package.name} {package.version} that suits has one of the hashes that are asked for"
    return ResolveError(said, where=where_asked(request, asked, package.name), hint=_REHASH)


@functools.cache
def _order(python: Python) -> Mapping[object, int]:
    """The tags that the interpreter takes, and their places, the best first."""
    order: dict[object, int] = {}
    for tag in python.tags():
        order.setdefault(tag, len(order))
    return order


def ranked(wheels: Iterable[Wheel], python: Python) -> Iterator[Wheel]:
    """The wheels that the interpreter takes, best first: as the order of tags says, then the higher build number."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    order = _order(python)
    fitting = []
    for wheel in wheels:
        try:
            _, _, build, tags = parse_wheel_filename(wheel.name)
        except InvalidWheelFilename:
            continue
        places = [order[tag] for tag in tags if tag in order]
        if places:
            fitting.append((min(places), build, wheel))
    fitting.sort(key=lambda item: item[1], reverse=True)
    yield from (wheel for _, _, wheel in sorted(fitting, key=lambda item: item[0]))


def file_input(kind: str, wheel: Wheel, facts: Mapping[str, str], world: World) -> Input:
    digest, size = wheel.sha256, wheel.size
    if digest and wheel.url.startswith("file:"):
        with contextlib.suppress(OSError):
            size = Path(urllib.parse.unquote(urllib.parse.urlsplit(wheel.url).path)).stat().st_size
    if not digest or not size:  # an index of plain pages: the file itself has to say
        data = world.get(wheel.url, fresh=False, limit=_LARGEST)
        digest, size = digest or sha256(data), len(data)
        if sha256(data) == digest:
            world.store.add_blob(data)
    if wheel.direct:
        facts = {**facts, "url": wheel.url.partition("#")[0]}
    found = Input(type=kind, name=wheel.name, sha256=digest, size=size, facts=facts)
    world.remember(found, [wheel.url])
    return found
