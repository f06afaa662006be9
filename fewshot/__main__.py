"""``python -m fewshot``: the command where no script folder is on the path."""

import sys

from fewshot.cli import main

sys.exit(main())
