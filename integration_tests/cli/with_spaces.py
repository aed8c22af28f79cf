"""Run `balenas` as if the spaces of the tests were in search_spaces/."""

import sys
from pathlib import Path

from balenas_plugin import search_spaces
from balenas_plugin.cli import main

search_spaces.__path__.append(str(Path(__file__).parents[1] / "spaces"))
sys.exit(main(sys.argv[1:]))
