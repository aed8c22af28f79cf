"""Options of a data set."""

from __future__ import annotations

import os
from dataclasses import dataclass

from balenas_plugin.data.augment import AUGMENTATIONS
from balenas_plugin.data.sources import SOURCES
from balenas_plugin.errors import OptionError, nearest, quoted
from balenas_plugin.validation import MAX_WORKERS, require_seed

_MIN_IMAGE_SIZE, _MAX_IMAGE_SIZE = 4, 4096  # the networks halve the resolution twice


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Say which images to search on, and how to split, size and augment them.

    Attributes:
        name: "digits" (1,500 of scikit-learn's 8x8 images, nothing to download), "cifar10" or "cifar100" (through
            torchvision), "cifar10_parquet" (cifar10_train_jpeg.parquet and cifar10_test_jpeg.parquet) or "folder"
            (<root>/<class>/<image>, or folders train, val and test above the classes; decoded when needed).
        root: folder of the data. "folder" needs it; the CIFAR sets fall back on the environment variable
            BALENAS_DATA; "digits" ignores it.
        image_size: side of the square images in pixels, at least 4. None: 8 for digits, 32 for all others. Smaller
            images make trials cheaper: 16 costs a quarter of 32. Both built-in networks halve the side twice, so the
            digits' 8 still works (it ends at 2x2).
        batch_size: images per batch and device, for the loaders that the adapter builds.
        train_fraction: share of the training images that trains the weights w, between 0 and 1; the rest, the
            architecture half, trains alpha. A folder with a val folder has its own two parts: leave it at 0.5.
        augment: "none", "crop" or "crop_flip", applied to the weight half; None: "crop" for digits (a mirrored digit
            is no digit), "crop_flip" for all others.
        num_workers: worker processes per loader; 0 is the fastest for everything held in memory.
        on_device: keep the images on the device that trains (a GPU, or the CPU) and make the batches there, without a
            DataLoader. "auto": where the images are in memory, fit on the device, and no workers are asked for. True:
            the same, and a message says so where it cannot be. False: never.
        download: let torchvision download cifar10 or cifar100 into `root`; other sets ignore it.
        seed: of the split; independent of torch's global generator.
        limit: use only this many training images, after the seeded shuffle, for quick trials; None uses all.

    Raises:
        OptionError: an option has a wrong name, type or value.
    """

    name: str = "digits"
    root: str | os.PathLike[str] | None = None
    image_size: int | None = None
    batch_size: int = 64
    train_fraction: float = 0.5
    augment: str | None = None
    num_workers: int = 0
    on_device: bool | str = "auto"
    download: bool = False
    seed: int = 0
    limit: int | None = None

    def __post_init__(self) -> None:
        _require_word("name", self.name, tuple(SOURCES))
        _require_whole("image_size", self.image_size, least=_MIN_IMAGE_SIZE, most=_MAX_IMAGE_SIZE, optional=True)
        _require_whole("batch_size", self.batch_size, least=1)
        _require_whole("num_workers", self.num_workers, least=0, most=MAX_WORKERS)
        require_seed("data option seed", self.seed)
        _require_whole("limit", self.limit, least=2, optional=True)
        if self.augment is not None:
            _require_word("augment", self.augment, AUGMENTATIONS)
        fraction = self.train_fraction
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
            raise OptionError(
                f"data option train_fraction is {quoted(fraction)}; allowed is a number between 0 and 1, both "
                "excluded: 0.5 gives half of the training images to the weights and half to the architecture"
            )
        if self.on_device != "auto" and not isinstance(self.on_device, bool):
            raise OptionError(f"data option on_device is {quoted(self.on_device)}; allowed: auto, true, false")
        if self.on_device is True and self.num_workers:
            raise OptionError(
                "data option on_device is true, and then there are no loader processes: set num_workers to 0, or "
                "on_device to false"
            )
        if not isinstance(self.download, bool):
            raise OptionError(f"data option download is {quoted(self.download)}; allowed: true, false")
        if self.root is not None and (not isinstance(self.root, str | os.PathLike) or self.root == ""):
            raise OptionError(f"data option root is {quoted(self.root)}; give the path of a folder, or leave it out")
        if self.root is None and self.name == "folder":
            raise OptionError(
                "data set 'folder' needs the option root: a folder that holds one folder of images per class"
            )
        if self.root is not None:
            object.__setattr__(self, "root", os.fspath(self.root))  # a string, for JSON and YAML


def _require_word(option: str, given: object, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise OptionError(
            f"data option {option} is {quoted(given)}; allowed: {', '.join(allowed)}{nearest(str(given), allowed)}"
        )


def _require_whole(option: str, given: object, *, least: int, most: int | None = None, optional: bool = False) -> None:
    if optional and given is None:
        return
    default = ", or nothing for the default" if optional else ""
    if isinstance(given, bool) or not isinstance(given, int) or given < least:
        raise OptionError(
            f"data option {option} is {quoted(given)}; allowed is a whole number of at least {least}{default}"
        )
    if most is not None and given > most:
        raise OptionError(f"data option {option} is {quoted(given)}; allowed is at most {most}{default}")
