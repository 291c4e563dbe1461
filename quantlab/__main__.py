"""`python -m quantlab`: the same as the command `quantlab`."""

import sys

from quantlab.cli import main

sys.exit(main())
