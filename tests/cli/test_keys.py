"""``reprobox key``: one's own keys, and those of others that one trusts."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from reprobox.cli import main


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPROBOX_KEYS", str(tmp_path / "keys"))
    monkeypatch.delenv("REPROBOX_KEY_PASSPHRASE", raising=False)
    return tmp_path / "keys"


def test_a_key_is_made_shown_sent_and_trusted(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert main(["key", "new", "--name", "ada"]) == 0
    made = capsys.readouterr().out.splitlines()
    assert made[0] == f"made {keys}/ada.key: private, keep it and give it to nobody"
    identity = made[2].removeprefix("key id ")
    assert len(identity) == 64

    assert main(["key", "show"]) == 0
    shown = capsys.readouterr()
    assert shown.err == f"ada: key id {identity}\n"
    assert shown.out.startswith("-----BEGIN PUBLIC KEY-----\n")
    (tmp_path / "ada.pub").write_text(shown.out)

    monkeypatch.setenv("REPROBOX_KEYS", str(tmp_path / "of grace"))
    assert main(["key", "trust", str(tmp_path / "ada.pub")]) == 0
    assert capsys.readouterr().out.startswith(f"what ada signs is believed now; key id {identity}\n")
    assert main(["key", "list"]) == 0
    assert capsys.readouterr().out == f"trusted  ada              {identity[:16]}…\n"
    assert main(["key", "show", "ada", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == identity
    assert main(["key", "distrust", "ada"]) == 0
    capsys.readouterr()
    assert main(["key", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"own": [], "trusted": []}


def test_a_second_key_of_a_name_replaces_none(keys: Path, capsys: pytest.CaptureFixture[str]):
    main(["key", "new", "--name", "ada"])
    before = (keys / "ada.key").read_bytes()
    assert main(["key", "new", "--name", "ada"]) == 2
    assert f"{keys}/ada.key: there is such a key already" in capsys.readouterr().err
    assert (keys / "ada.key").read_bytes() == before


def test_the_private_half_is_not_trusted_by_mistake(keys: Path, capsys: pytest.CaptureFixture[str]):
    main(["key", "new", "--name", "ada"])
    assert main(["key", "trust", str(keys / "ada.key")]) == 2
    assert "it is a private key: nobody else may have it" in capsys.readouterr().err


def test_where_no_key_is_it_says_how_to_make_one(capsys: pytest.CaptureFixture[str]):
    assert main(["key", "show"]) == 2
    assert "you have no key\n  hint: make one with `reprobox key new`" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REPROBOX_KEYS", str(tmp_path / "file/keys"))
    assert main(["key", "new", "--name", "ada"]) == 1
    assert "keys cannot be written: Not a directory\n  hint: REPROBOX_KEYS names another" in capsys.readouterr().err


def test_the_passphrase_is_asked_for_on_a_terminal(keys: Path):
    """And is on no command line, where others could see it."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "reprobox.cli", "key", "new", "--name", "ada"]
    with subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, start_new_session=True, env=os.environ
    ) as child:
        os.close(theirs)
        for asked in ("empty: none", "once more"):
            seen = ""
            while asked not in seen:
                seen += os.read(ours, 1000).decode()
            os.write(ours, b"correct horse\n")
        child.communicate(timeout=60)
        assert child.returncode == 0
    os.close(ours)
    assert b"ENCRYPTED" in (keys / "ada.key").read_bytes()
