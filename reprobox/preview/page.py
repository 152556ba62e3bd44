"""The document around the sections: what a browser may do with it, how it looks, and what machines read of it."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

from reprobox.preview import sections
from reprobox.preview.content import Page
from reprobox.preview.markup import Markup, join, tag


def page(shown: Page) -> bytes:
    """The page: one HTML document that asks for nothing from elsewhere."""
    script, style = _part("search.js"), _part("style.css")
    told = [section for section in sections.all_of(shown) if section is not None]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(script, style)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content="reprobox"),
        tag("meta", name="description", content=shown.description) if shown.description else None,
        tag("title", sections.heading(shown)),
        Markup(f"<style>{style}</style>"),
        _machine_readable(shown.metadata),
    )
    body = tag(
        "body",
        tag("a", "Skip to the content", class_="skip", href="#content"),
        sections.banner(shown),
        tag("div", sections.contents(told), tag("main", *(part.markup for part in told), id="content"), class_="frame"),
        sections.footer(shown),
        Markup(f"<script>{script}</script>"),
    )
    return join(Markup("<!doctype html>\n"), tag("html", head, body, lang="en"), Markup("\n")).encode()


def _policy(script: str, style: str) -> str:
    """Nothing is loaded, nothing is sent, and only the script and the style of this page count."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_source(script)}",
            f"style-src {_source(style)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _source(text: str) -> str:
    """A source expression of Content Security Policy Level 3 for an element with this content."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _part(name: str) -> str:
    return files("reprobox.preview").joinpath(name).read_text(encoding="utf-8")


def _machine_readable(metadata: str) -> Markup | None:
    """JSON-LD, which a parser of HTML must not take for anything else: no ``<`` is in it."""
    if not metadata:
        return None
    safe = metadata.strip().replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(f'<script type="application/ld+json">{safe}</script>')
