"""Import and open torchvision's data sets, or say why that failed."""

from __future__ import annotations

import importlib
from http.client import HTTPException
from types import ModuleType
from typing import Any

from balenas_plugin.data.sources.location import data_folder
from balenas_plugin.errors import DataError, MissingDependencyError


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


def open_dataset(torchvision_name: str, *, root: str | None, download: bool, **part: Any) -> Any:
    """Return a data set of torchvision, which checks its files' MD5 sums before it reads them.

    Args:
        torchvision_name: its class.
        root: folder of the files, or None for that of the environment variable BALENAS_DATA.
        download: whether to fetch them.
        part: says in torchvision's words whether it is the training or the test images.

    Raises:
        DataError: no folder is given, the files are absent or corrupt, or the download failed.
        MissingDependencyError: torchvision cannot be imported.
    """
    name = torchvision_name.lower()
    folder = data_folder(root, name=name)
    dataset_class = getattr(torchvision_datasets(), torchvision_name)
    try:
        return dataset_class(root=folder, download=download, **part)
    except (RuntimeError, OSError, HTTPException) as error:  # RuntimeError: absent or corrupt; the others: a download
        cure = (
            "Check the connection and the permissions of the folder, or put the files there yourself"
            if download
            else "Set `download: true` to fetch it, or set root to the folder that holds it"
        )
        raise DataError(f"data set {name!r} cannot be read from {folder}: {error}. {cure}.") from error
