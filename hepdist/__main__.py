"""`python -m hepdist`, which is how a submitted job calls the command line."""

import sys

from hepdist.cli import main

if __name__ == "__main__":
    sys.exit(main())
