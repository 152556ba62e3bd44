"""Bills of materials: every locked input once, licences as SPDX says them, documents that others' validators take."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import jsonschema
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from referencing import Registry
from referencing.jsonschema import DRAFT7

from reprobox.bom.bill import bill
from reprobox.bom.component import Bill, Component, purl_of
from reprobox.bom.cyclonedx import cyclonedx
from reprobox.bom.expression import declared
from reprobox.bom.inside import packages_in
from reprobox.bom.links import Surroundings, with_links
from reprobox.bom.spdx import spdx
from reprobox.licences import CLASSIFIERS, DEP5, EXPRESSION, LICENSE, PROSE, Licence
from reprobox.lock import Input, Lock, LockedLayer, LockedTarget, request_digest, with_ids
from reprobox.store import Store
from reprobox.tree import Tree, scan
from tests.debs import make_deb
from tests.local import Local

URL = "https://example.org/weights.bin"
MANIFEST = f"""\
[project]
name = "small"
version = "1.0"
license = "MIT"
authors = [{{ name = "Ada" }}]
[base]
bootstrap = "debian:bookworm"
[[layers]]
name = "tools"
kind = "apt"
packages = ["tool"]
[[layers]]
name = "python"
kind = "pip"
packages = ["app"]
[[layers]]
name = "weights"
kind = "fetch"
files = [{{ url = "{URL}", to = "/opt/weights.bin" }}]
[[layers]]
name = "own"
kind = "fetch"
private = true
files = [{{ url = "https://example.org/own.bin", to = "/opt/own.bin" }}]
"""
COPYRIGHT = b"Format: https://example.org/1.0/\n\nFiles: *\nLicense: GPL-2+ and odd\n"


def wheel(name: str, version: str, *lines: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        about = "\n".join((f"Name: {name}", f"Version: {version}", *lines))
        archive.writestr(zipfile.ZipInfo(f"{name}-{version}.dist-info/METADATA"), f"Metadata-Version: 2.4\n{about}\n\n")
    return buffer.getvalue()


class Making:
    """A project whose lock is made by hand, of real small packages that are in its store."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.folder = folder
        self.local = Local(folder, store)
        (folder / "research.toml").write_text(MANIFEST)
        self.store = Store(store)
        control = {"Provides": "libx (= 1.0)", "Homepage": "https://example.org/x"}
        below = self.deb("libtool", version="1.0", control=control)
        above = self.deb("libtool", version="1.1", control=control)
        tool = self.deb(
            "tool",
            control={"Depends": "libx (>= 1.0) | other, gone", "Source": "tools (1:0.9)"},
            files={"usr/share/doc/tool/copyright": COPYRIGHT},
        )
        app = self.python("app", "wheel", "License-Expression: MIT", 'Requires-Dist: lib; python_version < "4"')
        lib = self.python(
            "lib",
            "wheel",
            'Requires-Dist: app; extra == "test"',
            "Author: Jürgen",
            "Classifier: License :: OSI Approved :: BSD License",
        )
        setup = self.python("setup", "build")
        weights = self.file("weights.bin", b"123")
        own = Input(type="file", name="own.bin", sha256="0" * 64, size=1, facts={"package": "own.bin"})
        layers = (
            self.layer("base", "bootstrap", (below, tool)),
            self.layer("tools", "apt", (above,), "base"),
            replace(self.layer("python", "pip", (app, lib, setup), "tools"), facts={"python": "3.11"}),
            self.layer("weights", "fetch", (weights,), "base"),
            self.layer("own", "fetch", (own,), "base"),
        )
        self.target = LockedTarget(name="default", platform="linux/amd64", layers=with_ids(layers, 1_700_000_000))
        self.lock = Lock(epoch=1_700_000_000, manifest="", keys={}, targets={"default": self.target}, code="a" * 40)

    @staticmethod
    def layer(name: str, kind: str, inputs: tuple[Input, ...], *parents: str) -> LockedLayer:
        return LockedLayer(name=name, kind=kind, recipe=1, request="", inputs=inputs, parents=parents)

    def put(self, data: bytes, kind: str, name: str, **facts: str) -> Input:
        return Input(type=kind, name=name, sha256=self.store.add_blob(data), size=len(data), facts=facts)

    def deb(self, name: str, *, version: str = "1.0", **about: object) -> Input:
        path = make_deb(self.folder, name, version=version, **about)
        facts = {
            "package": name,
            "version": version,
            "architecture": "amd64",
            "archive": "debian-security",
            "suite": "bookworm-security",
        }
        return self.put(path.read_bytes(), "deb", path.name, **facts)

    def python(self, name: str, kind: str, *lines: str) -> Input:
        file = f"{name}-1.0-py3-none-any.whl"
        return self.put(wheel(name, "1.0", *lines), kind, file, package=name, version="1.0", python="3.11")

    def file(self, name: str, data: bytes) -> Input:
        return self.put(data, "file", name, package=name, source=request_digest(URL))

    def bill(self) -> Bill:
        return bill(self.local.session, self.local.manifest(), self.lock, "default")


