"""`python -m nca_fast` is `nca-fast`."""

import sys

from nca_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
