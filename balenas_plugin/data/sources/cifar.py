"""CIFAR-10 and CIFAR-100 through torchvision."""

from __future__ import annotations

import torch

from balenas_plugin.data.images import ImageSource, MemoryImages, resize
from balenas_plugin.data.sources.torchvision_import import open_dataset

# Of the 50,000 training images, as published with the references (DARTS; pytorch-cifar100 for the second pair).
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
CIFAR100_MEAN = (0.5071, 0.4865, 0.4409)
CIFAR100_STD = (0.2673, 0.2564, 0.2762)


def read_cifar10(
    *, train: bool, root: str | None = None, image_size: int | None = None, download: bool = False
) -> ImageSource:
    """Read CIFAR-10 (Krizhevsky, 2009): 50,000 training or 10,000 test images of 32x32. Raises: as `open_dataset`."""
    return _read("CIFAR10", train, root, image_size, download, mean=CIFAR10_MEAN, std=CIFAR10_STD)


def read_cifar100(
    *, train: bool, root: str | None = None, image_size: int | None = None, download: bool = False
) -> ImageSource:
    """Read CIFAR-100 (Krizhevsky, 2009): 50,000 training or 10,000 test images of 32x32. Raises: as `open_dataset`."""
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
    """Read a CIFAR set. Raises: as `open_dataset`."""
    dataset = open_dataset(torchvision_name, root=root, download=download, train=train)
    pixels = torch.from_numpy(dataset.data).permute(0, 3, 1, 2)  # uint8, (n, 3, 32, 32)
    return ImageSource(
        labels=torch.tensor(dataset.targets, dtype=torch.int64),
        class_names=tuple(dataset.classes),
        mean=mean,
        std=std,
        augmentation="crop_flip",
        read=lambda rows: MemoryImages(resize(pixels[rows], image_size)),
    )
