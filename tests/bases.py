"""What tests of bases share: a small image, and as much of a world as a base needs."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reprobox.download.downloader import Downloader
from reprobox.layers.archive import ImageArchiveProvider
from reprobox.layers.image import Image
from reprobox.layers.kind import Resolution, ResolveRequest, StepRequest, Verbatim
from reprobox.layers.sif import SifProvider
from reprobox.lock import Input, LockedLayer, with_ids
from reprobox.manifest import Layer
from reprobox.manifest_reader import parse
from reprobox.oci.credentials import Credentials
from reprobox.oci.registry import BlobProvider, Registries
from reprobox.providers import HintProvider, fetch
from reprobox.store import Store
from tests import images
from tests.images import entry, folder, hard, link

#: Everything that laying images over each other has to get right.
LAYERS = images.layers(
    [
        folder("./"), folder("usr/"), folder("usr/lib/"), link("lib", "usr/lib"), entry("usr/lib/a", b"a", mode=0o755), hard("usr/lib/a2", "usr/lib/a", mode=0o755),
        folder("etc/"), entry("etc/gone", b"1"), entry("etc/changed", b"old"), folder("srv/"), entry("srv/one"), entry("srv/two"), folder("tmp/", 0o1777), entry("usr/su", b"s", mode=0o4755),
    ],
    [folder("etc/", 0o750), entry("etc/.wh.gone"), entry("etc/changed", b"new", mode=0o600), folder("srv/"), entry("srv/.wh..wh..opq"), entry("srv/three", b"3")],
    [folder("usr/"), folder("usr/lib/"), entry("usr/lib/b", b"b"), entry("dev/null", kind=tarfile.CHRTYPE), link("etc/alias", "/etc/changed")],
)  # fmt: skip


@dataclass
class SmallWorld:
    """As much of a World as a base needs."""

    store: Store
    project: Path
    registries: Registries
    hints: dict[str, list[str]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.said.append(text)

    def fetch(self, inputs: Sequence[Input]) -> None:
        fetch(inputs, [BlobProvider(self.registries)], self.store, downloader=Downloader(backoff=0.01))

    def remember(self, item: Input, urls: Sequence[str]) -> None:
        self.hints[item.sha256] = list(urls)
        HintProvider(self.store).remember(item, urls)


def registries(home: Path, **options: Any) -> Registries:
    return Registries(Downloader(**{"backoff": 0.01} | options), None, Credentials({"HOME": str(home)}))


def asked(world: SmallWorld, base: Mapping[str, str], platform: str = "linux/amd64") -> ResolveRequest:
    text = '[project]\nname = "x"\n[base]\n' + "".join(f"{key} = {json.dumps(value)}\n" for key, value in base.items())
    return ResolveRequest(
        manifest=parse(text, kinds={}),
        layer=Layer(name="base", kind=next(iter(base))),
        key="base",
        platform=platform,
        below=(),
        previous=None,
        upgrade=False,
        world=world,  # type: ignore[arg-type]
    )


def locked(found: Resolution, kind: str = "image") -> LockedLayer:
    layer = LockedLayer(
        name="base", kind=kind, recipe=1, request="", inputs=found.inputs, options=found.options, facts=found.facts
    )
    return with_ids([layer], 0)[0]


def built(world: SmallWorld, layer: LockedLayer, tree: Path, platform: str = "linux/amd64") -> Verbatim:
    files = {item.name: world.store.blob(item.sha256) for item in layer.inputs}
    step = Image().step(StepRequest(layer=layer, files=files, platform=platform, epoch=0, project=world.project))
    tree.mkdir()
    step.unpack(tree)
    return step


def fetched(world: SmallWorld, found: Resolution) -> None:
    fetch(
        found.inputs,
        [
            HintProvider(world.store),
            BlobProvider(world.registries),
            ImageArchiveProvider(world.store, world.project),
            SifProvider(world.project),
        ],
        world.store,
        downloader=Downloader(backoff=0.01),
    )
