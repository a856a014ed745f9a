"""`python -m qvid_utils.workbook.benchmarks`: see `fetch`."""

import sys

from .fetch import main

if __name__ == "__main__":
    sys.exit(main())
