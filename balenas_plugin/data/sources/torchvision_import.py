"""Import torchvision's data sets, or say why that failed."""

from __future__ import annotations

import importlib
from types import ModuleType

from balenas_plugin.errors import MissingDependencyError


def torchvision_datasets() -> ModuleType:
    """Return the module torchvision.datasets.

    Raises:
        MissingDependencyError: torchvision is absent, or its wheel was built for another torch: then the import ends
            in a RuntimeError ("operator torchvision::nms does not exist"), and a second try in an AttributeError.
    """
    try:
        return importlib.import_module("torchvision.datasets")
    except (ImportError, RuntimeError, AttributeError) as error:
        raise MissingDependencyError(
            f"torchvision cannot be imported ({error}). Install the pair that belongs together, from one index: "
            "pip install --force-reinstall torch torchvision"
        ) from error
