"""Options of a data set."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from balenas_plugin.data.sources import SOURCES
from balenas_plugin.errors import OptionError
from balenas_plugin.options import MAX_WORKERS, OneOf, PositiveInt, Seed, declared_options

_Place = Annotated[str | os.PathLike[str], Field(json_schema_extra={"errorMessage": "the path of a folder"})]


@declared_options("data")
@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Say which images to search on, and how to split, size and augment them.

    Attributes:
        name: "digits" (1,500 of scikit-learn's 8x8 images, nothing to download), "cifar10", "cifar100" or "svhn"
            (through torchvision), "cifar10_parquet" (cifar10_train_jpeg.parquet and cifar10_test_jpeg.parquet),
            "folder" (<root>/<class>/<image>, or folders train, val and test above the classes; decoded when needed) or
            "packed" (what `balenas auto` has decoded).
        root: folder of the data. "folder" needs it; "packed", torchvision's sets and "cifar10_parquet" fall back on the
            environment variable BALENAS_DATA; "digits" ignores it.
        image_size: side of the square images in pixels, at least 4. None: 8 for digits, 32 for all others. Smaller
            images make trials cheaper: 16 costs a quarter of 32. The networks of the image spaces halve the
            side twice, so the digits' 8 still works (it ends at 2x2).
        batch_size: images per batch and device, for the loaders that the adapter builds.
        train_fraction: share of the training images that trains the weights w, between 0 and 1; the rest, the
            architecture half, trains alpha. A folder with a val folder has its own two parts: leave it at 0.5.
        split: false: both halves are all of the training images, as searches of one level (DropNAS, SNAS) have them;
            validation is then on images that have trained.
        augment: "none", "crop" or "crop_flip", applied to the weight half; None: "crop" for digits (a mirrored digit
            is no digit), "crop_flip" for all others.
        num_workers: worker processes per loader; 0 is the fastest for everything held in memory.
        on_device: keep the images on the device that trains (a GPU, or the CPU) and make the batches there, without a
            DataLoader. "auto": where the images are in memory, fit on the device, and no workers are asked for. True:
            the same, and a message says so where it cannot be. False: never.
        download: let torchvision download cifar10, cifar100 or svhn into `root`; other sets ignore it.
        seed: of the split; independent of torch's global generator.
        limit: use only this many training images, after the seeded shuffle, for quick trials; None uses all.

    Raises:
        OptionError: an option has a wrong name, type or value.
    """

    name: Annotated[str, OneOf(lambda: SOURCES)] = "digits"
    root: _Place | None = None
    image_size: Annotated[int, Field(ge=4, le=4096)] | None = None  # the networks halve the resolution twice
    batch_size: PositiveInt = 64
    train_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.5
    split: bool = True
    augment: Literal["none", "crop", "crop_flip"] | None = None
    num_workers: Annotated[int, Field(ge=0, le=MAX_WORKERS)] = 0
    on_device: bool | Literal["auto"] = "auto"
    download: bool = False
    seed: Seed = 0
    limit: Annotated[int, Field(ge=2)] | None = None

    def __post_init__(self) -> None:
        if self.on_device is True and self.num_workers:
            raise OptionError(
                "data.on_device is true, and then there are no loader processes: set data.num_workers to 0, or "
                "data.on_device to false"
            )
        if self.root == "":
            raise OptionError("data.root must be the path of a folder, got ''; or leave it out")
        if self.root is None and self.name == "folder":
            raise OptionError("data set folder needs the option data.root: it holds one folder of images per class")
        if self.root is not None:
            object.__setattr__(self, "root", os.fspath(self.root))  # a string, for JSON and YAML
