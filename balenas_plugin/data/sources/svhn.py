"""Street View House Numbers through torchvision, as RobustDARTS searches on them."""

from __future__ import annotations

import torch

from balenas_plugin.data.images import ImageSource, MemoryImages, resize
from balenas_plugin.data.sources.torchvision_import import open_dataset

# Of the 73,257 training images, as published with RobustDARTS.
SVHN_MEAN = (0.4377, 0.4438, 0.4728)
SVHN_STD = (0.1980, 0.2010, 0.1970)


def read_svhn(
    *, train: bool, root: str | None = None, image_size: int | None = None, download: bool = False
) -> ImageSource:
    """Read SVHN (Netzer et al., 2011): 73,257 training images, without the extra ones, or 26,032 test images of 32x32.

    They are flipped like other images, though a mirrored digit is none: the published searches did so. Raises: as
    `open_dataset`.
    """
    dataset = open_dataset("SVHN", root=root, download=download, split="train" if train else "test")
    pixels = torch.from_numpy(dataset.data)  # uint8, (n, 3, 32, 32)
    return ImageSource(
        labels=torch.from_numpy(dataset.labels).to(torch.int64),
        class_names=tuple(str(digit) for digit in range(10)),
        mean=SVHN_MEAN,
        std=SVHN_STD,
        augmentation="crop_flip",
        read=lambda rows: MemoryImages(resize(pixels[rows], image_size)),
    )
