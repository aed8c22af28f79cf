"""Look at a folder of images: what is in it, and what cannot be used."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from balenas_plugin.data.checking import describe_files, look_at
from balenas_plugin.data.sources.folder_layout import find_parts
from balenas_plugin.data.square import central_square
from balenas_plugin.errors import DataError
from balenas_plugin.files import expanded, open_regular

LEAST_OF_A_CLASS = 5
"""Images: some to train with, one to choose by, one to test with."""

THUMBNAIL = 16
"""Pixels a side of the small images that are compared."""

_UNEVEN = 3  # times as many images in the largest class as in the smallest
_SHOWN = 8
_READ = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What is in a folder of images.

    Attributes:
        root: the folder.
        class_names: sorted.
        paths: part ("all", or "train", "val" and "test") -> its images that can be used.
        labels: the same -> class number of each.
        unreadable: path -> why it cannot be decoded.
        repeated: path -> the image that it is a copy of: one of the two is used.
        contradictory: path -> the same image in another class: none of them is used.
        other_files: ending -> number of files that are no images.
        described: sizes and modes, see `describe_files`.
        side: the median of the images' shorter sides, in pixels.
        thumbnails: path -> uint8, shape (`THUMBNAIL`, `THUMBNAIL`, 3).
    """

    root: Path
    class_names: tuple[str, ...]
    paths: Mapping[str, Sequence[str]]
    labels: Mapping[str, Sequence[int]]
    unreadable: Mapping[str, str]
    repeated: Mapping[str, str]
    contradictory: Mapping[str, str]
    other_files: Mapping[str, int]
    described: Mapping[str, Any]
    side: int
    thumbnails: Mapping[str, np.ndarray]

    @property
    def count(self) -> int:
        """Images that can be used."""
        return sum(map(len, self.paths.values()))

    def left_out(self) -> Iterator[str]:
        """Yield a line for each image that is left out, and for each ending of other files."""
        reasons = (
            (self.unreadable, "cannot be decoded"),
            (self.repeated, "is a copy of"),
            (self.contradictory, "is the same image, in another class, as"),
        )
        for paths, reason in reasons:
            for path, what in paths.items():
                yield f"{path}\t{reason}{'' if reason.startswith('is') else ':'} {what}"
        for ending, count in self.other_files.items():
            yield f"{ending}\t{count:,} file{'s' * (count != 1)}, not read as images"

    def require_usable(self, *, skip_unreadable: bool) -> None:
        """Raise unless a network can be made of this.

        Raises:
            DataError: files are unreadable and must not be skipped, or a class has too few images.
        """
        if self.unreadable and not skip_unreadable:
            first = next(iter(self.unreadable))
            raise DataError(
                f"{len(self.unreadable):,} of {self.count + len(self.unreadable):,} images cannot be decoded, such as "
                f"{first}: {self.unreadable[first]}. Replace or delete them, or say --skip-unreadable."
            )
        for part, labels in self.labels.items():
            counts = np.bincount(np.asarray(labels, dtype=np.int64), minlength=len(self.class_names))
            least = LEAST_OF_A_CLASS if part == "all" else 2 if part == "train" else 1
            rare = int(counts.argmin())
            if counts[rare] < least:
                where = "" if part == "all" else f" among the images of {part}"
                raise DataError(
                    f"the class {self.class_names[rare]!r} has {counts[rare]} usable "
                    f"image{'' if counts[rare] == 1 else 's'}{where}, and needs at least {least}, to train with, to "
                    "choose by and to test with: add images, or take the class away."
                )

    def summary(self) -> dict[str, str]:
        """Return title -> text, for people."""
        sizes = [f"{width}x{height}" for width, height in (self.described["smallest"], self.described["largest"])]
        images = f"{self.count:,} in {self.root}, {' to '.join(dict.fromkeys(sizes))} pixels"
        others = {mode: number for mode, number in self.described["modes"].items() if mode != "RGB"}
        if others:
            images += f" ({', '.join(f'{number:,} are {mode}' for mode, number in others.items())}; all become RGB)"
        lines = {"images": images, "classes": self._classes()}
        left = {
            "cannot be decoded": len(self.unreadable),
            "are copies of others": len(self.repeated),
            "are in several classes": len(self.contradictory),
            "are no images": sum(self.other_files.values()),
        }
        if any(left.values()):
            lines["left out"] = ", ".join(f"{number:,} {what}" for what, number in left.items() if number)
        return lines

    def _classes(self) -> str:
        numbers = Counter(label for labels in self.labels.values() for label in labels)
        counts = {name: numbers[label] for label, name in enumerate(self.class_names)}
        shown = ", ".join(f"{name} ({count:,})" for name, count in list(counts.items())[:_SHOWN])
        text = f"{len(counts)}: {shown}" + (f" and {len(counts) - _SHOWN:,} more" if len(counts) > _SHOWN else "")
        (largest, most), (smallest, least) = (pick(counts.items(), key=lambda item: item[1]) for pick in (max, min))
        if most >= _UNEVEN * max(least, 1):
            text += (
                f"; uneven: who always says {largest} is right for {most / sum(counts.values()):.0%}, and {smallest}"
            )
            text += " is rare"
        return text


