"""The script that the launcher runs with the bundle's Python."""

import sys

from edgeembed.cli.main import main

sys.argv[0] = "edgeembed"  # the name in help and error messages
main()
