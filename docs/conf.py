"""Sphinx configuration. Built with warnings as errors: ``make docs``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from reprobox import __version__

project = "reprobox"
author = "The reprobox developers"
project_copyright = "The reprobox developers"
release = version = __version__

extensions = ["myst_parser", "manifest_keys"]
exclude_patterns = ["_build", "_ext"]
nitpicky = True

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"reprobox {release}"
html_show_copyright = False
