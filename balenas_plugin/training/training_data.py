"""The images of a training: all that train, a part that validates where that is asked for, and those of the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from balenas_plugin.data import DataConfig, ImageSet
from balenas_plugin.data.checking import check_files
from balenas_plugin.data.image_task import ImageTask
from balenas_plugin.data.search_data import image_set, load_test_data
from balenas_plugin.data.sources import read_source
from balenas_plugin.errors import BalenasError, DataError, OptionError, first_line, nearest
from balenas_plugin.training.optimizers import construct
from balenas_plugin.training.recipe import Recipe

TEST_SHARE = 0.2
"""Of the images that are held out where a folder has no test images."""

OF_SEARCHES: Mapping[str, str] = {
    "batch_size": "set batch_size, without data.",
    "train_fraction": "set validation to the share of the images that validate",
    "split": "set validation to the share of the images that validate",
    "num_workers": "say --num-workers",
    "on_device": "images in memory are kept there unless --num-workers is more than 0",
    "bptt": "set text.bptt",
    "lengths": "set text.lengths",
}
"""Options of data that say nothing of a training -> what does."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingData:
    """Images to train on, and others to test on.

    Attributes:
        training: not augmented: that is the recipe's.
        test: that nothing but the test looks at.
        validation: that validate each epoch; None: where the recipe asks for such, a part of `training`.
        task: the classes, and how an image becomes an input.
        description: where they come from; JSON-compatible.
    """

    training: ImageSet
    test: ImageSet
    validation: ImageSet | None = None
    task: ImageTask
    description: dict[str, Any] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of class 0, 1, ..."""
        return self.task.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an input."""
        return self.test.store.image_shape

    @property
    def sizes(self) -> dict[str, int]:
        """What of the sizes of a space's networks these data say."""
        return {"num_classes": len(self.class_names), "image_size": self.image_shape[1]}

    @property
    def identity(self) -> dict[str, Any]:
        """What a training that is resumed must find as it was: all but where the images are."""
        return {key: value for key, value in self.description.items() if key not in ("root", "folders")}

    def for_recipe(self, recipe: Recipe, *, seed: int) -> TrainingData:
        """Return the data as a recipe has them: augmented, and with a part that validates if it asks for one.

        Raises:
            OptionError: the images are too small for the recipe, or too few.
        """
        size = self.image_shape[1]
        if recipe.cutout >= size:
            raise OptionError(
                f"the recipe cuts {recipe.cutout} pixels out of images that have {size} a side: set cutout to at most "
                f"{size // 2}, or data.image_size to more"
            )
        if not recipe.validation and self.validation is not None:
            raise OptionError(
                "the data have images for validation, which the recipe does not use: set validation to their share"
            )
        split = self.validating(recipe.validation, seed=seed) if recipe.validation else self
        transform = make_transform(recipe)
        training = split.training.augmented(
            recipe.augment or self.training.augmentation, cutout=recipe.cutout, transform=transform
        )
        self._require_images(training)
        return replace(split, training=training)

    def _require_images(self, training: ImageSet) -> None:
        """Refuse transforms that do not make images of 8 bits, as large as those of the test.

        Raises:
            OptionError: they do not.
        """
        try:
            pixels = training.store.fetch(torch.tensor([0]))
        except BalenasError:
            raise
        except Exception as error:  # torchvision's transforms raise what they like
            raise OptionError(
                f"the recipe's transforms cannot change an image, a tensor of 8-bit numbers: {first_line(error)}"
            ) from error
        if pixels.dtype != torch.uint8:
            raise OptionError(
                f"the recipe's transforms make images of {pixels.dtype}, and must leave them torch.uint8: they are "
                "normalised afterwards, so leave out ToDtype, Normalize and their like"
            )
        found = tuple(pixels.shape[1:])
        if found != tuple(self.image_shape):
            raise OptionError(
                f"the recipe's transforms make images of {found}, and those of the test are "
                f"{tuple(self.image_shape)}: set data.image_size to {found[-1]}"
            )

    def validating(self, share: float, *, seed: int) -> TrainingData:
        """Return the data with images that validate: their own, or else a share of each class of those that train.

        Raises:
            DataError: a class has a single image.
        """
        if self.validation is not None:
            return self
        kept, left_out = split_by_class(self.training.labels, self.class_names, share=share, seed=seed)
        return replace(self, training=self.training.part(kept), validation=self.training.part(left_out))


