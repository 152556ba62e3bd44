"""``python -m reprobox.cli``"""

import sys

from reprobox.cli import main

sys.exit(main())
