"""What is told to apt, and what is understood of its answers. That apt itself agrees is shown in test_layers_apt."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from reprobox.backend import ToolResult
from reprobox.debian import solver
from reprobox.debian.archive import Index
from reprobox.debian.control import fields, stanzas, write
from reprobox.debian.release import Release
from reprobox.lock import Input
from reprobox.store import Store
from tests.debs import make_deb, stanza

#: As apt 2.6 printed it, hosts and all, for a question like those of an apt layer.
ANSWER = """\
Reading package lists...
Building dependency tree...
libjq1 is already the newest version (1.6-2.1+deb12u3).
The following additional packages will be installed:
  cpio libc6
Recommended packages:
  ca-certificates
The following packages will be REMOVED:
  exim4-base exim4-config
  exim4-daemon-light*
The following NEW packages will be installed:
  cpio postfix
The following packages will be DOWNGRADED:
  libc6
0 upgraded, 2 newly installed, 1 downgraded, 3 to remove and 0 not upgraded.
Need to get 15.7 MB of archives.
After this operation, 53.6 MB of additional disk space will be used.
'http://r0.invalid/pool/main/g/git/git_2.39.5-0%2bdeb12u2_amd64.deb' git_1%3a2.39.5-0+deb12u2_amd64.deb 7256 SHA256:{git}
'http://r1.invalid/pool/updates/main/p/postfix/postfix_3.7.11_amd64.deb' postfix_3.7.11_amd64.deb 15 SHA256:{postfix}
'http://old.invalid/{old}' tiny_1.0_all.deb 99 SHA256:{old}
"""

REFUSAL = """\
Reading package lists...
Building dependency tree...
Some packages could not be installed. This may mean that you have
requested an impossible situation or if you are using the unstable
distribution that some required packages have not yet been created
or been moved out of Incoming.
The following information may help to resolve the situation:

The following packages have unmet dependencies:
 exim4-config : Conflicts: postfix but 3.7.11-0+deb12u1 is to be installed
