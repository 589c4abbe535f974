"""``python -m magrathea``: the command line."""

import sys

from magrathea.cli import main

if __name__ == "__main__":
    sys.exit(main())
