"""A folder of images by class, <root>/<class>/<image>, decoded when they are needed."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from balenas_plugin.data.images import ImageSource
from balenas_plugin.data.sources.torchvision_import import torchvision_datasets
from balenas_plugin.errors import DataError, OptionError
from balenas_plugin.files import expanded, open_regular

if TYPE_CHECKING:
    from balenas_plugin.data.config import DataConfig

DEFAULT_IMAGE_SIZE = 32

# Of ImageNet, the convention for photographs: measuring a folder's own would mean decoding all of it first.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# What the file name endings that ImageFolder accepts stand for, and what such files often really are. Others are
# refused: the files are not trusted, and Pillow hands PostScript, for one, to an external program.
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")


def read_folder(config: DataConfig, *, train: bool) -> ImageSource:
    """List the images of `config.root`; classes and files as torchvision.datasets.ImageFolder finds them.

    Raises:
        DataError: the folder is absent, or holds fewer than two classes, or a class without images.
        OptionError: test images are asked for.
        MissingDependencyError: torchvision cannot be imported.
    """
    if not train:
        raise OptionError(
            "data set 'folder' has no test images of its own: all images under root are training images. Test on "
            "another folder with torchvision.datasets.ImageFolder, or take one of the data sets with a test set"
        )
    root = expanded(config.root or "")
    if not root.is_dir():
        raise DataError(f"there is no folder {root}: set the data option root to a folder with one folder per class")
    try:
        listing = torchvision_datasets().ImageFolder(root)
    except FileNotFoundError as error:  # no class folder at all, or one without images
        raise DataError(
            f"{root} is no folder of images by class, <root>/<class>/<image>: {error}. Put at least one image into "
            "each class folder, and take other folders away."
        ) from error
    if len(listing.classes) < 2:
        raise DataError(
            f"{root} holds the single class {listing.classes[0]!r}; a search needs at least two. Is root one level "
            "too high or too low? Images are expected at <root>/<class>/<image>."
        )
    paths = [path for path, _ in listing.samples]
    size = config.image_size or DEFAULT_IMAGE_SIZE
    return ImageSource(
        labels=torch.tensor(listing.targets, dtype=torch.int64),
        class_names=tuple(listing.classes),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        augmentation="crop_flip",
        read=lambda rows: ImageFiles([paths[row] for row in rows.tolist()], image_size=size),
    )


class ImageFiles:
    """Image files, decoded at every fetch, so that a folder of any size can be searched on.

    Decoding, not augmenting, is then what takes the time: use worker processes (`num_workers`).
    """

    def __init__(self, paths: list[str], *, image_size: int) -> None:
        self.paths = paths
        self.image_shape: tuple[int, int, int] = (3, image_size, image_size)

    def __len__(self) -> int:
        return len(self.paths)

    def fetch(self, numbers: Tensor) -> Tensor:
        """Return images `numbers` (int64, shape (B,)) as uint8, shape (B, 3, H, W).

        Raises:
            DataError: a file is gone or cannot be decoded.
        """
        pixels = [_decode(self.paths[number], self.image_shape[1]) for number in numbers.tolist()]
        return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()


def _decode(path: str, size: int) -> np.ndarray:
    """Decode a file to RGB and scale its central square to (size, size, 3), uint8, by antialiased bilinear.

    The filter sees the pixels beside the square, as if the whole image were scaled first and the square then cut out.
    """
    try:
        with open_regular(path) as file, Image.open(file, formats=_FORMATS) as image:
            # A JPEG can be decoded at 1/2, 1/4 or 1/8: much faster for photographs. Twice the size leaves the last
            # step to the antialiased filter. Other formats ignore it.
            image.draft(image.mode, (2 * size, 2 * size))
            rgb = _to_rgb(image)
        side = min(rgb.size)
        left, top = (rgb.width - side) / 2, (rgb.height - side) / 2
        square = rgb.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
        return np.asarray(square)
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        raise DataError(f"the image {path} cannot be decoded: {error}. Replace or delete the file.") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return the image with 8 bits a channel; Pillow's own conversion would clip 16-bit grey at 255."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"the range of its pixels is not known (Pillow's mode {image.mode}): save it in 8 bits")
    return image.convert("RGB")
