"""The code blocks of README, docs and examples. The words after the language say what a test does with a block:

- ``toml``: a manifest, or a part of one; ``toml lock``: a whole lock; ``toml config``: a user's settings
- ``console``: commands after ``$``; reprobox's are parsed, all are checked as shell; ``console run``: they are run, in order
- ``python``, ``sh``, ``json``: must be sound
- ``file=NAME``: the block is the content of that file, which later ``run`` blocks of the page find
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [ROOT / "README.md", *ROOT.glob("examples/*/README.md"), *ROOT.glob("docs/[!_]*/**/*.md"), ROOT / "docs/index.md"]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One fenced block: its page, its first line there, its language, the other words, and its text."""

    page: Path
    line: int
    language: str
    words: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file(self) -> str | None:
        return next((word.removeprefix("file=") for word in self.words if word.startswith("file=")), None)

    @property
    def commands(self) -> list[str]:
        """What is typed after ``$``; a command may go on in lines after a backslash."""
        joined = self.text.replace("\\\n", " ")
        return [line[2:].strip() for line in joined.splitlines() if line.startswith("$ ")]


def blocks(page: Path) -> Iterator[Block]:
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "fence" and (words := re.sub(r"[{}]", "", token.info).split()):
            line = token.map[0] + 1 if token.map else 0
            yield Block(page=page, line=line, language=words[0], words=tuple(words[1:]), text=token.content)


def all_blocks(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language in languages]
