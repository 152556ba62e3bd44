"""Layers of kind ``fetch``, from a web server on loopback to a realized environment."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Project, Told
from tests.images import entry, folder, hard, link, tar
from tests.servers import Server, redirect

TOOL = tar(
    folder("tool-1.0"),
    entry("tool-1.0/bin/run", b"#!/bin/sh\necho ran\n", mode=0o4775),
    entry("tool-1.0/data", b"1 2 3\n", mode=0o600),
    link("tool-1.0/latest", "bin/run"),
    hard("tool-1.0/again", "tool-1.0/data"),
)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(files={"/tool.tar": TOOL, "/weights.bin": b"weights"}) as running:
        yield running


@pytest.fixture
def other_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it to be somebody whose store is empty."""

    def change() -> None:
        monkeypatch.setenv("REPROBOX_STORE", str(tmp_path / os.urandom(4).hex()))

    return change


def fetching(project: Project, *files: str, name: str = "model", more: str = "") -> None:
    project.add(f'[[layers]]\nname = "{name}"\nkind = "fetch"\nfiles = [{", ".join(files)}]\n{more}')


def layer(project: Project, name: str = "model") -> dict[str, Any]:
    layers = tomllib.loads(project.lock.read_text())["targets"]["default"]["layers"]
    return next(item for item in layers if item["name"] == name)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def realized(project: Project, *, output: str = "out-tree") -> Path:
    done = project("realize", "--output", output)
    assert done.status == 0, done.err
    return project.root / output


def test_files_and_archives_from_lock_to_tree(fresh: Project, server: Server, other_store):
    fetching(
        fresh,
        f'{{ url = "{server.url("/")}tool.tar", to = "/opt/tool", unpack = true, strip = 1 }}',
        f'{{ url = "{server.url("/")}weights.bin", to = "/opt/weights/" }}',
        f'{{ url = "{server.url("/")}weights.bin", to = "/usr/local/bin/weigh", executable = true }}',
    )
    assert fresh("lock").status == 0
    assert sorted(server.paths()) == ["/tool.tar", "/weights.bin"]
    locked = layer(fresh)
    assert [(item["name"], item["sha256"], item["size"]) for item in locked["inputs"]] == [
        ("tool.tar", sha(TOOL), len(TOOL)),
        ("weights.bin", sha(b"weights"), 7),
    ]
    assert locked["options"]["files"] == [
        {"file": "tool.tar", "to": "/opt/tool", "unpack": True, "strip": 1},
        {"file": "weights.bin", "to": "/opt/weights/"},
        {"file": "weights.bin", "to": "/usr/local/bin/weigh", "executable": True},
    ]
    assert server.url("") not in fresh.lock.read_text()
    assert "127.0.0.1" not in fresh.lock.read_text()
    root = realized(fresh)
    assert (root / "opt/tool/bin/run").read_bytes() == b"#!/bin/sh\necho ran\n"
    modes = {path: (root / path).stat().st_mode & 0o7777 for path in ("opt/tool/bin/run", "opt/tool/data", "opt/tool")}
    assert modes == {"opt/tool/bin/run": 0o755, "opt/tool/data": 0o644, "opt/tool": 0o755}
    assert os.readlink(root / "opt/tool/latest") == "bin/run"
    assert (root / "opt/tool/again").read_bytes() == b"1 2 3\n"
    assert (root / "opt/weights/weights.bin").stat().st_mode & 0o7777 == 0o644
    assert (root / "usr/local/bin/weigh").stat().st_mode & 0o7777 == 0o755
    first = fresh("realize", "--json").json["layers"]
    other_store()
    assert [item["diff_id"] for item in fresh("realize", "--json").json["layers"]] == [
        item["diff_id"] for item in first
    ]


def test_a_pin_stays_until_it_is_upgraded(fresh: Project, server: Server, other_store):
    fetching(fresh, f'{{ url = "{server.url("/")}weights.bin", to = "/w" }}')
    assert fresh("lock").status == 0
    before = fresh.lock.read_bytes()
    server.files["/weights.bin"] = b"others"
    other_store()
    assert fresh("lock").status == 0
    assert fresh.lock.read_bytes() == before
    fresh.edit('to = "/w"', 'to = "/v"')
    assert fresh("lock").status == 0
    assert layer(fresh)["inputs"][0]["sha256"] == sha(b"weights"), "another place is no other file"
    assert fresh("lock", "--upgrade-package", "weights.bin").status == 0
    assert layer(fresh)["inputs"][0]["sha256"] == sha(b"others")
    server.files["/weights.bin"] = b"newest"
    assert fresh("lock", "--upgrade").status == 0
    assert layer(fresh)["inputs"][0]["sha256"] == sha(b"newest")


