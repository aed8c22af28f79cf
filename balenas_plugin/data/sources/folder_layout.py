"""Find the images of a folder: classes in it, or classes in its folders for training, validation and test.

Whatever can be read in two ways is refused with the names of the folders: a search on the wrong classes runs as well as
one on the right ones, and its numbers look better.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from balenas_plugin.errors import DataError

_SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""What images are for -> names of their folder, in small letters."""

_ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
_NOT_DATA = ("thumbs.db", "desktop.ini", "__macosx")  # what operating systems leave; and all hidden names
_EXPECTED = (
    "Images are expected at <root>/<class>/<image>, or at <root>/<split>/<class>/<image> with the splits "
    "train, val and test"
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """The images of one folder of classes.

    Attributes:
        folder: that holds the class folders.
        class_names: sorted; what of a folder's name is not in UTF-8 is written with backslashes.
        paths: of the images, class by class, sorted within each.
        labels: class number of each.
        left_out: ending -> number of other files in the class folders.
    """

    folder: Path
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    left_out: Counter[str]


def find_parts(root: Path) -> dict[str, Part]:
    """Return {"all": ...} if the class folders are in `root`, else those of "train", "val" and "test" that are there.

    Raises:
        DataError: the layout is none of these, or could be two of them.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}: images are read from a folder that has one folder per class")
    top = _Listing.of(root)
    split_of = {name: split for split, names in _SPLITS.items() for name in top.folders if name.lower() in names}
    if not split_of:
        return {"all": _part(root)}
    others = [name for name in top.folders if name not in split_of and _first_image(root / name) is not None]
    if others:
        raise DataError(
            f"{root} has {_listed(split_of, 'folder')} beside {_listed(others, 'folder')}: are these classes, or are "
            f"the former splits of the data? Rename {next(iter(split_of))!r} if it is a class; else take "
            f"{_listed(others)} away."
        )
    if top.images:
        raise DataError(
            f"{root} has images, such as {top.images[0]!r}, beside {_listed(split_of, 'folder')}: put every image into "
            f"the folder of its class. {_EXPECTED}."
        )
    found: dict[str, Part] = {}
    for name, split in split_of.items():
        if split in found:
            raise DataError(f"{found[split].folder} and {root / name} both stand for the {split} images: keep one")
        found[split] = _part(root / name)
    if "train" not in found:
        raise DataError(f"{root} has {_listed(split_of, 'folder')} but no folder 'train', which a search needs")
    for part in found.values():
        _require_same_classes(found["train"], part)
    return found


def _part(folder: Path) -> Part:
    top = _Listing.of(folder)
    if top.images:
        beside = f" beside {_listed(top.folders, 'folder')}" if top.folders else ""
        raise DataError(
            f"{folder} has images, such as {top.images[0]!r},{beside or ' itself'}: put every image into the folder of "
            f"its class. {_EXPECTED}."
        )
    classes = {name: _Listing.of(folder / name) for name in top.folders}
    for name, inside in classes.items():
        for inner in inside.folders:
            deep = _first_image(folder / name / inner)
            if deep is not None:
                raise DataError(
                    f"{deep} lies too deep. {_EXPECTED}. Is root one level too high? Try {folder / name}; or move the "
                    f"images of {folder / name} into it."
                )
    if not any(inside.images for inside in classes.values()):
        raise DataError(f"{folder} is no folder of images by class: there are no images in it. {_EXPECTED}.")
    for name, inside in classes.items():
        if not inside.images:
            other = f" (only {_counted(inside.others)})" if inside.others else ""
            raise DataError(
                f"the class folder {folder / name} is empty of images{other}: put at least one image into each class "
                "folder, and take other folders away"
            )
    if len(classes) < 2:
        raise DataError(
            f"{folder} holds the single class {top.folders[0]!r}; a search needs at least two. Is root one level too "
            f"high or too low? {_EXPECTED}."
        )
    return Part(
        folder=folder,
        class_names=tuple(os.fsencode(name).decode(errors="backslashreplace") for name in classes),
        paths=tuple(str(folder / name / image) for name, inside in classes.items() for image in inside.images),
        labels=tuple(label for label, inside in enumerate(classes.values()) for _ in inside.images),
        left_out=sum((inside.others for inside in classes.values()), Counter()),
    )


def _require_same_classes(train: Part, other: Part) -> None:
    missing = sorted(set(train.class_names) - set(other.class_names))
    more = sorted(set(other.class_names) - set(train.class_names))
    if missing or more:
        differences = [f"lacks {_listed(missing, 'class')}"] if missing else []
        differences += [f"has {_listed(more, 'class')} besides"] if more else []
        raise DataError(
            f"{other.folder} {' and '.join(differences)}: its classes must be those of {train.folder}, "
            f"{_listed(train.class_names)}"
        )


@dataclass(frozen=True)
class _Listing:
    """Names in a folder, sorted, and how many other files there are of each ending."""

    folders: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, folder: Path) -> _Listing:
        listing = cls()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"cannot look into the folder {folder}: {error.strerror}") from error
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in _NOT_DATA:
                continue
            if entry.is_dir():
                listing.folders.append(entry.name)
            elif entry.name.lower().endswith(_ENDINGS):
                listing.images.append(entry.name)
            else:
                listing.others[Path(entry.name).suffix.lower() or "no ending"] += 1
        return listing


def _first_image(folder: Path) -> str | None:
    """Return an image at any depth, or None."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name.lower() not in _NOT_DATA)
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(_ENDINGS):
                return str(Path(place, name))
    return None


def _listed(given: Iterable[str], noun: str = "") -> str:
    """Return up to five names in quotes, after their noun."""
    names = list(given)
    shown = ", ".join(repr(name) for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"the {noun if len(names) == 1 else plural} {shown}" if noun else shown


def _counted(endings: Counter[str]) -> str:
    return ", ".join(f"{count} {ending}" for ending, count in endings.most_common(5))
