"""The data sets by name; a new one is a function in a file of its own and a line here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from balenas_plugin.data.sources.cifar import read_cifar10, read_cifar100
from balenas_plugin.data.sources.cifar_parquet import read_cifar10_parquet
from balenas_plugin.data.sources.digits import read_digits
from balenas_plugin.data.sources.folder import read_folder

if TYPE_CHECKING:
    from balenas_plugin.data.config import DataConfig
    from balenas_plugin.data.images import ImageSource


class ReadSource(Protocol):
    """How a data set is read."""

    def __call__(self, config: DataConfig, *, train: bool) -> ImageSource:
        """Read the training images (`train`), or the test images."""
        ...


SOURCES: dict[str, ReadSource] = {
    "digits": read_digits,
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "cifar10_parquet": read_cifar10_parquet,
    "folder": read_folder,
}
