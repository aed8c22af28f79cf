"""Decode every image file once, before a search or a training starts: what is in them, and which cannot be read."""

from __future__ import annotations

import math
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.pool import ThreadPool
from typing import Any, TypeVar

from PIL import Image
from tqdm import tqdm

from balenas_plugin.data.image_set import ImageSet
from balenas_plugin.data.sources.folder import UNREADABLE, ImageFiles, open_image, why_unreadable
from balenas_plugin.data.square import central_square
from balenas_plugin.errors import DataError
from balenas_plugin.machine import cores

_MAX_THREADS = 4  # each holds an image of up to 179 megapixels; decoding does not hold Python's lock

T = TypeVar("T")

CHECKED = ("smallest", "largest", "modes")
"""What `check_files` returns: sizes as [width, height] by area, and Pillow's mode -> number of images."""


def check_files(*sets: ImageSet, progress: bool = False, called: str = "search") -> dict[str, Any]:
    """Return what the image files of sets hold, for a description of the data; nothing for images in memory.

    See `CHECKED`. It takes as long as an epoch's decoding, and finds what would end the search later, or after hours.

    Args:
        sets: of one data set.
        progress: show a bar on standard error if it takes more than a second.
        called: what the bar calls the work that this is the beginning of.

    Raises:
        DataError: files cannot be decoded; the message names the first and says how many.
    """
    paths = [path for images in sets for path in _paths(images)]
    if not paths:
        return {}
    size = sets[0].store.image_shape[1]

    def look(image: Image.Image) -> tuple[tuple[int, int], str]:
        found = image.size, image.mode
        central_square(image, size)
        return found

    found, unreadable = look_at(paths, look, bar=f"{called}: looking at every image" if progress else None)
    if unreadable:
        path = min(unreadable)
        count = "1 image" if len(unreadable) == 1 else f"{len(unreadable):,} images"
        raise DataError(
            f"{count} of {len(paths):,} cannot be decoded{', the first' if len(unreadable) > 1 else ''}: {path}: "
            f"{unreadable[path]}. Replace or delete {'the file' if len(unreadable) == 1 else 'the files'}."
        )
    return describe_files(found.values())


def describe_files(found: Iterable[tuple[tuple[int, int], str]]) -> dict[str, Any]:
    """Return the entries of `CHECKED`.

    Args:
        found: (width, height) and Pillow's mode of each image.
    """
    sizes, modes = zip(*found, strict=True)
    smallest, largest = list(min(sizes, key=math.prod)), list(max(sizes, key=math.prod))
    return dict(zip(CHECKED, (smallest, largest, dict(Counter(modes).most_common())), strict=True))


def look_at(
    paths: Sequence[str], look: Callable[[Image.Image], T], *, bar: str | None = None
) -> tuple[dict[str, T], dict[str, str]]:
    """Open image files, some at a time.

    Args:
        paths: of the files.
        look: is given each, not decoded yet, in one of several threads.
        bar: name of a bar on standard error, shown if it takes more than a second; None shows none.

    Returns:
        What `look` returns, by path, and why the others cannot be decoded, by path; both in the order of `paths`.
    """
    seen, unreadable = dict[str, T](), dict[str, str]()

    def one(path: str) -> tuple[T] | str:
        try:
            with open_image(path) as image:
                return (look(image),)
        except UNREADABLE as error:
            return why_unreadable(error)

    with warnings.catch_warnings(), ThreadPool(min(_MAX_THREADS, cores())) as pool:
        warnings.simplefilter("ignore")  # of Pillow, on large images and odd palettes
        for path, found in zip(paths, tqdm(pool.imap(one, paths), total=len(paths), **_bar(bar)), strict=True):
            if isinstance(found, str):
                unreadable[path] = found
            else:
                seen[path] = found[0]
    return seen, unreadable


def _paths(half: ImageSet) -> list[str]:
    return half.store.paths if isinstance(half.store, ImageFiles) else []


def _bar(title: str | None) -> dict[str, Any]:
    return {
        "desc": title,
        "unit": "image",
        "delay": 1,
        "leave": False,
        "dynamic_ncols": True,
        "mininterval": 0.2 if sys.stderr.isatty() else 10,
        "disable": title is None,
    }
