"""Image files decoded beforehand, at one size: two arrays and a description, for `balenas auto`.

    <root>/images.json   classes, labels, mean, std, augmentation
    <root>/train.npy     uint8, (n, 3, side, side)
    <root>/test.npy      likewise

They are mapped into memory, so that what is read of them is what is used, and several processes share it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from balenas_plugin.data.images import ImageSource, MemoryImages, resize
from balenas_plugin.data.sources.location import data_folder
from balenas_plugin.errors import DataError
from balenas_plugin.files import read_text, write_atomically, write_text_atomically

_DESCRIPTION = "images.json"


Normalisation = tuple[list[float], list[float]]
"""Mean and standard deviation of red, green and blue, in 0..1."""


@dataclass(frozen=True, kw_only=True)
class PackedPart:
    """Images to pack.

    Args:
        labels: class number of each.
        chunks: their pixels, uint8, each of shape (m, 3, side, side), in the order of the labels.
    """

    labels: Sequence[int]
    chunks: Iterable[np.ndarray]


def write_packed(
    root: Path,
    parts: Mapping[str, PackedPart],
    *,
    class_names: Sequence[str],
    augmentation: str,
    image_size: int,
    normalisation: Normalisation | None = None,
) -> Normalisation:
    """Write images; return what they are normalised by.

    Args:
        root: folder to write to.
        parts: "train" and "test", or one of them.
        class_names: name of class 0, 1, ...
        augmentation: of the training images.
        image_size: side of all images, in pixels.
        normalisation: mean and standard deviation; None: those of the part "train".

    Raises:
        StorageError: the disk is full, or does not let us write. There is no description then.
    """
    sums, squares, pixels = np.zeros(3), np.zeros(3), 0
    for name, part in parts.items():

        def write(file: BinaryIO, name: str = name, part: PackedPart = part) -> None:
            nonlocal sums, squares, pixels
            shape = (len(part.labels), 3, image_size, image_size)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for chunk in part.chunks:
                file.write(np.ascontiguousarray(chunk).data)
                if name == "train":
                    values = chunk.astype(np.float64) / 255
                    sums, squares = sums + values.sum((0, 2, 3)), squares + (values**2).sum((0, 2, 3))
                    pixels += len(chunk) * image_size**2

        write_atomically(root / f"{name}.npy", write)
    if normalisation is None:
        mean = sums / pixels
        std = np.sqrt(np.maximum(squares / pixels - mean**2, 1 / 255**2))  # images of one colour have none
        normalisation = mean.round(4).tolist(), std.round(4).tolist()
    description = {
        "class_names": list(class_names),
        "augmentation": augmentation,
        "mean": normalisation[0],
        "std": normalisation[1],
        "labels": {name: list(part.labels) for name, part in parts.items()},
    }
    write_text_atomically(root / _DESCRIPTION, json.dumps(description) + "\n")
    return normalisation


def is_packed(root: Path) -> bool:
    """Return whether images have been packed into a folder, to the end."""
    return (root / _DESCRIPTION).is_file()


def read_packed(*, train: bool, root: str | None = None, image_size: int | None = None) -> ImageSource:
    """Read what `write_packed` wrote.

    Raises:
        DataError: a file is missing or damaged.
    """
    folder, part = data_folder(root, name="packed"), "train" if train else "test"
    try:
        known = json.loads(read_text(folder / _DESCRIPTION))
        # "c": changes would be made to a copy, and torch takes a read-only array under protest
        array = np.load(folder / f"{part}.npy", mmap_mode="c", allow_pickle=False)
        pixels, labels = torch.from_numpy(array), torch.tensor(known["labels"][part], dtype=torch.int64)
        if pixels.dtype != torch.uint8 or pixels.shape != (len(labels), 3, array.shape[-1], array.shape[-1]):
            raise ValueError(f"{part}.npy does not hold {len(labels)} square images in bytes")
        mean, std = (tuple(map(float, known[name])) for name in ("mean", "std"))
        class_names, augmentation = tuple(map(str, known["class_names"])), str(known["augmentation"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{folder} does not hold packed images that can be read: {error!r}. `balenas auto --images FOLDER` makes it"
        ) from error
    return ImageSource(
        labels=labels,
        class_names=class_names,
        mean=mean,  # type: ignore[arg-type]  # three of them, as written
        std=std,  # type: ignore[arg-type]
        augmentation=augmentation,
        read=lambda rows: MemoryImages(resize(_rows(pixels, rows), image_size)),
    )


def _rows(pixels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the images of these rows; all of them in order are not copied."""
    everything = len(rows) == len(pixels) and torch.equal(rows, torch.arange(len(rows)))
    return pixels if everything else pixels[rows]
