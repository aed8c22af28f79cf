"""Find the folder that the CIFAR sets are read from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from balenas_plugin.errors import DataError
from balenas_plugin.files import expanded

if TYPE_CHECKING:
    from balenas_plugin.data.config import DataConfig

ENVIRONMENT_VARIABLE = "BALENAS_DATA"


def data_folder(config: DataConfig) -> Path:
    """Return the folder of `config.root`, or else the one that the environment variable BALENAS_DATA names.

    Raises:
        DataError: neither is given.
        OptionError: it starts with the home directory of nobody.
    """
    folder = config.root or os.environ.get(ENVIRONMENT_VARIABLE)
    if not folder:
        raise DataError(
            f"data set {config.name!r} is read from a folder, and none is given: set the data option root, or the "
            f"environment variable {ENVIRONMENT_VARIABLE}"
        )
    return expanded(folder)
