"""``ro-crate-preview.html``: one self-contained page about a published environment, for people with a browser alone."""

from reprobox.preview.content import Page
from reprobox.preview.facts import Known, page_of
from reprobox.preview.page import page

__all__ = ["Known", "Page", "page", "page_of"]
