"""Split images so that each class has its share in every part, and decode them once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from balenas_plugin.auto.looking import Looked
from balenas_plugin.data.checking import look_at
from balenas_plugin.data.sources.packed import PackedPart, write_packed
from balenas_plugin.data.square import central_square
from balenas_plugin.errors import DataError
from balenas_plugin.training.training_data import split_by_class

IMAGES, HELD_OUT = "images", "held-out"
"""Folders of the packed images: those that train and are chosen by, and those that test."""

_SHARES = {"test": 0.2, "val": 0.15}
"""Shares of the images that test, and of the others that are chosen by, where the folder does not say it itself."""

_CHUNK = 1000  # images decoded at a time

LabelledPaths = list[tuple[str, int]]
"""Paths and class numbers."""


def split(looked: Looked, *, seed: int) -> dict[str, LabelledPaths]:
    """Return the images that train ("train"), that are chosen by ("val"), and that nothing else sees ("test").

    A folder's own parts stay as they are; what it lacks is taken from its training images, of each class by its share.
    """
    found = {
        name: list(zip(paths, looked.labels[name], strict=True))
        for name, paths in looked.paths.items()
        if name != "all" or paths
    }
    if "all" in found:
        found["train"] = found.pop("all")
    for name, share in _SHARES.items():
        if name not in found:
            images = found["train"]
            labels = torch.tensor([label for _, label in images], dtype=torch.int64)
            kept, taken = split_by_class(labels, looked.class_names, share=share, seed=seed)
            found["train"], found[name] = ([images[row] for row in rows.tolist()] for rows in (kept, taken))
    return found


def pack(
    class_names: Sequence[str],
    parts: dict[str, LabelledPaths],
    output: Path,
    *,
    augmentation: str,
    image_size: int,
    progress: bool,
) -> None:
    """Decode the images into the folders `IMAGES` and `HELD_OUT` of `output`.

    Raises:
        DataError: a file is gone, or cannot be decoded any more.
        StorageError: the disk is full.
    """
    folders = {IMAGES: {"train": "train", "test": "val"}, HELD_OUT: {"test": "test"}}
    normalisation = None
    for folder, called in folders.items():
        packed = {
            name: PackedPart(
                labels=[label for _, label in parts[part]],
                chunks=_decoded(
                    [path for path, _ in parts[part]], image_size, f"decoding {part}" if progress else None
                ),
            )
            for name, part in called.items()
        }
        normalisation = write_packed(
            output / folder,
            packed,
            class_names=class_names,
            augmentation=augmentation,
            image_size=image_size,
            normalisation=normalisation,
        )


def _decoded(paths: Sequence[str], image_size: int, bar: str | None) -> Iterator[np.ndarray]:
    for start in range(0, len(paths), _CHUNK):
        seen, unreadable = look_at(
            paths[start : start + _CHUNK], lambda image: np.asarray(central_square(image, image_size)), bar=bar
        )
        for path, why in unreadable.items():
            raise DataError(f"the image {path} cannot be decoded any more: {why}. Put it back as it was, then resume.")
        yield np.stack(list(seen.values())).transpose(0, 3, 1, 2)