def load_training_data(config: DataConfig, recipe: Recipe, *, progress: bool = False) -> TrainingData:
    """Load what a recipe trains on: all training images that `config` names, and its test images.

    `limit` leaves training images out. The split of a search does not apply. A folder without test images gives a fifth
    of each class to the test, by `config.seed`; with a folder val, that validates if the recipe asks for it, and trains
    if not.

    Raises:
        OptionError: `limit` exceeds the data set.
        DataError: the data set is missing, unreadable or not of the expected form, or a class has too few images.
        MissingDependencyError: the package that a data set comes from is not installed.
    """
    config = replace(config, image_size=config.image_size or recipe.image_size)
    source = read_source(config.name, vars(config), train=True)
    rows = torch.arange(len(source.labels))
    held_out = config.name == "folder" and "test" not in source.details["folders"]  # type: ignore[operator]
    test_rows = rows[:0]
    if held_out:
        rows, test_rows = split_by_class(source.labels, source.class_names, share=TEST_SHARE, seed=config.seed)
    validation_rows = rows[:0]
    if source.num_weight_images is not None and recipe.validation:
        validation_rows = rows[rows >= source.num_weight_images]
        rows = rows[rows < source.num_weight_images]
    if config.limit is not None:
        if config.limit > len(rows):
            raise OptionError(f"data.limit is {config.limit}, but there are only {len(rows)} training images; lower it")
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seed))[: config.limit]]
    training = image_set(source, rows, augmentation=config.augment or source.augmentation)
    validation = image_set(source, validation_rows, augmentation="none") if len(validation_rows) else None
    test = image_set(source, test_rows, augmentation="none") if held_out else load_test_data(config)
    found = check_files(*(part for part in (training, validation, test) if part), progress=progress, called="train")
    _, size, _ = test.store.image_shape
    task = ImageTask(class_names=source.class_names, image_size=size, mean=source.mean, std=source.std)
    description = {
        "name": config.name,
        "limit": config.limit,
        "seed": config.seed,
        "training_images": len(training),
        "validation_images": len(validation or ()),
        "test_images": len(test),
        "test": f"{TEST_SHARE:.0%} of each class, held out" if held_out else "the data set's own",
        **task.to_dict(),
        **source.details,
        **found,
    }
    return TrainingData(training=training, test=test, validation=validation, task=task, description=description)


def split_by_class(labels: Tensor, class_names: Sequence[str], *, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the numbers of the images that are kept, and of the share of each class that is not: at least one.

    Args:
        labels: int64, shape (n,).
        class_names: of class 0, 1, ...
        share: between 0 and 1.
        seed: of the choice; torch's global generator is not used.

    Raises:
        DataError: a class has a single image.
    """
    generator = torch.Generator().manual_seed(seed)
    kept, others = [], []
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().flatten()
        if len(rows) < 2:
            raise DataError(
                f"the class {class_names[label]!r} has a single image, and needs at least two: one to train on and one "
                "to test on"
            )
        rows = rows[torch.randperm(len(rows), generator=generator)]
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        others.append(rows[:count])
        kept.append(rows[count:])
    return torch.cat(kept).sort().values, torch.cat(others).sort().values


def make_transform(recipe: Recipe) -> v2.Transform | None:
    """Return the transforms of a recipe as one, or None if it has none.

    Raises:
        OptionError: torchvision has no such transform, or refuses its options.
    """
    made = []
    known = {name: value for name, value in vars(v2).items() if isinstance(value, type) and value.__module__ != "enum"}
    known = {name: value for name, value in known.items() if issubclass(value, v2.Transform)}
    for given in recipe.transforms:
        options = {"name": given} if isinstance(given, str) else dict(given)
        name = str(options.pop("name", ""))
        if name not in known:
            raise OptionError(
                f"the recipe's transform {name!r} is unknown{nearest(name, known)} Names are those of "
                "torchvision.transforms.v2"
            )
        made.append(construct(f"the transform {name}", known[name], options))
    return v2.Compose(made) if made else None
