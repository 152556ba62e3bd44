"""Secrets reach the step that asks for them, and nothing else: whole stores, projects and exports are searched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.userns

VALUE = "correct-horse/battery+staple"
PRINTS = "cat /run/secrets/key; set -x; k=$(cat /run/secrets/key); echo $k; (cd /; exec -a $k sleep 0)"
LAYER = """\
[[layers]]
name = "closed"
kind = "run"
secrets = ["key"]
script = '''
bash -c '{script}'
'''

[secrets]
key = {{ {source} }}
"""


def asking(project, script: str, source: str = 'path = "key.txt"') -> None:
    project.add(LAYER.format(script=script, source=source))
    (project.root / "key.txt").write_text(f"{VALUE}\n")


def with_value(*folders: Path) -> list[str]:
    """Files below the folders that hold the value, as grep finds them, whatever their modes; but for the key's own."""
    done = subprocess.run(
        ["grep", "-rlaF", "-e", VALUE, *map(str, folders)], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.returncode < 2
    return [path for path in done.stdout.splitlines() if not path.endswith("/project/key.txt")]


def test_a_build_that_prints_its_secret_leaves_it_nowhere(fresh, store, tmp_path):
    asking(fresh, PRINTS)
    assert fresh("lock").status == 0
    made = fresh("realize", "--json")
    assert made.status == 0, made.err
    assert fresh("lock", "--seal").status == 0
    for kind in ("oci", "rootfs", "docker-archive"):
        assert fresh("export", "--format", kind, "--with-code", "-o", tmp_path / kind).status == 0
    ran = fresh.process("run", "--", "ls", "/run")
    (log,) = [path for path in (store / "logs").iterdir() if "***" in path.read_text()]
    assert log.read_text().count("***") >= 3
    assert "secrets" not in ran.out
    assert VALUE not in made.out + made.err + ran.out + ran.err
    assert with_value(store, fresh.root, *(tmp_path / kind for kind in ("oci", "rootfs", "docker-archive"))) == []
    assert not list((tmp_path / "rootfs").rglob("key.txt"))


def test_a_build_that_fails_leaves_it_nowhere(fresh, store):
    script = f"{PRINTS}; mkdir -p /opt; echo kept >/opt/kept; cp /run/secrets/key /opt/mine; cat /run/secrets/key >&2; exit 5"
    asking(fresh, script)
    assert fresh("lock").status == 0
    failed = fresh("realize", "--json")
    assert failed.status == 1
    assert "***" in failed.err
    assert "what it left was kept without /opt/mine, which held a secret" in failed.err
    assert VALUE not in failed.out + failed.err
    assert with_value(store, fresh.root) == []
    command = [sys.executable, "-m", "reprobox.cli", "shell", "--failed", "closed"]
    words = "cat /opt/kept; ls /opt /run"
    seen = subprocess.run(command, cwd=fresh.root, input=words, capture_output=True, text=True, check=False)
    assert seen.stdout.split() == ["kept", "/opt:", "deep", "kept", "/run:"]


def test_a_step_that_keeps_its_secret_is_refused(fresh, store):
    asking(fresh, 'mkdir -p /etc/app; cat /run/secrets/key >/etc/app/token; echo {\\"a\\":1} >/etc/app/settings')
    assert fresh("lock").status == 0
    told = fresh("realize")
    assert told.status == 1
    assert told.err.splitlines()[-2:] == [
        "error: layer 'closed': the step wrote a secret into the layer: /etc/app/token holds 'key'",
        "  hint: layers are kept and handed on: let the script read /run/secrets where it needs it, and remove what it wrote",
    ]
    assert with_value(store, fresh.root) == []


@pytest.mark.parametrize(
    ("source", "said", "fix"),
    [
        (
            'path = "nowhere.txt"',
            "secrets.key.path: nowhere.txt: No such file or directory, and layer 'closed' needs it to be built",
            "put the secret into {root}/nowhere.txt, or name another place with `path` or `env`",
        ),
        (
            'path = "data"',
            "secrets.key.path: data: Is a directory, and layer 'closed' needs it to be built",
            "put the secret into {root}/data, or name another place with `path` or `env`",
        ),
        (
            'path = "blank.txt"',
            "secrets.key.path: blank.txt is empty, and layer 'closed' needs it to be built",
            "put the secret into {root}/blank.txt",
        ),
        (
            'path = "large.txt"',
            "secrets.key.path: large.txt is larger than 64 KiB",
            "a secret is a key or a word; larger things are inputs",
        ),
        (
            'env = "REPROBOX_TEST_KEY"',
            "secrets.key.env: the variable REPROBOX_TEST_KEY is not set, and layer 'closed' needs it to be built",
            "set it for this command: REPROBOX_TEST_KEY=… reprobox …",
        ),
    ],
)
def test_a_missing_secret_is_told_before_anything_is_built(fresh, store, source, said, fix):
    asking(fresh, "true", source)
    (fresh.root / "blank.txt").write_text("\n")
    (fresh.root / "large.txt").write_text("x" * 70_000)
    assert fresh("lock").status == 0
    told = fresh("realize")
    assert told.status == 2
    message, hint = told.err.splitlines()[-2:]
    assert message.endswith(said)
    assert message.startswith(f"error: {fresh.manifest}:")
    assert hint == f"  hint: {fix.format(root=fresh.root)}"
    assert not list((store / "layers").iterdir())


def test_a_secret_of_the_environment(fresh, store, monkeypatch):
    asking(fresh, "test $(cat /run/secrets/key) = word-of-mine; cat /proc/1/environ; env", 'env = "REPROBOX_TEST_KEY"')
    assert fresh("lock").status == 0
    identity = fresh("graph", "--json").json["layers"][-2]["id"]
    monkeypatch.setenv("REPROBOX_TEST_KEY", "word-of-mine")
    assert fresh("realize").status == 0
    assert "word-of-mine" not in "".join(path.read_text() for path in (store / "logs").iterdir())
    # Built is built: neither another value nor none is a reason to do anything.
    monkeypatch.setenv("REPROBOX_TEST_KEY", "another-word")
    assert fresh("lock", "--check").status == 0
    assert fresh("graph", "--json").json["layers"][-2]["id"] == identity
    monkeypatch.delenv("REPROBOX_TEST_KEY")
    assert fresh("realize").status == 0


def test_a_file_with_a_secret_is_no_code_and_cannot_be_copied(fresh, store):
    asking(fresh, "true", 'path = "conf/key.txt"')
    (fresh.root / "conf" / "key.txt").write_text(VALUE)
    assert fresh("lock").status == 0
    assert fresh("realize").status == 0
    assert fresh.process("run", "--", "ls", "/etc/small").out == "name\n"
    (fresh.root / "conf" / "key.txt").write_text("another value")
    assert fresh("lock", "--check").status == 0
    fresh.edit('from = "conf/"', 'from = "conf/key.txt"')
    told = fresh("lock")
    assert told.status == 2
    assert "layers[0].files[0].from: conf/key.txt: it holds a secret, and no layer may" in told.err
    assert "give it to the step that needs it, with `secrets` in a `run` layer" in told.err


def test_a_layer_may_name_declared_secrets_alone(fresh):
    fresh.add(
        '[[layers]]\nname = "closed"\nkind = "run"\nsecrets = ["kee"]\nscript = "true"\n[secrets]\nkey = { env = "K" }'
    )
    told = fresh("lock")
    assert told.status == 2
    assert 'layers[2].secrets[0]: there is no secret "kee"' in told.err
    assert "key" in told.err.splitlines()[-1]


def test_the_record_of_a_layer_names_the_secret_alone(fresh, store):
    asking(fresh, "true")
    assert fresh("lock").status == 0
    assert fresh("realize").status == 0
    records = [json.loads(path.read_text()) for path in store.glob("layers/*/layer.json")]
    (record,) = [record for record in records if record["name"] == "closed"]
    assert record["inputs"]["options"]["secrets"] == ["key"]
    assert os.stat(fresh.root / "key.txt").st_size
