"""`python -m balenas_plugin.cli`."""

from __future__ import annotations

import sys

from balenas_plugin.cli import main

sys.exit(main())
