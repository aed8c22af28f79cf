"""Find the folder that data sets are read from."""

from __future__ import annotations

import os
from pathlib import Path

from balenas_plugin.errors import DataError
from balenas_plugin.files import expanded

ENVIRONMENT_VARIABLE = "BALENAS_DATA"


def data_folder(root: str | None, *, name: str) -> Path:
    """Return the folder `root` of a data set, or else the one that the environment variable BALENAS_DATA names.

    Raises:
        DataError: neither is given.
        OptionError: it starts with the home directory of nobody.
    """
    folder = root or os.environ.get(ENVIRONMENT_VARIABLE)
    if not folder:
        raise DataError(
            f"data set {name!r} is read from a folder, and none is given: set data.root, or the "
            f"environment variable {ENVIRONMENT_VARIABLE}"
        )
    return expanded(folder)
