"""A stranger's backend that fails, answers nonsense, takes for ever or builds wrong layers is told by its plugin's name."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from reprobox.backend import Availability, BuildResult, Realization
from reprobox.digest import read_index, write_index
from reprobox.errors import BackendError, IntegrityError
from reprobox.guarded import Guarded, bounded_probe
from reprobox.image import layer_digest
from reprobox.testing import EPOCH, Bench

HINT = "tell its authors, or use another backend; `reprobox plugins` says who they are"


def backend(**methods) -> SimpleNamespace:
    return SimpleNamespace(name="odd", needs_image=False, **methods)


def raises(error: BaseException):
    def call(*_: object):
        raise error

    return call


@pytest.mark.parametrize(
    ("probe", "reason"),
    [
        (lambda: 1 // 0, "the plugin 'p' failed: ZeroDivisionError: integer division or modulo by zero (test_guarded.py, line "),
        (lambda: sys.exit(3), "the plugin 'p' failed: SystemExit: 3 (test_guarded.py, line "),
        (lambda: True, "the plugin 'p' is broken: its probe answered bool and not Availability"),
        (lambda: time.sleep(1), "the plugin 'p' does not answer: its probe took more than 0.1 seconds"),
    ],
)  # fmt: skip
def test_a_probe_that_fails_says_why(probe, reason):
    found = bounded_probe(backend(probe=probe), "the plugin 'p'", seconds=0.1)
    assert not found.ok
    assert found.reason.startswith(reason)
    assert found.hint == HINT


def test_a_probe_may_say_what_it_means_with_an_error_of_ours():
    found = bounded_probe(backend(probe=raises(BackendError("it is not running", hint="start it"))), "p")
    assert (found.reason, found.hint) == ("it is not running", "start it")
    assert bounded_probe(backend(probe=lambda: Availability(ok=True)), "p").ok


def test_an_exception_is_told_with_the_plugin_and_the_place():
    with pytest.raises(BackendError) as caught:
        Guarded(backend(realize=raises(KeyError("image"))), "p").realize(None)
    assert caught.value.message.startswith("the plugin 'p' failed: KeyError: 'image' (test_guarded.py, line ")
    assert caught.value.hint == HINT
    with pytest.raises(BackendError, match="the plugin 'p' failed: SystemExit: 1"):
        Guarded(backend(run=lambda _: sys.exit(1)), "p").run(None)


@pytest.mark.parametrize("error", [BackendError("no daemon"), FileNotFoundError(2, "x"), KeyboardInterrupt()])
def test_what_is_no_mistake_of_the_plugin_passes(error):
    with pytest.raises(type(error)) as caught:
        Guarded(backend(run=raises(error)), "p").run(None)
    assert caught.value is error


def test_an_answer_of_another_type_is_told():
    with pytest.raises(BackendError) as caught:
        Guarded(backend(realize=lambda _: "here"), "p").realize(None)
    assert caught.value.message == "the plugin 'p' is broken: its backend 'odd' answered str and not Realization"
    assert Guarded(backend(realize=lambda _: Realization(location="x")), "p").realize(None).location == "x"


def test_other_abilities_of_a_backend_stay_and_staging_is_guarded_too():
    inner = backend(at=lambda scratch: backend(place=scratch, run=raises(ValueError("x"))), reenter=lambda: "back")
    guarded = Guarded(inner, "p")
    assert guarded.reenter() == "back"
    assert guarded.at(Path("/scratch")).place == Path("/scratch")
    with pytest.raises(BackendError):
        guarded.at(Path("/scratch")).run(None)
    assert not hasattr(guarded, "discard")
    assert Guarded(backend(), "p").at(Path("/scratch")).name == "odd"


# -- layers ------------------------------------------------------------------------------------------------------------


def written(request, fill=lambda _: None, change=lambda index: index, told=None) -> BuildResult:
    """A layer with one file, which ``fill`` then changes behind the index's back; ``change`` edits the index."""
    tree = request.output / "tree"
    tree.mkdir()
    (tree / "file").write_text("x")
    (tree / "file").chmod(0o644)
    os.utime(tree / "file", (EPOCH, EPOCH))
    from reprobox.tree import scan

    index = request.output / "index"
    index.write_bytes(write_index(scan(tree)))
    digest, size = layer_digest(tree, index, EPOCH)
    fill(tree)
    index.write_bytes(change(index.read_bytes()))
    return told or BuildResult(diff_id=digest, size=size)


def hides(tree: Path) -> None:
    (tree / "proc/1").mkdir(parents=True)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"fill": lambda tree: (tree / "file").write_text("y")}, "its index says f 0644 2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 of /file, and its tree has f 0644 a1fce4"),
        ({"fill": lambda tree: (tree / "file").chmod(0o600)}, "its index says f 0644 2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 of /file, and its tree has f 0600 2d7116"),
        ({"fill": lambda tree: (tree / "file").unlink()}, "of /file, and its tree has nothing"),
        ({"fill": lambda tree: (tree / "more").write_text("")}, "/more is in its tree and not in its index"),
        ({"fill": hides, "change": lambda index: index + b"d 0755 - proc\nd 0755 - proc/1\n"}, "/proc/1 belongs to the running system"),
        ({"told": BuildResult(diff_id="0" * 64, size=1)}, f"it said sha256:{'0' * 64} and 1 bytes, and it is sha256:"),
        ({"change": lambda _: b"nonsense"}, "it cannot be read: "),
        ({"change": lambda _: b"l 0777 a b\n" + b"l 0777 a a\n"}, "its index is not in the order of paths"),
        ({"fill": lambda tree: os.utime(tree / "file", (5, 5))}, "and it is sha256:"),
    ],
)  # fmt: skip
def test_a_wrong_layer_is_refused(tmp_path, wrong, words):
    guarded = Guarded(backend(build=lambda request: written(request, **wrong)), "p")
    with pytest.raises(IntegrityError) as caught:
        guarded.build(Bench(guarded, tmp_path).request(("true",)))
    assert caught.value.message.startswith("the plugin 'p' returned a wrong layer: ")
    assert words in caught.value.message
    assert caught.value.status == 5


def test_a_right_layer_passes(tmp_path):
    guarded = Guarded(backend(build=written), "p")
    bench = Bench(guarded, tmp_path)
    request = bench.request(("true",))
    assert guarded.build(request).size == 10240
    assert [entry.path for entry in read_index((request.output / "index").read_bytes())] == [b"file"]
    nothing = replace(bench.request(("true",)), output=tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        guarded.build(nothing)
