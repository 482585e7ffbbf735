"""`python -m plait`: the `plait` command."""

import sys

from .runtime.cli.main import main

sys.exit(main())
