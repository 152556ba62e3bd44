"""A small lock of two targets, and its text."""

from __future__ import annotations

from reprobox import lock_text
from reprobox.digest import sha256
from reprobox.lock import Input, Lock, LockedLayer, LockedTarget, Seal, with_ids

EPOCH = 1_736_552_400


def deb(name: str = "libc6", **facts: str) -> Input:
    return Input(
        type="deb",
        name=f"{name}_2.36-9_amd64.deb",
        sha256=sha256(name.encode()),
        size=2_757_668,
        facts={"package": name, "version": "2.36-9", "suite": "bookworm", **facts},
    )


LAYERS = (
    LockedLayer(
        name="base",
        kind="bootstrap",
        recipe=1,
        request="4b227777d4dd1fc6",
        inputs=(deb("libc6"), deb("dpkg")),
        options={"suite": "bookworm", "keys": {"b": 'two\nlines "quoted" \\', "a": [1, [True, {}], []]}},
        facts={"armor": "-----BEGIN-----\n\nx=\n-----END-----\n", "removed": ["a", "b"]},
    ),
    LockedLayer(name="conf", kind="copy", recipe=1, request="0" * 16, parents=("base",), options={"to": "/etc/é"}),
    LockedLayer(
        name="python", kind="pip", recipe=2, request="1" * 16, parents=("base",), environment={"A.B": "c d", "Z": ""}
    ),
    LockedLayer(name="skeleton", kind="skeleton", recipe=1, request="2" * 16, parents=("conf", "python")),
)


SEAL = Seal(image_digest="sha256:" + "1" * 64, tree_digest="sha256:" + "2" * 64, layers={"base": "sha256:" + "3" * 64})


LOCK = Lock(
    epoch=EPOCH,
    manifest=sha256(b"manifest"),
    keys={"base": "3e23e8160039594a", "env.LANG": "18ac3e7343f01689", "layers.python.packages": "148de9c5a7a44d19"},
    targets={
        "default": LockedTarget(name="default", platform="linux/amd64", layers=with_ids(LAYERS, EPOCH), seal=SEAL),
        "my gpu": LockedTarget(name="my gpu", platform="linux/arm64", layers=with_ids(LAYERS[:1], EPOCH)),
    },
    code="4b825dc642cb6eb9a060e54bf8d69288fbee4904",
)


TEXT = lock_text.write(LOCK)