def test_a_hash_in_the_manifest_that_the_bytes_do_not_have(fresh: Project, server: Server):
    fetching(fresh, f'{{ url = "{server.url("/")}weights.bin", to = "/w", sha256 = "{sha(b"wanted")}" }}')
    before = fresh.lock.read_bytes()
    told = fresh("lock")
    assert told.status == 5
    assert told.err.endswith(
        f"""\
error: {fresh.manifest}:25: layers[2].files[0].sha256: {server.url("/")}weights.bin has other bytes than the manifest says
  manifest: sha256 {sha(b"wanted")}
  found:    sha256 {sha(b"weights")}, 7 bytes
  hint: find out which of them its publisher means before you write another hash
"""
    )
    assert fresh.lock.read_bytes() == before
    fresh.edit(sha(b"wanted"), sha(b"weights"))
    assert fresh("lock").status == 0
    server.seen.clear()
    assert fresh("lock", "--upgrade").status == 0
    assert not server.seen, "what the manifest says is in the store already"


@pytest.mark.parametrize("now", [b"weighty", b"others"], ids=["same size", "other size"])
def test_a_file_that_changed_upstream(now, fresh: Project, server: Server, other_store):
    fetching(fresh, f'{{ url = "{server.url("/")}weights.bin", to = "/w" }}')
    assert fresh("lock").status == 0
    server.files["/weights.bin"] = now
    other_store()
    told = fresh("realize")
    assert told.status == 5
    size = "" if len(now) == 7 else f", their size {len(now)}"
    assert told.err.endswith(
        f"""\
error: 1 input could only be had with other bytes than those that are locked
  weights.bin (sha256 {sha(b"weights")}, 7 bytes)
    {server.url("/")}weights.bin: it has other bytes: their sha256 is {sha(now)}{size}
  hint: the file changed where it comes from, or was tampered with: bring the old one into the store or to that URL, \
or take the new one with `reprobox lock --upgrade`
"""
    )


def test_offline_and_servers_that_do_not_answer(fresh: Project, server: Server, other_store):
    fetching(fresh, f'{{ url = "{server.url("/")}weights.bin", to = "/w" }}')
    told = fresh("lock", "--offline")
    server.files["/later"] = server.files.pop("/weights.bin")
    missing = fresh("lock")
    assert (missing.status, missing.err.splitlines()[-2:]) == (
        1,
        [f"error: {server.url('/weights.bin')}: it answered 404 Not Found", "  hint: check the URL in the manifest"],
    )
    server.files["/weights.bin"] = server.files.pop("/later")
    assert (told.status, f"{server.url('/')}weights.bin: the network may not be used" in told.err) == (6, True)
    assert fresh("lock").status == 0
    other_store()
    told = fresh("realize", "--offline")
    assert (told.status, "weights.bin" in told.err) == (6, True)
    del server.files["/weights.bin"]
    told = fresh("realize")
    assert told.status == 1
    assert f"{server.url('/')}weights.bin: it answered 404 Not Found" in told.err


def test_a_password_in_a_url_is_never_shown_or_locked(fresh: Project, server: Server):
    url = server.url("").replace("://", "://me:hunter2@")
    fetching(fresh, f'{{ url = "{url}/weights.bin", to = "/w", sha256 = "{sha(b"wanted")}" }}')
    told = fresh("lock")
    assert (told.status, "hunter2" in told.err) == (5, False)
    fresh.edit(sha(b"wanted"), sha(b"weights"))
    assert fresh("lock").status == 0
    assert server.seen[0].headers["Authorization"].startswith("Basic ")
    store = Path(os.environ["REPROBOX_STORE"])
    texts = [path.read_bytes() for path in (fresh.lock, *store.rglob("*")) if path.is_file()]
    assert not [text for text in texts if b"hunter2" in text]


def test_two_files_of_one_name(fresh: Project, server: Server):
    server.files |= {"/a/data": b"1", "/b/data?version=3": b"2"}
    fetching(
        fresh,
        f'{{ url = "{server.url("/")}a/data", to = "/one/" }}',
        f'{{ url = "{server.url("/")}b/data?version=3#x", to = "/two/" }}',
    )
    assert fresh("lock").status == 0
    assert [item["name"] for item in layer(fresh)["inputs"]] == ["data", "2-data"]
    root = realized(fresh)
    assert ((root / "one/data").read_text(), (root / "two/data").read_text()) == ("1", "2")


def test_a_file_of_this_machine_and_a_redirect(fresh: Project, server: Server, tmp_path: Path):
    (tmp_path / "some file").write_bytes(b"here")
    server.always["/latest"] = redirect("/weights.bin")
    fetching(
        fresh,
        f'{{ url = "{(tmp_path / "some file").as_uri()}", to = "/opt/" }}',
        f'{{ url = "{server.url("/")}latest", to = "/opt/" }}',
    )
    assert fresh("lock").status == 0
    root = realized(fresh)
    assert (root / "opt/some file").read_bytes() == b"here"
    assert (root / "opt/latest").read_bytes() == b"weights"


# -- what is refused ---------------------------------------------------------------------------------------------------


