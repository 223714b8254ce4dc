"""``python -m cdc``."""

from cdc.cli.main import main

main()
