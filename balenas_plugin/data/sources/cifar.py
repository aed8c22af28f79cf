"""CIFAR-10 and CIFAR-100 through torchvision, which checks the files' MD5 sums before it unpickles them."""

from __future__ import annotations

from http.client import HTTPException

import torch

from balenas_plugin.data.images import ImageSource, MemoryImages, resize
from balenas_plugin.data.sources.location import data_folder
from balenas_plugin.data.sources.torchvision_import import torchvision_datasets
from balenas_plugin.errors import DataError

# Of the 50,000 training images, as published with the references (DARTS; pytorch-cifar100 for the second pair).
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
CIFAR100_MEAN = (0.5071, 0.4865, 0.4409)
CIFAR100_STD = (0.2673, 0.2564, 0.2762)


def read_cifar10(
    *, train: bool, root: str | None = None, image_size: int | None = None, download: bool = False
) -> ImageSource:
    """Read CIFAR-10 (Krizhevsky, 2009): 50,000 training or 10,000 test images of 32x32. Raises: as `_read`."""
    return _read("CIFAR10", train, root, image_size, download, mean=CIFAR10_MEAN, std=CIFAR10_STD)


def read_cifar100(
    *, train: bool, root: str | None = None, image_size: int | None = None, download: bool = False
) -> ImageSource:
    """Read CIFAR-100 (Krizhevsky, 2009): 50,000 training or 10,000 test images of 32x32. Raises: as `_read`."""
    return _read("CIFAR100", train, root, image_size, download, mean=CIFAR100_MEAN, std=CIFAR100_STD)


def _read(
    torchvision_name: str,
    train: bool,
    root: str | None,
    image_size: int | None,
    download: bool,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> ImageSource:
    """Read a CIFAR set.

    Raises:
        DataError: no folder is given, the files are absent or corrupt, or the download failed.
        MissingDependencyError: torchvision cannot be imported.
    """
    name = torchvision_name.lower()
    folder = data_folder(root, name=name)
    dataset_class = getattr(torchvision_datasets(), torchvision_name)
    try:
        dataset = dataset_class(root=folder, train=train, download=download)
    except (RuntimeError, OSError, HTTPException) as error:  # RuntimeError: absent or corrupt; the others: a download
        cure = (
            "Check the connection and the permissions of the folder, or put the files there yourself"
            if download
            else "Set `download: true` to fetch it, or set root to the folder that holds it"
        )
        raise DataError(f"data set {name!r} cannot be read from {folder}: {error}. {cure}.") from error
    pixels = torch.from_numpy(dataset.data).permute(0, 3, 1, 2)  # uint8, (n, 3, 32, 32)
    return ImageSource(
        labels=torch.tensor(dataset.targets, dtype=torch.int64),
        class_names=tuple(dataset.classes),
        mean=mean,
        std=std,
        augmentation="crop_flip",
        read=lambda rows: MemoryImages(resize(pixels[rows], image_size)),
    )
