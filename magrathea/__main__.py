"""``python -m magrathea``: the command line."""

import sys

from magrathea.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
