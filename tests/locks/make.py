"""Writes the fixtures of the lock format that this reprobox writes: ``python -m tests.locks.make FOLDER``.

Each is a project with a sealed lock, kept in one vault, with its digests beside it. Together they have every kind of
layer and base, and every key, that a lock can have. All of it is small: the programs of the bases are ``stand_in.c``,
which writes down how it was called. What cannot be resolved without an archive or an index (packages, images of
registries) is put into the lock here, in the form in which resolving leaves it.

Run it once for a format, when it is released, and never again: what it wrote is the promise. See
``docs/explanation/old-locks.md``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from reprobox.archives import sif
from reprobox.cli import main
from reprobox.lock import Input, Lock, LockedLayer, with_ids
from reprobox.lock_text import lock_digest, write
from reprobox.realize import Wish, realize
from tests import images
from tests.debs import make_deb
from tests.local import Local
from tests.python_index import wheel
from tests.repositories import Repository, web

HERE = Path(__file__).resolve().parent
PROGRAMS = ("sh", "dpkg", "apt-get", "apt-mark", "python3")
TIME = 1_700_000_000
_GCC = (
    *("gcc", "-Os", "-static", "-nostdlib", "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fno-builtin"),
    *("-Wl,--build-id=none", "-Wl,-z,norelro,-z,noseparate-code", "-s"),
)

HEAD = '[project]\nname = "{name}"\nversion = "1"\n[base]\n{base}\n[code]\npath = "src"\n'
EVERYTHING = """\
[run]
command = ["sh", "/work/main"]
workdir = "/work"
[env]
LANG = "C.UTF-8"
[mounts]
"/data" = { mode = "ro", source = "data", digest = true }
"/more" = { mode = "ro", files = [{ url = "FILES/numbers" }] }
"/out" = { mode = "rw" }
[secrets]
key = { path = "key.txt" }
[[layers]]
name = "system"
kind = "apt"
packages = ["hello"]
[[layers]]
name = "python"
kind = "pip"
packages = ["small"]
[[layers]]
name = "settings"
kind = "copy"
files = [{ from = "conf/", to = "/etc/small" }]
[[layers]]
name = "model"
kind = "fetch"
files = [{ url = "FILES/model.tar", to = "/opt/model", unpack = true }, { url = "FILES/numbers", to = "/opt/numbers" }]
[[layers]]
name = "tool"
kind = "git"
repository = "FILES/tool.git"
rev = "v1"
to = "/opt/tool"
[[layers]]
name = "step"
kind = "run"
secrets = ["key"]
env = { LEVEL = "3" }
script = '''
mkdir /srv
put /srv/words two words
mode 0750 /srv/words
copy /opt/numbers /srv/numbers
hard /srv/numbers /srv/same
link numbers /srv/link
remove /etc/small/old
'''
"""
PLACED = '[[layers]]\nname = "mine"\nkind = "pip"\nplacement = "project"\npackages = ["small"]\n'
STEP = '[[layers]]\nname = "step"\nkind = "run"\nscript = "mkdir /srv; put /srv/words two words"\n'
NETWORK = '[[layers]]\nname = "net"\nkind = "run"\nnetwork = true\nscript = "mkdir /srv; put /srv/x y; remove /calls"\n'
TARGETS = f"""\
{STEP}[[layers]]
name = "fast"
kind = "copy"
targets = ["gpu"]
files = [{{ from = "conf/", to = "/etc/small" }}]
[targets.cpu]
[targets.gpu]
requires = {{ memory = "1 MiB" }}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixture:
    """``layers`` is the manifest below its head. ``base`` is what the manifest says, ``draft`` what is resolved for it.

    ``change`` puts into the lock what was not resolved, layer by layer; ``online`` is set where a step uses the network.
    """

    name: str
    layers: str
    base: str = 'rootfs = "base"'
    draft: str = ""
    change: Callable[[Maker, LockedLayer], LockedLayer] = lambda _, layer: layer
    code: str = ""
    online: bool = False


