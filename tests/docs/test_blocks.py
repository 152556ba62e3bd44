"""Documentation that runs: every block of README and docs is parsed, and those marked ``run`` are run."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from reprobox import config, lock_text, manifest_reader
from reprobox.plugins import Plugins
from tests.docs.blocks import PAGES, ROOT, all_blocks, blocks

KNOWN = {"toml", "console", "python", "sh", "json", "text", "toctree", "literalinclude", "manifest-keys"}


@pytest.fixture(scope="module")
def kinds():
    return Plugins(discover=False).kinds


def test_every_block_has_a_language_that_a_test_knows():
    assert {block.language for page in PAGES for block in blocks(page)} <= KNOWN


@pytest.mark.parametrize("block", all_blocks("toml"), ids=str)
def test_toml_is_a_manifest_a_lock_or_settings(block, kinds, tmp_path):
    if "config" in block.words:
        file = tmp_path / "config.toml"
        file.write_text(block.text)
        assert config.load({"REPROBOX_CONFIG": str(file)}).path == file
        return
    if "lock" in block.words:
        assert lock_text.write(lock_text.read(block.text)).splitlines()[1:] == block.text.splitlines()
        return
    parsed = manifest_reader.parse(completed(block.text), kinds=kinds, file=str(block))
    assert not parsed.unavailable


def completed(text: str) -> str:
    """The text with what every manifest must have."""
    tables = tomllib.loads(text)
    for name, table in (("project", '[project]\nname = "x"\n'), ("base", '[base]\nbootstrap = "debian:bookworm"\n')):
        if name not in tables:
            text = f"{text}\n{table}"
    return text


def test_the_quickstart_is_a_manifest(kinds):
    parsed = manifest_reader.load(ROOT / "examples/quickstart/research.toml", kinds)
    assert not parsed.unavailable


@pytest.mark.parametrize("block", all_blocks("console", "sh"), ids=str)
def test_shell_is_sound(block):
    text = "\n".join(block.commands) if block.language == "console" else block.text
    assert text
    checked = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert checked.stderr == ""


def reprobox_commands():
    for block in all_blocks("console", "sh"):
        lines = block.commands if block.language == "console" else block.text.splitlines()
        for line in lines:
            words = shlex.split(line.partition(" > ")[0], comments=True)
            if words and words[0].rpartition("/")[2] == "reprobox":
                yield pytest.param(words[1:], id=f"{block}: {line}")


@pytest.mark.parametrize("argv", list(reprobox_commands()))
def test_commands_are_reproboxs(argv):
    from reprobox.cli.app import parser

    parser(argv[0]).parse_args(argv)


def make_targets():
    for block in all_blocks("console"):
        for line in block.commands:
            words = shlex.split(line, comments=True)
            if words[0] == "make":
                yield pytest.param([word for word in words[1:] if "=" not in word], id=f"{block}: {line}")


@pytest.mark.parametrize("targets", list(make_targets()))
def test_make_targets_are_there(targets):
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in targets)


@pytest.mark.parametrize("block", all_blocks("python"), ids=str)
def test_python_is_sound(block):
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", all_blocks("json"), ids=str)
def test_json_is_sound(block):
    json.loads(block.text)


def runnable():
    return [page for page in PAGES if any("run" in block.words for block in blocks(page))]


def script(page: Path) -> str:
    """All that a reader of the page would type and save, as one script."""
    parts = ["set -eux"]
    for block in blocks(page):
        if block.file:
            parts.append(f"cat > {shlex.quote(block.file)} <<'END OF THE BLOCK'\n{block.text}END OF THE BLOCK")
        elif "run" in block.words:
            parts += block.commands
    return "\n".join(parts)


@pytest.mark.userns
@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("page", runnable(), ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page, tmp_path, shared_store):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script(page)],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
