"""The data sets by name; a new one is a function in a file of its own and a line here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from balenas_plugin.data.images import ImageSource
from balenas_plugin.data.sources.cifar import read_cifar10, read_cifar100
from balenas_plugin.data.sources.cifar_parquet import read_cifar10_parquet
from balenas_plugin.data.sources.digits import read_digits
from balenas_plugin.data.sources.folder import read_folder
from balenas_plugin.data.sources.packed import read_packed
from balenas_plugin.data.sources.svhn import read_svhn

SOURCES: dict[str, Callable[..., ImageSource]] = {
    "digits": read_digits,
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "cifar10_parquet": read_cifar10_parquet,
    "svhn": read_svhn,
    "folder": read_folder,
    "packed": read_packed,
}
"""Each is called with `train`, whether to read the training or the test images, and with its options by name."""


def read_source(name: str, options: Mapping[str, Any], *, train: bool) -> ImageSource:
    """Read a data set with those of the options that it takes."""
    read = SOURCES[name]
    own = inspect.signature(read).parameters
    return read(train=train, **{key: value for key, value in options.items() if key in own})
