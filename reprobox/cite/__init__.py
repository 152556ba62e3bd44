"""How to cite an environment: a reference, a BibTeX entry, a paragraph for the methods section, a badge.

Values in, text out, and every name that comes from a manifest is escaped for the language it is put into. A date is
the manifest's or that of the lock's epoch, never today's.
"""

from reprobox.cite.badge import badge
from reprobox.cite.bibtex import bibtex, key
from reprobox.cite.citation import Citation, citation_of, standing
from reprobox.cite.words import FORMATS, paragraph, reference

__all__ = ["FORMATS", "Citation", "badge", "bibtex", "citation_of", "key", "paragraph", "reference", "standing"]