def problem(told: Told) -> str:
    assert told.status == 2, told.err
    return told.err.partition("research.toml:")[2].strip()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (
            '{ url = "htps://h/x", to = "/x" }',
            '25: layers[2].files[0].url: "htps" is no way to fetch a file\n  hint: did you mean "https"?',
        ),
        (
            '{ url = "data/x.tar", to = "/x" }',
            (
                '25: layers[2].files[0].url: expected a URL, found "data/x.tar"\n'
                '  hint: begin it with https://; files of the project are put in place by a layer of kind "copy"'
            ),
        ),
        (
            '{ url = "https:///x", to = "/x" }',
            (
                '25: layers[2].files[0].url: expected a URL, found "https:///x"\n'
                "  hint: write https://host/path or file:///path"
            ),
        ),
        (
            '{ url = "https://h/x", to = "/x", sha = "1" }',
            '25: layers[2].files[0].sha: unknown key\n  hint: did you mean "sha256"?',
        ),
        (
            '{ url = "https://h/x", to = "/x", unpack = true, executable = true }',
            "25: layers[2].files[0]: unpack and executable cannot go together\n  hint: keep one of them",
        ),
        (
            '{ url = "https://h/x", to = "/x", strip = 1 }',
            "25: layers[2].files[0]: `strip` needs `unpack`\n  hint: add `unpack`",
        ),
        (
            '{ url = "https://h/x", to = "/x", unpack = true, strip = -1 }',
            "25: layers[2].files[0].strip: -1 is no number of folders\n  hint: 0 leaves every name as it is",
        ),
        (
            '{ url = "https://h/x", to = "/tmp/x" }',
            (
                '25: layers[2].files[0].to: nothing at "/tmp/x" is part of an environment: it is made anew for every run\n'
                "  hint: choose another place, such as /opt or /usr/local"
            ),
        ),
        (
            '{ url = "https://h/", to = "/opt/" }',
            (
                "25: layers[2].files[0].to: the URL does not end in a file name\n"
                '  hint: write the name that it shall have: to = "/opt/name"'
            ),
        ),
    ],
)
def test_keys_that_are_wrong(file, said, fresh: Project):
    fetching(fresh, file)
    assert problem(fresh("lock")) == said


@pytest.mark.parametrize(
    ("data", "key", "said"),
    [
        (tar(entry("../evil", b"")), "unpack", "'../evil' leads out of the folder that it is unpacked into"),
        (tar(link("a", "/etc")), "unpack", "'a' is a link to '/etc', out of the folder that it is unpacked into"),
        (b"no archive", "unpack", "it is neither a tar nor a zip archive (the archive is cut off)"),
        (tar(entry("a", b"")), "strip", "strip = 1 leaves nothing of it"),
    ],
)
def test_archives_that_are_refused_when_they_are_locked(data, key, said, fresh: Project, server: Server):
    server.files["/evil.tar"] = data
    strip = ", strip = 1" if key == "strip" else ""
    fetching(fresh, f'{{ url = "{server.url("/")}evil.tar", to = "/opt/x", unpack = true{strip} }}')
    assert problem(fresh("lock")) == (
        f"25: layers[2].files[0].{key}: evil.tar cannot be unpacked: {said}\n"
        "  hint: leave `unpack` out to have the file itself, or fetch another archive"
    )


def test_a_file_in_the_way_of_another_layer(fresh: Project, server: Server):
    fetching(fresh, f'{{ url = "{server.url("/")}weights.bin", to = "/opt/a" }}', name="one")
    fetching(fresh, f'{{ url = "{server.url("/")}tool.tar", to = "/opt/a/b", unpack = true }}', name="two")
    told = fresh("lock")
    assert told.status == 2
    assert "layers 'one' and 'two' both write at /opt/a/b, and neither stands on the other" in told.err
    assert "hint: say which comes first: add `after = [\"one\"]` to layer 'two'" in told.err
    fresh.edit("unpack = true }]", 'unpack = true }]\nafter = ["one"]')
    assert fresh("lock").status == 0
    told = fresh("realize")
    assert (told.status, "/opt/a/b cannot be written: /opt/a: a file is in the way" in told.err) == (1, True)
    assert "hint: choose another `to`" in told.err


def test_a_disk_that_cannot_hold_all_inputs_is_told_of_before_any_is_fetched(
    fresh: Project, server: Server, tmp_path: Path
):
    for name in "ab":
        server.files[f"/{name}"] = name.encode() * 700_000
        fetching(fresh, f'{{ url = "{server.url("/")}{name}", to = "/opt/{name}" }}', name=name)
    assert fresh("lock").status == 0
    server.seen.clear()
    disk = tmp_path / "disk"
    disk.mkdir()
    script = 'mount -t tmpfs -o size=1m none "$0" && exec "$@"'
    argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, disk]
    done = subprocess.run(
        [*argv, sys.executable, "-m", "reprobox.cli", "realize", "-q"],
        cwd=fresh.root,
        env={**os.environ, "REPROBOX_STORE": str(disk / "store")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {disk}/store: 1.4 MB have to be downloaded (1400000 bytes), and ")
    assert "`reprobox cache gc` removes what no environment needs" in done.stderr
    assert server.seen == []
