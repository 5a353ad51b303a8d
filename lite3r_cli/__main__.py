"""`python -m lite3r_cli` is `lite3r`."""

import sys

from .entry import main

sys.exit(main())
