"""Text of strangers in LaTeX, BibTeX and Markdown: nothing of it is a command, a link or markup."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\textbraceleft{}",
    "}": r"\textbraceright{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    **{char: f"\\{char}" for char in "&%$#_"},
}


def one_line(text: str) -> str:
    """Without line ends and control characters, which no place in a text needs."""
    plain = "".join(
        " " if unicodedata.category(char)[0] in "CZ" and char not in "\u200c\u200d" else char for char in text
    )
    return " ".join(plain.split())


def latex(text: str) -> str:
    """Text for LaTeX: nothing in it is a command, and braces are balanced for BibTeX."""
    return "".join(_LATEX.get(char, char) for char in one_line(text))


def markdown(text: str) -> str:
    """Text for CommonMark and GitHub's dialect: nothing in it is markup, HTML or a link."""
    plain = re.sub(r"([\\`*_{}\[\]<#|~&$@])", r"\\\1", one_line(text))
    plain = re.sub(r"(?i)(www)\.", r"\1\\.", plain.replace("://", "\\://"))
    return re.sub(r"^([-+=>]|\d+(?=[.)]))", _escaped_start, plain)


def _escaped_start(found: re.Match[str]) -> str:
    """What begins a list or underlines a heading at the beginning of a line."""
    return f"\\{found[0]}" if not found[0].isdecimal() else f"{found[0]}\\"


def web_address(url: str) -> str:
    """An address with nothing in it that a text could take for its own."""
    return quote(one_line(url), safe="%/:.-_~()!$'*+,;=@?#&[]")


def latex_url(url: str) -> str:
    r"""An address in ``\url``, which takes all but braces and backslashes as it is."""
    return f"\\url{{{web_address(url)}}}" if url else ""


def code_span(text: str) -> str:
    """A code span of CommonMark: its fence is longer than any in it."""
    plain = one_line(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    return f"{fence} {plain} {fence}" if "`" in plain else f"{fence}{plain}{fence}"
