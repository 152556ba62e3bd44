"""Says what was computed when the environment was made."""

from pathlib import Path

import six

print("six", six.__version__, "and the sum is", Path("/opt/sum.txt").read_text().strip())
