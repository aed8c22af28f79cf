"""Load a data set and split its training images into the half for the weights and the half for the architecture."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from balenas_plugin.data.config import DataConfig
from balenas_plugin.data.image_set import ImageSet
from balenas_plugin.data.image_task import ImageTask
from balenas_plugin.data.images import ImageSource
from balenas_plugin.data.sources import read_source
from balenas_plugin.errors import DataError, OptionError


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchData:
    """The two halves of the training images that a one-shot search runs on: disjoint, unless the config says no split.

    Attributes:
        weight_set: trains the weights w; augmented.
        architecture_set: trains the architecture parameters alpha; not augmented.
        weight_rows: int64, row numbers in the data set's own order of the images of `weight_set`.
        architecture_rows: the same of `architecture_set`.
        task: the classes, and how an image becomes an input.
        description: what was loaded and how it was split, for a run's manifest; JSON-compatible.
    """

    weight_set: ImageSet
    architecture_set: ImageSet
    weight_rows: Tensor
    architecture_rows: Tensor
    task: ImageTask
    description: dict[str, Any]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of class 0, 1, ..."""
        return self.task.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return self.weight_set.store.image_shape

    def example(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the first images of the architecture half and their labels, or all if there are less."""
        rows = range(min(count, len(self.architecture_set)))
        images, labels = zip(*(self.architecture_set[i] for i in rows), strict=True)
        return torch.stack(images), torch.tensor(labels)

    @property
    def is_split(self) -> bool:
        """Whether the halves are disjoint; else each is all of the images."""
        return self.weight_rows is not self.architecture_rows

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of images in the weight half and in the architecture half."""
        return len(self.weight_set), len(self.architecture_set)


def load_search_data(config: DataConfig) -> SearchData:
    """Load the training images that `config` names and split them in two.

    Departure from the references: DARTS augments both halves, because both are read through one data set. Here the
    architecture half is not augmented, because NNI's Lightning evaluator also validates on it, and a validation
    accuracy should not depend on random crops (test_architecture_half_is_not_augmented).

    Raises:
        OptionError: `limit` exceeds the data set, or `train_fraction` leaves a half empty.
        DataError: the data set is missing, unreadable or not of the expected form.
        MissingDependencyError: the package that a data set comes from is not installed.
    """
    source = read_source(config.name, vars(config), train=True)
    if source.num_weight_images is not None and config.train_fraction != 0.5:
        raise OptionError(
            f"data.train_fraction is {config.train_fraction}, but {config.root} says itself which images train "
            "the weights (train) and which the architecture (val): leave the option out, or take the folder val away"
        )
    weight_rows, architecture_rows = split_rows(
        len(source.labels),
        train_fraction=config.train_fraction,
        seed=config.seed,
        limit=config.limit,
        num_weight_images=source.num_weight_images,
    )
    if not config.split:
        weight_rows = architecture_rows = torch.cat([weight_rows, architecture_rows])
    augmentation = config.augment or source.augmentation
    weight_set = image_set(source, weight_rows, augmentation=augmentation)
    architecture_set = image_set(source, architecture_rows, augmentation="none")
    task = ImageTask(
        class_names=source.class_names,
        image_size=weight_set.store.image_shape[1],
        mean=source.mean,
        std=source.std,
    )
    return SearchData(
        weight_set=weight_set,
        architecture_set=architecture_set,
        weight_rows=weight_rows,
        architecture_rows=architecture_rows,
        task=task,
        description={
            "name": config.name,
            "available_images": len(source.labels),
            "weight_images": len(weight_set),
            "architecture_images": len(architecture_set),
            "num_classes": len(source.class_names),
            "image_shape": list(weight_set.store.image_shape),
            "augmentation": augmentation,
            "split_seed": config.seed,
            "split_sha256": _fingerprint(weight_rows, architecture_rows),
            **task.to_dict(),
            **source.details,
        },
    )


def load_test_data(config: DataConfig) -> ImageSet:
    """Load the test images that `config` names: all of them, not augmented; `limit` and the split do not apply.

    Raises:
        OptionError: the data set has no test images ("folder").
        DataError: the data set is missing, unreadable or not of the expected form.
        MissingDependencyError: the package that a data set comes from is not installed.
    """
    source = read_source(config.name, vars(config), train=False)
    if not len(source.labels):
        raise DataError(f"data set {config.name!r} holds no test images")
    return image_set(source, torch.arange(len(source.labels)), augmentation="none")


def split_rows(
    num_images: int, *, train_fraction: float, seed: int, limit: int | None, num_weight_images: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the row numbers (int64) of the weight half and of the architecture half.

    Both are taken from one permutation of 0..num_images - 1, drawn by a generator of its own from `seed`: neither
    torch's global state nor the platform matters, and with `limit` only the first `limit` of it are used. Where the
    data set has its own split, rows below `num_weight_images` train the weights, and `train_fraction` does not matter.

    Raises:
        OptionError: `limit` exceeds `num_images`, or a half would be empty.
    """
    if limit is not None and limit > num_images:
        raise OptionError(f"data.limit is {limit}, but there are only {num_images} training images; lower it")
    rows = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed))[:limit]
    if num_weight_images is None:
        num_weight = round(train_fraction * len(rows))
        halves = rows[:num_weight], rows[num_weight:]
    else:
        halves = rows[rows < num_weight_images], rows[rows >= num_weight_images]
    if not all(len(half) for half in halves):
        raise OptionError(
            f"data.train_fraction {train_fraction} of {len(rows)} training images leaves one half empty: give "
            "more images (limit), or a fraction nearer to 0.5"
        )
    return halves


def image_set(source: ImageSource, rows: Tensor, *, augmentation: str) -> ImageSet:
    """Return the images of some rows of a data set."""
    return ImageSet(source.read(rows), source.labels[rows], mean=source.mean, std=source.std, augmentation=augmentation)


def _fingerprint(*row_numbers: Tensor) -> str:
    """Return the SHA-256 of row numbers, each list as its length and its little-endian int64."""
    digest = hashlib.sha256()
    for rows in row_numbers:
        digest.update(len(rows).to_bytes(8, "little") + rows.numpy().astype("<i8").tobytes())
    return digest.hexdigest()
