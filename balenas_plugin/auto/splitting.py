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

HELD_OUT, VALIDATION = 0.2, 0.15
"""Shares of the images that test, and of the others that are chosen by, where the folder does not say it itself."""

_CHUNK = 1000  # images decoded at a time

Part = list[tuple[str, int]]
"""Paths and class numbers."""


def split(looked: Looked, *, seed: int) -> dict[str, Part]:
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
    for name, share in (("test", HELD_OUT), ("val", VALIDATION)):
        if name not in found:
            found[name], found["train"] = _taken(found["train"], share, seed=seed)
    return found


def _taken(images: Part, share: float, *, seed: int) -> tuple[Part, Part]:
    """Return a share of the images of each class, at least one, and the others."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).tolist()
    by_class: dict[int, list[int]] = {}
    for row in order:
        by_class.setdefault(images[row][1], []).append(row)
    taken = {row for rows in by_class.values() for row in rows[: max(1, round(share * len(rows)))]}
    return [images[row] for row in sorted(taken)], [image for row, image in enumerate(images) if row not in taken]


def pack(
    class_names: Sequence[str],
    parts: dict[str, Part],
    output: Path,
    *,
    augmentation: str,
    image_size: int,
    progress: bool,
) -> None:
    """Decode the images into `output`/images, which trains and is chosen by, and `output`/held-out.

    Raises:
        DataError: a file is gone, or cannot be decoded any more.
        StorageError: the disk is full.
    """
    folders = {"images": {"train": "train", "test": "val"}, "held-out": {"test": "test"}}
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
        write_packed(output / folder, packed, class_names=class_names, augmentation=augmentation, image_size=image_size)


def _decoded(paths: Sequence[str], image_size: int, bar: str | None) -> Iterator[np.ndarray]:
    for start in range(0, len(paths), _CHUNK):
        seen, unreadable = look_at(
            paths[start : start + _CHUNK], lambda image: np.asarray(central_square(image, image_size)), bar=bar
        )
        for path, why in unreadable.items():
            raise DataError(f"the image {path} cannot be decoded any more: {why}. Put it back as it was, then resume.")
        yield np.stack(list(seen.values())).transpose(0, 3, 1, 2)
