"""`python -m qvid_utils`: see `workbook/cli`."""

import sys

from .workbook.cli import main

sys.exit(main())
