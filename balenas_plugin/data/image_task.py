"""What a network for images was trained for: how a file becomes its input, and what its outputs stand for."""

from __future__ import annotations

import json
import pprint
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from balenas_plugin.data.square import square_source
from balenas_plugin.errors import FileFormatError

_RESIZE = "central square, antialiased bilinear (Pillow), 8 bits; grey is repeated in R, G and B"
_UPRIGHT = "turned as EXIF's orientation says; transparent pixels on white"
_FORMULA = "(pixels - 255 * mean) * (1 / (255 * std)) in float32; pixels from 0 to 255; shape (N, 3, H, W)"

_SOURCE = '''\
CLASS_NAMES = {class_names}
IMAGE_SIZE = {image_size}
MEAN = {mean}  # of R, G and B, in 0..1
STD = {std}


def preprocess(image: Any) -> torch.Tensor:
    """Return an image (a path, or Pillow's) as the network was trained on: float32, shape (1, 3, side, side).

    Needs Pillow: pip install pillow
    """
    from PIL import Image

    image = image if isinstance(image, Image.Image) else Image.open(image)
    square = central_square(image, IMAGE_SIZE)
    pixels = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).view(1, IMAGE_SIZE, IMAGE_SIZE, 3)
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    return (pixels.permute(0, 3, 1, 2).float() - 255 * mean) * (1 / (255 * std))
'''


@dataclass(frozen=True, kw_only=True)
class ImageTask:
    """Classify images.

    What is said of scaling holds for files as a folder of images is read. Sets in memory (digits, CIFAR) are scaled by
    torch where `image_size` is not their own, which differs from Pillow by one of 255 grey levels at most.

    Attributes:
        class_names: what output 0, 1, ... stands for.
        image_size: side of the square input in pixels.
        mean: channel means (R, G, B), in 0..1, that the input is normalised with.
        std: channel standard deviations, likewise.
    """

    class_names: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def input_name(self) -> str:
        """What the input of an ONNX file is called."""
        return "images"

    def to_dict(self) -> dict[str, Any]:
        """Return the task as plain values for JSON, with all that somebody needs to prepare an input by hand."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {**plain, "channel_order": "RGB", "resize": _RESIZE, "normalisation": _FORMULA}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImageTask:
        """Return the task that `to_dict` gave.

        Raises:
            FileFormatError: a value is missing or of a wrong type.
        """
        try:
            return cls(
                class_names=tuple(str(name) for name in values["class_names"]),
                image_size=int(values["image_size"]),
                mean=tuple(float(value) for value in values["mean"]),
                std=tuple(float(value) for value in values["std"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(f"this does not describe a task of classifying images: {error!r}") from error

    def metadata(self) -> dict[str, str]:
        """Return name -> text, in JSON where it is no text, for files whose metadata are texts."""
        plain = {**self.to_dict(), "upright": _UPRIGHT}
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in plain.items()}

    def source(self) -> str:
        """Return Python source that defines CLASS_NAMES, IMAGE_SIZE, MEAN, STD and `preprocess(image)`.

        It needs `torch` and `Any` imported before it, and Pillow once `preprocess` is called.
        """
        names = pprint.pformat(self.class_names, width=110, compact=True)
        constants = _SOURCE.format(class_names=names, image_size=self.image_size, mean=self.mean, std=self.std)
        return f"{constants}\n\n{square_source()}"