class Maker:
    """Makes fixtures below ``folder``, into the vault ``kept``."""

    def __init__(self, folder: Path, kept: Path) -> None:
        self.folder, self.kept = folder, kept
        self.program = folder / "stand-in"
        subprocess.run([*_GCC, "-o", self.program, HERE / "stand_in.c"], check=True)
        self.local = Local(folder, folder / "store", offline=False)
        self.url = ""

    def blob(self, kind: str, name: str, data: bytes, **facts: str) -> Input:
        """An input that nobody has to be asked for."""
        digest = self.local.session.store.add_blob(data)
        return Input(type=kind, name=name, sha256=digest, size=len(data), facts=facts)

    def root(self, root: Path) -> Path:
        """A base of the one program, by many names."""
        for name in ("usr/bin", "etc", "var/lib/dpkg", "tmp", "work"):
            (root / name).mkdir(parents=True)
        (root / "bin").symlink_to("usr/bin")
        shutil.copy(self.program, root / "usr/bin/stand-in")
        (root / "usr/bin/stand-in").chmod(0o755)
        for name in PROGRAMS:
            (root / "usr/bin" / name).symlink_to("stand-in")
        (root / "var/lib/dpkg/status").write_text("")
        (root / "tmp").chmod(0o1777)
        return root

    def served(self) -> Path:
        """What layers fetch."""
        place = self.folder / "served"
        place.mkdir()
        (place / "numbers").write_text("1 2 3\n")
        (place / "model.tar").write_bytes(images.tar(images.entry("model/a", b"weights"), images.link("model/b", "a")))
        repository = Repository(self.folder / "tool")
        repository.write(**{"run.sh": "echo tool\n"}).commit("work", tag="v1")
        subprocess.run(["git", "clone", "-q", "--bare", self.folder / "tool", place / "tool.git"], check=True)
        subprocess.run(["git", "-C", place / "tool.git", "update-server-info"], check=True)
        return place

    def project(self, fixture: Fixture) -> Local:
        path = self.folder / fixture.name
        path.mkdir()
        root = self.root(path / "base")
        tree = images.tar(*_members(root))
        layout = images.Layout(path / "layout")
        layout.tag(layout.image(tree, Cmd=["sh"]), "1")
        self.archive(path / "base.tar", tree)
        self.sif(path / "base.sif", root)
        used = {fixture.base, fixture.draft}
        for name in ("base", "layout", "base.tar", "base.sif"):
            if not any(f'"{name}"' in text for text in used):
                (shutil.rmtree if (path / name).is_dir() else os.unlink)(path / name)
        for name, text in {
            "conf/new": "new\n",
            "conf/old": "old\n",
            "data/a": "1\n",
            "src/main": "mkdir /out/x\n",
        }.items():
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_text(text)
        (path / "key.txt").write_text("a-secret-of-the-fixture\n")
        return Local(path, self.folder / "store", offline=False)

    def archive(self, path: Path, tree: bytes) -> None:
        """As ``docker save`` writes it."""
        config = {"architecture": "amd64", "os": "linux", "created": images.CREATED, "config": {"Env": ["PATH=/bin"]}}
        config["rootfs"] = {"type": "layers", "diff_ids": [images.digest(tree)]}
        index = [{"Config": "config.json", "RepoTags": ["stand-in:1"], "Layers": ["layer.tar"]}]
        members = {"layer.tar": tree, "config.json": json.dumps(config), "manifest.json": json.dumps(index)}
        entries = [
            images.entry(name, data.encode() if isinstance(data, str) else data) for name, data in members.items()
        ]
        path.write_bytes(images.tar(*entries))

    def sif(self, path: Path, root: Path) -> None:
        squashed = path.with_suffix(".sqfs")
        argv = ["mksquashfs", root, squashed, "-quiet", "-no-progress", "-noappend", "-all-root", "-no-xattrs"]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(TIME)}
        subprocess.run(argv, check=True, capture_output=True, env=environment)
        about = sif.Partition(filesystem=sif.SQUASHFS, role=sif.PRIMARY, architecture="amd64")
        content = sif.Content(type=sif.PARTITION, size=squashed.stat().st_size, name="root", extra=about.extra())
        with path.open("wb") as file:
            found = sif.laid_out([content], identity=sif.identity(b"x"), created=TIME)
            sif.write(found, [[squashed.read_bytes()]], file)
        squashed.unlink()

    def make(self, fixture: Fixture) -> None:
        """Resolve the draft, make the lock of it, seal, and keep it; and write down what came out."""
        local = self.project(fixture)
        manifest = (HEAD.format(name=fixture.name, base=fixture.base) + fixture.layers).replace(
            '[code]\npath = "src"\n', fixture.code or '[code]\npath = "src"\n'
        )
        local.path.joinpath("research.toml").write_text(
            _resolvable(manifest.replace(fixture.base, fixture.draft or fixture.base)).replace("FILES", self.url)
        )
        lock = local.lock()
        local.path.joinpath("research.toml").write_text(manifest.replace("FILES", "https://files.example.org"))
        lock = self.changed(local, lock, fixture)
        session, wanted = local.session, local.manifest()
        for name in wanted.targets:
            lock = realize(session, local.project, wanted, lock, Wish(target=name, seal=True)).lock
        local.project.write_lock(lock)
        told = {"lock": f"sha256:{lock_digest(lock)}", "online": fixture.online, "targets": {}, "with_code": {}}
        for name, target in lock.targets.items():
            assert target.seal is not None
            told["targets"][name] = {
                "tree_digest": target.seal.tree_digest,
                "image_digest": target.seal.image_digest,
                "layers": dict(target.seal.layers),
            }
            baked = realize(local.session, local.project, wanted, lock, Wish(target=name, with_code=True))
            told["with_code"][name] = baked.result["tree_digest"]
        place = self.kept.parent
        (place / f"{fixture.name}.lock").write_text(write(lock))
        (place / f"{fixture.name}.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
        with _environment(REPROBOX_STORE=str(local.store)):
            status = main(["vault", str(self.kept), "-C", str(local.path), "--without-reprobox", "-q"])
        assert status == 0, fixture.name

    def changed(self, local: Local, lock: Lock, fixture: Fixture) -> Lock:
        """The lock of the manifest that is there, with what was not resolved."""
        manifest = local.manifest()
        targets = {}
        for name, target in lock.targets.items():
            layers = [fixture.change(self, layer) for layer in target.layers]
            if fixture.name == "everything":
                layers.append(_placed(self, layers[0].name))
            targets[name] = replace(target, layers=with_ids(layers, lock.epoch))
        from reprobox.draft import target_request

        if len(manifest.targets) > 1:
            targets = {name: replace(item, request=target_request(manifest, name)) for name, item in targets.items()}
        return replace(lock, manifest=manifest.digest(), keys=dict(manifest.keys()), targets=targets)


# -- what is not resolved ----------------------------------------------------------------------------------------------


def packages(maker: Maker, layer: LockedLayer) -> LockedLayer:
    """The layers ``system`` and ``python``, as resolving leaves them."""
    if layer.name == "system":
        deb = make_deb(_folder(maker), "hello", files={"usr/share/hello": b"hello\n"})
        facts = {
            "architecture": "amd64",
            "archive": "debian",
            "package": "hello",
            "suite": "bookworm",
            "version": "1.0",
        }
        item = maker.blob("deb", deb.name, deb.read_bytes(), path=f"pool/main/h/hello/{deb.name}", **facts)
        options = {"architectures": [], "manual": ["hello"], "removed": []}
        return replace(layer, kind="apt", inputs=(item,), options=options)
    if layer.name == "python":
        return replace(layer, kind="pip", inputs=_wheels(maker), options={"python": "/usr/bin/python3"})
    return layer


def _placed(maker: Maker, base: str) -> LockedLayer:
    return LockedLayer(
        name="mine",
        kind="pip",
        recipe=1,
        request="0" * 16,
        parents=(base,),
        inputs=_wheels(maker),
        options={"python": "/usr/bin/python3", "venv": "/code/.reprobox/venv-default"},
        facts={"folder": "src/.reprobox/venv-default"},
        placement="project",
    )


def _wheels(maker: Maker) -> tuple[Input, ...]:
    name, data = wheel("small", "1.0")
    uv = maker.blob("uv", "uv-0.5.0.whl", b"a stand-in needs no uv", version="0.5.0", platform="x86_64")
    return uv, maker.blob("wheel", name, data, package="small", version="1.0", python="3.11")


def based(kind: str) -> Callable[[Maker, LockedLayer], LockedLayer]:
    """The base as another kind that is built in the same way has it."""
    return lambda _, layer: replace(layer, kind=kind) if layer.name == "base" else layer


def bootstrap(maker: Maker, layer: LockedLayer) -> LockedLayer:
    if layer.name != "base":
        return layer
    folder = _folder(maker)
    program = {"usr/bin/stand-in": maker.program.read_bytes()}
    program |= {f"usr/bin/{name}": ("symlink", "stand-in") for name in PROGRAMS}
    debs = [
        make_deb(folder, "base-files", files={**program, "usr/lib/os-release": b"ID=stand-in\n"}),
        make_deb(folder, "scripted", files={"usr/share/scripted": b"x\n"}, scripts={"preinst": "#!/bin/sh\n"}),
        make_deb(folder, "plain", files={"usr/share/plain": b"x\n"}, scripts={"md5sums": ""}),
    ]
    facts = {"architecture": "amd64", "archive": "debian", "suite": "bookworm", "version": "1.0"}
    inputs = tuple(
        maker.blob("deb", path.name, path.read_bytes(), package=path.name.partition("_")[0], path=path.name, **facts)
        for path in debs
    )
    options = {"architecture": "amd64", "links": ["bin", "lib"], "seed": [debs[0].name]}
    options["unpack"] = [debs[0].name, debs[1].name]
    return replace(layer, kind="bootstrap", inputs=inputs, options=options, facts={})


FIXTURES = (
    Fixture(name="everything", layers=EVERYTHING + PLACED, change=packages),
    Fixture(name="targets", layers=TARGETS),
    Fixture(name="code-from-git", layers=STEP, code='[code]\ngit = "FILES/tool.git"\nrev = "v1"\n'),
    Fixture(name="network", layers=NETWORK, online=True),
    Fixture(name="base-oci", layers=STEP, base='oci = "layout"'),
    Fixture(name="base-archive", layers=STEP, base='archive = "base.tar"'),
    Fixture(name="base-sif", layers=STEP, base='sif = "base.sif"'),
    Fixture(
        name="base-image",
        layers=STEP,
        base='image = "registry.example.org/s:1"',
        draft='oci = "layout"',
        change=based("image"),
    ),
    Fixture(
        name="base-engine",
        layers=STEP,
        base='image = "docker-daemon:s:1"',
        draft='oci = "layout"',
        change=based("docker-daemon"),
    ),
    Fixture(
        name="base-oras",
        layers=STEP,
        base='sif = "oras://registry.example.org/s:1"',
        draft='sif = "base.sif"',
        change=based("oras"),
    ),
    Fixture(
        name="base-bootstrap",
        layers=STEP,
        base='bootstrap = "debian:bookworm"',
        draft='rootfs = "base"',
        change=bootstrap,
    ),
)


# -- small things ------------------------------------------------------------------------------------------------------


def _resolvable(manifest: str) -> str:
    """The manifest with a step in place of each layer that only an archive or an index could resolve."""
    for kind, packages_ in (("apt", "hello"), ("pip", "small")):
        manifest = manifest.replace(f'kind = "{kind}"\npackages = ["{packages_}"]', 'kind = "run"\nscript = "true"')
    return manifest.replace(PLACED, "")


def _members(root: Path) -> Iterator[tuple[object, bytes]]:
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            yield images.link(name, os.readlink(path))
        elif path.is_dir():
            yield images.folder(name, path.stat().st_mode & 0o7777)
        else:
            yield images.entry(name, path.read_bytes(), mode=path.stat().st_mode & 0o7777)


def _folder(maker: Maker) -> Path:
    return Path(tempfile.mkdtemp(dir=maker.folder))


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def make_all(target: Path) -> None:
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="reprobox-locks-") as folder:
        maker = Maker(Path(folder), target / "vault")
        with web(maker.served()) as url:
            maker.url = url
            for fixture in FIXTURES:
                maker.make(fixture)
                sys.stderr.write(f"made {fixture.name}\n")


if __name__ == "__main__":
    os.umask(0o022)
    make_all(Path(sys.argv[1]))
