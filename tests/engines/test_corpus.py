"""The solver against apt in a Docker container of the same base. The whole corpus is benchmarks/corpus.py's."""

from __future__ import annotations

import pytest

from benchmarks import corpus
from reprobox.lock_text import read

SETS = {
    "one": ("git",),
    "two": ("postfix", "mariadb-client"),
    "by a virtual name": ("libz-dev", "openssh-server"),
    "with its version": ("libhdf5-dev=1.10.8*",),
}


@pytest.mark.docker
@pytest.mark.network
@pytest.mark.userns
@pytest.mark.slow
def test_the_lock_is_what_apt_would_install(shared_store, tmp_path):
    place = corpus.Place(user="root", store=shared_store)
    (tmp_path / "projects").mkdir()
    answers = corpus.agree(tmp_path, place, SETS)
    for key, packages in SETS.items():
        with corpus.project(tmp_path, corpus.manifest("apt", {"subject": packages})) as path:
            place.reprobox(path, "lock")
            layers = read((path / "research.lock").read_text()).targets["default"].layers
        locked = next(layer for layer in layers if layer.name == "subject")
        assert locked.inputs
        found = {"debs": corpus.debs(locked), "removed": locked.options["removed"], "apt": answers[key]}
        assert corpus.disagreement(found) == "", key


def test_what_apt_says_is_understood():
    text = (
        "Inst libc6 [2.36-9] (2.36-10 Debian:12/stable [amd64]) []\n"
        "Inst jq (1.6-2.1+deb12u1 Debian:12/stable, Debian-Security:12/stable [amd64])\n"
        "Inst zlib1g:i386 (1:1.2.13 Debian:12/stable [i386])\n"
        "Remv exim4-base [4.96]\nConf jq (1.6 Debian:12/stable [amd64])\n"
    )
    assert corpus.simulated(text) == {
        "debs": [["jq", "1.6-2.1+deb12u1", "amd64"], ["libc6", "2.36-10", "amd64"], ["zlib1g", "1:1.2.13", "i386"]],
        "removed": ["exim4-base"],
    }
