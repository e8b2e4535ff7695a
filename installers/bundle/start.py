"""What the launcher hands to the bundle's Python."""

import sys

from edgeembed.cli.main import main

sys.argv[0] = "edgeembed"  # the name that help and errors show
main()