@pytest.fixture(scope="module")
def making(tmp_path_factory) -> Making:
    return Making(tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("store") / "s")


@pytest.fixture(scope="module")
def made(making) -> Bill:
    return making.bill()


def named(bill_: Bill, name: str, version: str = "1.0") -> Component:
    (found,) = (item for item in bill_.components if item.name == name and item.version in (version, ""))
    return found


def test_every_locked_input_is_there_once(making, made):
    locked = sorted(item.sha256 for layer in making.target.layers for item in layer.inputs)
    assert sorted(item.sha256 for item in made.components) == locked
    in_spdx = [
        item["checksums"][0]["checksumValue"] for item in json.loads(spdx(made))["packages"] if "checksums" in item
    ]
    in_cyclonedx = [item["hashes"][0]["content"] for item in json.loads(cyclonedx(made))["components"]]
    assert sorted(in_spdx) == sorted(in_cyclonedx) == locked


def test_packages_are_named_so_that_others_know_them(made):
    assert named(made, "tool").purl == "pkg:deb/debian/tool@1.0?arch=amd64&distro=bookworm"
    assert named(made, "app").purl == "pkg:pypi/app@1.0?file_name=app-1.0-py3-none-any.whl"
    weights = named(made, "weights.bin")
    assert PackageURL.from_string(weights.purl).qualifiers == {
        "checksum": f"sha256:{weights.sha256}",
        "download_url": URL,
    }
    assert weights.swhids == ("swh:1:cnt:d800886d9c86731ae5c4a62b0b77c437015e00d2",)  # as `git hash-object` says
    for item in made.components:
        assert PackageURL.from_string(item.purl).to_string() == PackageURL.from_string(item.purl.lower()).to_string()


def test_what_depends_on_what(made):
    newer, tool = named(made, "libtool", "1.1"), named(made, "tool")
    assert tool.depends == (newer.ref,)  # by a name that it provides; what is not there is left out
    assert named(made, "libtool", "1.0").replaced_by == newer.ref
    assert named(made, "app").depends == (named(made, "lib").ref,)
    assert named(made, "lib").depends == ()  # an extra was not asked for
    assert named(made, "setup").build_only
    assert tool.metadata.source == "tools 1:0.9"
    assert named(made, "lib").metadata.supplier == "Jürgen"


def test_what_is_private_is_named_and_not_opened(made):
    assert named(made, "own.bin").private
    assert made.notes == ("Layer own is private: its files are named here, and not described.",)


def test_the_same_lock_gives_the_same_bytes(making, made, tmp_path):
    store = Store(tmp_path / "store")
    for item in (item for layer in making.target.layers for item in layer.inputs if item.name != "own.bin"):
        store.add_blob(making.store.blob(item.sha256).read_bytes())
    (tmp_path / "research.toml").write_text(MANIFEST)
    other = Local(tmp_path, store.root)
    again = bill(other.session, other.manifest(), making.lock, "default")
    assert (spdx(again), cyclonedx(again)) == (spdx(made), cyclonedx(made))
    moved = replace(made, lock="1" * 64)
    assert spdx(moved) != spdx(made)
    assert json.loads(cyclonedx(moved))["serialNumber"] != json.loads(cyclonedx(made))["serialNumber"]