"""


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def index(path: Path, suite: str, uri: str = "http://mirror.example/debian") -> Index:
    release = Release(
        sha256=sha(suite), text=b"", fields={"Label": "Debian"}, date=1, valid_until=0, signer="F", files={}
    )
    return Index(
        suite=suite, component="main", architecture="amd64", release=release, uri=uri, sha256=sha(path.name), path=path
    )


@pytest.fixture
def indices(tmp_path) -> tuple[Index, ...]:
    for name, packages in {
        "main": [{"Package": "awk", "SHA256": sha("awk")}, {"Package": "mawk", "Provides": "x, awkward (= 1)"}],
        "security": [{"Package": "tool", "Version": "1.0"}, {"Package": "tool", "Version": "1.1"}],
    }.items():
        (tmp_path / name).write_bytes(b"".join(map(write, packages)))
    return index(tmp_path / "main", "bookworm"), index(tmp_path / "security", "bookworm-security")


def locked(name: str, version: str = "1.0", data: bytes = b"x") -> Input:
    return Input(
        type="deb",
        name=f"{name}_{version}_all.deb",
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        facts={"package": name, "version": version, "architecture": "all", "path": f"pool/{name}.deb"},
    )


def question(indices=(), **more) -> solver.Question:
    return solver.Question(
        packages=("x",), status=b"", architectures=("amd64",), recommends=False, indices=tuple(indices), **more
    )


def test_an_answer(indices):
    old = locked("tiny")
    text = ANSWER.format(git=sha("git"), postfix=sha("postfix"), old=old.sha256)
    answer = solver.understand(
        ToolResult(status=0, stdout=text.encode(), stderr=b""), question(indices, forgotten=(old,))
    )
    assert isinstance(answer, solver.Answer)
    git, postfix, tiny = answer.choices
    assert (git.package, git.version, git.architecture) == ("git", "1:2.39.5-0+deb12u2", "amd64")
    assert git.path == "pool/main/g/git/git_2.39.5-0+deb12u2_amd64.deb"
    assert (git.size, git.sha256) == (7256, sha("git"))
    assert git.index is indices[0]
    assert postfix.index is indices[1]
    assert tiny.index is None
    assert tiny.path == "pool/tiny.deb"
    assert answer.removed == ("exim4-base", "exim4-config", "exim4-daemon-light")
    assert answer.downgraded == ("libc6",)


def test_a_refusal_keeps_the_solvers_reason():
    said = b"N: a note\nE: Unable to correct problems, you have held broken packages.\n"
    refusal = solver.understand(ToolResult(status=100, stdout=REFUSAL.encode(), stderr=said), question())
    assert isinstance(refusal, solver.Refusal)
    assert refusal.errors == ("Unable to correct problems, you have held broken packages.",)
    assert refusal.explanation.startswith("The following packages have unmet dependencies:\n exim4-config : Conflicts")


def test_a_crash_is_shown_too():
    refusal = solver.understand(ToolResult(status=125, stdout=b"", stderr=b"env: apt-get: not found\n"), question())
    assert isinstance(refusal, solver.Refusal)
    assert refusal.errors == ("apt ended with status 125", "env: apt-get: not found")


def test_versions_that_were_not_found(indices):
    refusal = solver.Refusal(
        errors=("Version '2*' for 'tool' was not found", "Version '3' for 'b:i386' was not found"), explanation=""
    )
    assert solver.missing_versions(refusal) == ["tool", "b"]
    assert solver.offered_versions("tool", indices) == ["1.1", "1.0"]


def test_names_and_virtual_names(indices, store):
    kept = Store(store)
    assert solver.package_names(kept, indices) == {"awk", "mawk", "tool"}
    assert solver.package_names(kept, indices) == {"awk", "mawk", "tool"}  # as remembered
    assert solver.is_provided("awkward", indices)
    assert not solver.is_provided("awk", indices)
    assert not solver.is_provided("ward", indices)


def test_what_is_no_longer_offered(indices, store):
    gone, here = locked("gone", data=b"gone"), locked("awk", data=b"awk")
    assert solver.no_longer_offered(Store(store), [gone, here], indices) == (gone,)
    assert solver.no_longer_offered(Store(store), [gone, here], ()) == (gone, here)


def test_an_index_is_looked_through_once(indices, store):
    kept = Store(store)
    here = locked("awk", data=b"awk")
    for _ in range(2):
        assert solver.no_longer_offered(kept, [here], indices) == ()
        assert "mawk" in solver.package_names(kept, indices)
        for found in indices:
            found.path.write_bytes(b"")  # whoever reads it again finds nothing
    changed = [replace(found, sha256=sha("changed")) for found in indices]
    assert solver.no_longer_offered(kept, [here], changed) == (here,)


def test_a_hash_that_is_none_is_passed_over(tmp_path, store):
    (tmp_path / "odd").write_bytes(b"Package: a\nSHA256: 12\n\nPackage: b\nSHA256: " + sha("b").encode() + b"\n\n")
    odd, here = index(tmp_path / "odd", "x"), locked("b", data=b"b")
    assert solver.no_longer_offered(Store(store), [here], [odd]) == ()


STATUS = [
    {"Package": "a", "Status": "install ok installed", "Architecture": "amd64", "Version": "1"},
    {"Package": "b", "Status": "install ok installed", "Architecture": "amd64", "Version": "1"},
    {"Package": "b", "Status": "install ok installed", "Architecture": "i386", "Version": "1"},
    {"Package": "c", "Status": "install ok installed", "Architecture": "all", "Version": "1"},
    {"Package": "d", "Status": "install ok installed", "Architecture": "amd64", "Version": "1"},
]


@pytest.mark.tool("dpkg-deb")
def test_the_status_that_a_lower_layer_leaves(tmp_path):
    debs = [
        make_deb(tmp_path, "b", version="2"),
        make_deb(tmp_path, "c", version="2"),
        make_deb(tmp_path, "e", version="1", architecture="all", control={"Depends": "a"}),
    ]
    extended = solver.extended_status(b"".join(map(write, STATUS)), ["d"], debs)
    found = [fields(item) for item in stanzas(extended)]
    assert [(item["Package"], item["Architecture"], item["Version"]) for item in found] == [
        ("a", "amd64", "1"),
        ("b", "i386", "1"),
        ("b", "amd64", "2"),
        ("c", "amd64", "2"),
        ("e", "all", "1"),
    ]
    assert {item["Status"] for item in found} == {"install ok installed"}
    assert found[-1]["Depends"] == "a"


def test_only_one_architecture_of_a_package_is_removed():
    extended = solver.extended_status(b"".join(map(write, STATUS)), ["b:i386"], [])
    left = [(item["Package"], item["Architecture"]) for item in map(fields, stanzas(extended))]
    assert ("b", "amd64") in left
    assert ("b", "i386") not in left


@pytest.mark.tool("dpkg-deb")
def test_virtual_names_and_who_stands_for_them(tmp_path):
    debs = [make_deb(tmp_path, "mawk", control={"Provides": "awk, b"})]
    found = solver.names_and_provided(b"".join(map(write, STATUS)), debs)
    assert found["awk"] == "mawk"
    assert found["b"] == "b"
    assert "gawk" not in found


@pytest.mark.tool("dpkg-deb")
def test_old_packages_become_an_index_of_their_own(tmp_path, store):
    kept = Store(store)
    path = make_deb(tmp_path, "tiny", architecture="all", control={"Depends": "libc6"})
    data = path.read_bytes()
    kept.add_blob(data)
    item = locked("tiny", data=data)
    (found,) = stanzas(solver.old_packages(kept, [item]))
    wanted = stanza(path, item.sha256)
    assert fields(found) == wanted
