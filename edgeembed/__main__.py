"""`python -m edgeembed` is `edgeembed`."""

from edgeembed.cli.main import main

main()
