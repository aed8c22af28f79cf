"""A folder of images by class, <root>/<class>/<image>, or of train, val and test folders above the classes.

The images are decoded when they are needed.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from balenas_plugin.data.images import ImageSource, Transform
from balenas_plugin.data.sources.folder_layout import Part, find_parts
from balenas_plugin.data.square import central_square, upright_rgb
from balenas_plugin.errors import DataError, OptionError
from balenas_plugin.files import expanded, open_regular

DEFAULT_IMAGE_SIZE = 32

# Of ImageNet, the convention for photographs: measuring a folder's own would mean decoding all of it first.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# What the file name endings of a folder's images stand for, and what such files often really are. Others are refused:
# the files are not trusted, and Pillow hands PostScript, for one, to an external program.
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")

UNREADABLE = (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError)
"""What Pillow raises for a file that it cannot decode."""


def read_folder(*, train: bool, root: str, image_size: int | None = None) -> ImageSource:
    """List the images of `root`: those of the search, or those of its folder test/.

    With a folder val/, its images train the architecture and those of train/ the weights.

    Raises:
        DataError: the folder is absent, or its layout is not one of those that `find_parts` knows.
        OptionError: test images are asked for, and there is no folder of them.
    """
    folder = expanded(root)
    found = find_parts(folder)
    if not train and "test" not in found:
        raise OptionError(
            f"data set 'folder' has no test images in {folder}: put them by class into {folder / 'test'}, beside the "
            "folder train, or take one of the data sets with a test set"
        )
    parts = [found[name] for name in (("all", "train", "val") if train else ("test",)) if name in found]
    paths = [path for part in parts for path in part.paths]
    size = image_size or DEFAULT_IMAGE_SIZE
    return ImageSource(
        labels=torch.tensor([label for part in parts for label in part.labels], dtype=torch.int64),
        class_names=parts[0].class_names,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        augmentation="crop_flip",
        read=lambda rows: ImageFiles([paths[row] for row in rows.tolist()], image_size=size),
        num_weight_images=len(found["train"].paths) if train and "val" in found else None,
        details=_details(folder, found, parts),
    )


def _details(root: Path, found: dict[str, Part], parts: list[Part]) -> dict[str, object]:
    """Return what a run records of a folder besides what it records of every set."""
    used = [os.path.relpath(path, root) for part in parts for path in part.paths]
    return {
        "root": str(root),
        "folders": {name: {"folder": str(part.folder), "images": len(part.paths)} for name, part in found.items()},
        "left_out": {ending: count for part in parts for ending, count in part.left_out.items()},
        "names_sha256": hashlib.sha256("\n".join(used).encode(errors="surrogateescape")).hexdigest(),
    }


class ImageFiles:
    """Image files, decoded at every fetch, so that a folder of any size can be searched on.

    Decoding, not augmenting, is then what takes the time: use worker processes (`num_workers`).
    """

    def __init__(self, paths: list[str], *, image_size: int, transform: Transform | None = None) -> None:
        self.paths = paths
        self.image_shape: tuple[int, int, int] = (3, image_size, image_size)
        self._transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def fetch(self, numbers: Tensor) -> Tensor:
        """Return images `numbers` (int64, shape (B,)) as uint8, shape (B, 3, H, W).

        Raises:
            DataError: a file is gone or cannot be decoded.
        """
        pixels = [self._decode(self.paths[number]) for number in numbers.tolist()]
        if self._transform is not None:
            return torch.stack([self._transform(torch.from_numpy(image).permute(2, 0, 1)) for image in pixels])
        return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()

    def part(self, numbers: Tensor) -> ImageFiles:
        """Return some of them (int64, shape (m,))."""
        paths = [self.paths[number] for number in numbers.tolist()]
        return ImageFiles(paths, image_size=self.image_shape[1], transform=self._transform)

    def transformed(self, transform: Transform) -> ImageFiles:
        """Return the same files, of which each image is changed whole, not its central square alone."""
        return ImageFiles(self.paths, image_size=self.image_shape[1], transform=transform)

    def _square(self, image: Image.Image) -> Image.Image:
        return upright_rgb(image) if self._transform else central_square(image, self.image_shape[1])

    def _decode(self, path: str) -> np.ndarray:
        """Return an image as RGB, uint8, shape (H, W, 3)."""
        try:
            with open_image(path) as image:
                return np.array(self._square(image))
        except UNREADABLE as error:
            raise DataError(
                f"the image {path} cannot be decoded: {why_unreadable(error)}. Replace or delete the file."
            ) from error


def why_unreadable(error: Exception) -> str:
    """Return for people what Pillow, or the system, says of a file that it cannot decode."""
    if isinstance(error, UnidentifiedImageError):
        return f"it is empty, damaged, or of none of the formats {', '.join(_FORMATS)}"
    return getattr(error, "strerror", None) or str(error)


@contextmanager
def open_image(path: str) -> Iterator[Image.Image]:
    """Open an image file of a format that is known to be safe; nothing of it is decoded yet.

    Raises:
        OSError: the path is not that of a regular file: a pipe would never end, a device never be full.
    """
    with open_regular(path) as file, Image.open(file, formats=_FORMATS) as image:
        yield image
