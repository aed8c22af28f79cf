"""Hold images as uint8 tensors, and say what a data set is before any split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

_RESIZE_CHUNK = 1000  # images converted to float at a time: 12 MB for 32x32


Transform = Callable[[Tensor], Tensor]
"""Changes one image, uint8 (3, H, W), as those of torchvision.transforms.v2 do, with torch's global random numbers."""


class ImageStore(Protocol):
    """Some images of one data set, numbered from 0, all of one shape."""

    image_shape: tuple[int, int, int]

    def __len__(self) -> int: ...

    def fetch(self, numbers: Tensor) -> Tensor:
        """Return images `numbers` (int64, shape (B,)) as uint8, shape (B, 3, H, W), 0 black to 255 white."""
        ...

    def part(self, numbers: Tensor) -> ImageStore:
        """Return a store of some of them (int64, shape (m,))."""
        ...

    def transformed(self, transform: Transform) -> ImageStore:
        """Return a store of the same images, each changed anew at every fetch, to one size that all have."""
        ...


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """The images of one data set, in the data set's own order, before any split.

    Attributes:
        labels: int64, shape (n,), class of every image.
        class_names: name of class 0, 1, ...
        mean: channel means (R, G, B) of the training images, in 0..1.
        std: channel standard deviations, same unit.
        augmentation: what training images of this set get when the user says nothing (a word of `AUGMENTATIONS`).
        read: makes the store of the given rows (int64, shape (m,)); only these are read and decoded.
        num_weight_images: where the set says itself which images train the weights and which the architecture: the
            first so many train the weights. None: the two are split at random.
        details: further entries of a run's description of its data; JSON-compatible.
    """

    labels: Tensor
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    augmentation: str
    read: Callable[[Tensor], ImageStore]
    num_weight_images: int | None = None
    details: Mapping[str, object] = field(default_factory=dict)


class MemoryImages:
    """Images held in memory, uint8, shape (n, 3, H, W)."""

    def __init__(self, pixels: Tensor) -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(f"pixels must be uint8 of shape (n, 3, H, W), not {pixels.dtype} {tuple(pixels.shape)}")
        self.pixels = pixels.contiguous()
        self.image_shape: tuple[int, int, int] = (3, pixels.shape[2], pixels.shape[3])

    def __len__(self) -> int:
        return len(self.pixels)

    def fetch(self, numbers: Tensor) -> Tensor:
        """Return images `numbers` (int64, shape (B,)) as uint8, shape (B, 3, H, W)."""
        return self.pixels[numbers]

    def part(self, numbers: Tensor) -> MemoryImages:
        """Return some of them (int64, shape (m,))."""
        return MemoryImages(self.pixels[numbers])

    def transformed(self, transform: Transform) -> ImageStore:
        """Return the same images, each changed anew at every fetch."""
        return TransformedImages(self, transform)


class TransformedImages:
    """Images of another store that are changed one by one when they are fetched, and so are not kept on a device."""

    def __init__(self, images: ImageStore, transform: Transform) -> None:
        self._images, self._transform = images, transform
        self.image_shape: tuple[int, int, int] = images.image_shape

    def __len__(self) -> int:
        return len(self._images)

    def fetch(self, numbers: Tensor) -> Tensor:
        """Return images `numbers` (int64, shape (B,)) as uint8, shape (B, 3, H, W), as the transform makes them."""
        return torch.stack([self._transform(pixels) for pixels in self._images.fetch(numbers)])

    def part(self, numbers: Tensor) -> TransformedImages:
        """Return some of them (int64, shape (m,))."""
        return TransformedImages(self._images.part(numbers), self._transform)

    def transformed(self, transform: Transform) -> TransformedImages:
        """Return the same images under another transform."""
        return TransformedImages(self._images, transform)


def resize(pixels: Tensor, size: int | None) -> Tensor:
    """Resize uint8 images (n, 3, H, W) to (n, 3, size, size) by antialiased bilinear interpolation; None keeps them.

    Antialiased, so that going down averages over every pixel instead of skipping some. Computed in float32 and rounded
    to the nearest of 0..255.
    """
    if size is None or tuple(pixels.shape[2:]) == (size, size):
        return pixels
    resized = torch.empty(len(pixels), 3, size, size, dtype=torch.uint8)
    for start in range(0, len(pixels), _RESIZE_CHUNK):
        # contiguous: on channels-last input the same call takes more than twice as long
        chunk = pixels[start : start + _RESIZE_CHUNK].contiguous().float()
        chunk = F.interpolate(chunk, (size, size), mode="bilinear", antialias=True)
        resized[start : start + _RESIZE_CHUNK] = chunk.round_().clamp_(0, 255).to(torch.uint8)
    return resized
