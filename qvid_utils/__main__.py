"""`python -m qvid_utils`: see `workbook/cli`."""

import sys

try:
    from .workbook.cli import main

    sys.exit(main())
except KeyboardInterrupt:  # before a command has begun
    sys.exit(130)