def look(folder: str | os.PathLike[str], *, progress: bool) -> Looked:
    """Decode every image of a folder once.

    Args:
        folder: of images by class, or of folders train, val and test above the classes.
        progress: show a bar on standard error.

    Raises:
        DataError: the folder is absent, its layout is none that is known, or no image of it can be decoded.
    """
    root = expanded(folder)
    parts = find_parts(root)
    class_names = next(iter(parts.values())).class_names
    labelled = {path: (name, label) for name, part in parts.items() for path, label in _labelled(part)}

    def glance(image: Image.Image) -> tuple[tuple[int, int], str, np.ndarray]:
        size, mode = image.size, image.mode
        return size, mode, np.asarray(central_square(image, THUMBNAIL))

    seen, unreadable = look_at(list(labelled), glance, bar="looking at every image" if progress else None)
    if not seen:
        path, why = next(iter(unreadable.items()))
        raise DataError(f"none of the {len(unreadable):,} images in {root} can be decoded, e.g. {path}: {why}")
    repeated, contradictory = _copies(
        {path: (thumbnail.tobytes(), *labelled[path]) for path, (_, _, thumbnail) in seen.items()}
    )
    used = {path: labelled[path] for path in seen if path not in repeated and path not in contradictory}
    paths: dict[str, list[str]] = {name: [] for name in parts}
    labels: dict[str, list[int]] = {name: [] for name in parts}
    for path, (name, label) in used.items():
        paths[name].append(path)
        labels[name].append(label)
    return Looked(
        root=root,
        class_names=class_names,
        paths=paths,
        labels=labels,
        unreadable=unreadable,
        repeated=repeated,
        contradictory=contradictory,
        other_files=sum((part.left_out for part in parts.values()), Counter()),
        described=describe_files((size, mode) for size, mode, _ in seen.values()),
        side=int(np.median([min(size) for size, _, _ in seen.values()])),
        thumbnails={path: seen[path][2] for path in used},
    )


def _labelled(part: Any) -> Iterator[tuple[str, int]]:
    return zip(part.paths, part.labels, strict=True)


def _copies(images: Mapping[str, tuple[bytes, str, int]]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the images that are copies of others of their class, and those whose file is in several classes.

    Of copies, the one in the test images is used, then the one in the validation images: what tests is not seen.

    Args:
        images: path -> thumbnail, part, class number. Only files with one thumbnail are read to compare them.
    """
    alike: dict[Any, list[str]] = {}
    for path, (thumbnail, _, _) in images.items():
        alike.setdefault(thumbnail, []).append(path)
    same: dict[Any, list[str]] = {}
    for path in (path for paths in alike.values() if len(paths) > 1 for path in paths):
        same.setdefault(_digest(path), []).append(path)
    repeated, contradictory = dict[str, str](), dict[str, str]()
    for paths in same.values():
        first = min(paths, key=lambda path: ("test", "val", "train", "all").index(images[path][1]))
        for path in paths:
            other = next((other for other in paths if images[other][2] != images[path][2]), None)
            if other is not None:
                contradictory[path] = other
            elif path != first:
                repeated[path] = first
    return repeated, contradictory


def _digest(path: str) -> bytes:
    found = hashlib.sha256()
    with open_regular(path) as file:
        read: Callable[[], bytes] = lambda: file.read(_READ)  # noqa: E731 - for iter()
        for block in iter(read, b""):
            found.update(block)
    return found.digest()