def test_others_validators_take_the_documents(made, tmp_path):
    path = tmp_path / "bill.spdx.json"
    path.write_bytes(spdx(made))
    program = Path(sys.executable).with_name("pyspdxtools")
    told = subprocess.run([program, "-i", path], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(cyclonedx(made).decode()) is None
    # The emitters' own libraries could share a mistake with their validators: the official schemas come from another one.
    schemas = Path(str(metadata.distribution("lib4sbom").locate_file("lib4sbom/schemas")))
    _check(schemas / "spdx/2.3-schema.json", spdx(made))
    _check(schemas / "cyclonedx/bom-1.6.schema.json", cyclonedx(made))


def _check(schema: Path, document: bytes) -> None:
    found = [(path.name, json.loads(path.read_text())) for path in schema.parent.glob("*schema.json")]
    resources = [(said.get("$id", name), DRAFT7.create_resource(said)) for name, said in found]
    said = json.loads(schema.read_text())
    checker = jsonschema.validators.validator_for(said)(said, registry=Registry().with_resources(resources))
    assert [error.message for error in checker.iter_errors(json.loads(document))] == []


def of(kind: str, told_in: str, *names: str, **more: object) -> Component:
    return Component(kind=kind, name="x", ref="x", version="1", licence=Licence(names=names, told_in=told_in, **more))


@pytest.mark.parametrize(
    ("item", "expression"),
    [
        (of("deb", DEP5, "GPL-2+", "Expat"), "GPL-2.0-or-later AND MIT"),
        (of("deb", DEP5, "LGPL-2.1", "GFDL-NIV-1.3+"), "GFDL-1.3-no-invariants-or-later AND LGPL-2.1-only"),
        (of("deb", DEP5, "GPL-1+ or Artistic", "zlib"), "(GPL-1.0-or-later OR Artistic-1.0-Perl) AND Zlib"),
        (of("deb", DEP5, "GPL-3+ with a twist"), "LicenseRef-deb-x-GPL-3-with-a-twist"),
        (of("deb", DEP5, "bsd-3-clause and public-domain"), "BSD-3-Clause AND LicenseRef-deb-x-public-domain"),
        (of("deb", PROSE, refers=("GPL-2",)), ""),
        (of("pypi", EXPRESSION, "mit OR apache-2.0"), "MIT OR Apache-2.0"),
        (of("pypi", EXPRESSION, "MIT AND"), "LicenseRef-pypi-x-MIT-AND"),
        (of("pypi", CLASSIFIERS, "MIT License"), "MIT"),
        (of("pypi", CLASSIFIERS, "BSD License"), "LicenseRef-pypi-x-BSD-License"),
        (of("pypi", CLASSIFIERS, "Apache Software License", "MIT License"), "LicenseRef-pypi-x-Apache-Software-License-MIT-License"),
        (of("pypi", LICENSE, "BSD-3-Clause"), "BSD-3-Clause"),
        (of("pypi", LICENSE, "see the file"), "LicenseRef-pypi-x-see-the-file"),
        (of("pypi", ""), ""),
    ],
)  # fmt: skip
def test_licences_in_words_that_spdx_knows(item, expression):
    found = declared(item)
    assert found.expression == expression
    assert [name for name, _ in found.references] == [word for word in expression.strip("()").split() if "Ref-" in word]


def test_prose_is_told_and_not_guessed():
    found = declared(of("deb", PROSE, refers=("GPL-2", "LGPL-2.1")))
    assert (
        found.comment
        == "The package has a copyright file for people, which refers to the common licences GPL-2, LGPL-2.1."
    )


def test_what_a_base_has_installed(tmp_path):
    root = tmp_path / "root"
    info = root / "usr/local/lib/python3.11/site-packages/Foo_Bar-2.dist-info"
    debian = root / "usr/lib/python3/dist-packages/debian-2.dist-info"
    for folder in (
        info,
        debian,
        root / "etc",
        root / "var/lib/dpkg",
        root / "usr/share/doc/here",
        root / "usr/share/doc/out",
    ):
        folder.mkdir(parents=True)
    (info / "METADATA").write_bytes(b"Metadata-Version: 2.1\nName: Foo_Bar\nVersion: 2\nLicense-Expression: MIT\n\n")
    (debian / "METADATA").write_bytes(b"Metadata-Version: 2.1\nName: debian\nVersion: 2\n\n")
    (root / "etc/os-release").write_text('ID=ubuntu\nVERSION_CODENAME="noble"\n')
    (root / "usr/share/doc/here/copyright").write_bytes(COPYRIGHT)
    (tmp_path / "secret").write_bytes(COPYRIGHT)
    (root / "usr/share/doc/out/copyright").symlink_to(tmp_path / "secret")  # leads nowhere inside
    status = "Package: {}\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n\n"
    removed = status.format("old").replace("ok installed", "ok config-files")
    (root / "var/lib/dpkg/status").write_text(status.format("here") + removed + status.format("out"))
    tree = Tree.merged([scan(root)])
    here, out, python = packages_in(root, tree, "base")
    assert (here.purl, here.licence.names) == ("pkg:deb/ubuntu/here@1?arch=all&distro=noble", ("GPL-2+ and odd",))
    assert (out.name, out.licence) == ("out", Licence())
    assert (python.purl, python.licence.name) == ("pkg:pypi/foo-bar@2", "MIT")


DEBIAN = """\
Package: app
Status: install ok installed
Architecture: amd64
Version: 1:2.0-1+b1
Source: apps (1:2.0-1)
Maintainer: Ada Lovelace <ada@example.org>
Homepage: https://example.org/app
Pre-Depends: libc (>= 2)
Depends: lib | other, mail-transport-agent, nothing | lib2:any (= 1)
Description: an app

Package: lib
Status: install ok installed
Architecture: all
Version: 1~rc1
Maintainer: Debian Lib Team <lib@example.org>
Description: a library

Package: lib2
Status: install ok installed
Architecture: amd64
Version: 1
Maintainer: Debian Lib Team <lib@example.org>
Description: another

Package: libc
Status: install ok installed
Architecture: amd64
Version: 2.36
Maintainer: Debian Lib Team <lib@example.org>
Description: all of it

Package: postfix
Status: install ok installed
Architecture: amd64
Version: 3
Maintainer: Debian Lib Team <lib@example.org>
Provides: mail-transport-agent
Description: mail
"""


def test_debsbom_finds_the_same_packages_with_the_same_dependencies(tmp_path):
    for folder in ("etc", "var/lib/dpkg", "var/lib/apt/lists"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(DEBIAN)
    argv = [
        Path(sys.executable).with_name("debsbom"),
        "generate",
        "-t",
        "cdx",
        "-r",
        tmp_path,
        "--distro-arch",
        "amd64",
    ]
    subprocess.run([*argv, "--no-recommends-deps", "-o", tmp_path / "theirs"], capture_output=True, check=True)
    theirs = json.loads((tmp_path / "theirs.cdx.json").read_text())
    refs = {item["bom-ref"]: item["name"] for item in theirs["components"] if item["purl"].find("arch=source") < 0}
    ours = with_links(
        packages_in(tmp_path, Tree.merged([scan(tmp_path)]), "base"),
        Surroundings(machine="", python="3.11", removed={}),
    )
    assert {item.purl for item in ours} == {item["purl"] for item in theirs["components"] if item["bom-ref"] in refs}
    names = {item.ref: item.name for item in ours}
    assert {(item.name, names[other]) for item in ours for other in item.depends} == {
        (refs[item["ref"]], refs[other])
        for item in theirs["dependencies"]
        for other in item.get("dependsOn", ())
        if item["ref"] in refs and other in refs
    }


def test_purls_are_encoded():
    assert (
        purl_of("deb", "debian", "g++", "1:2~3+4", arch="amd64", distro="")
        == "pkg:deb/debian/g%2B%2B@1:2~3%2B4?arch=amd64"
    )
