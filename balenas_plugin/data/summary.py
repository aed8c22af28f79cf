"""Say in a few lines what a search runs on, so that a mistake in the data is seen before the search and not after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from balenas_plugin.data.search_data import SearchData

_SHOWN_CLASSES = 8
_UNEVEN = 3  # times as many images in the largest class as in the smallest


def summary(data: SearchData) -> dict[str, str]:
    """Return title -> text: the images, their classes, and which of them train what."""
    return {"images": _images(data), "classes": _classes(data), "halves": _halves(data)}


def _images(data: SearchData) -> str:
    known, used = data.description, sum(data.sizes) if data.is_split else len(data.weight_rows)
    available = known["available_images"]
    count = f"{used:,}" if used == available else f"{used:,} of {available:,}"
    _, height, width = data.image_shape
    where = f"in {known['root']}" if "root" in known else f"of the set {known['name']}"
    text = f"{count} {where}"
    if "smallest" not in known:
        return f"{text}, {width}x{height} pixels"
    small, large = ("x".join(str(side) for side in known[name]) for name in ("smallest", "largest"))
    text += f", {small} pixels" if small == large else f", {small} to {large} pixels"
    text += f"; their central squares, scaled to {width}x{height}, are used"
    others = {mode: number for mode, number in known["modes"].items() if mode != "RGB"}
    if others:
        text += f" in RGB ({', '.join(f'{number:,} are {mode}' for mode, number in others.items())})"
    if known["left_out"]:
        left_out = ", ".join(f"{number:,} {ending}" for ending, number in sorted(known["left_out"].items()))
        text += f"; other files are left out: {left_out}"
    return text


def _classes(data: SearchData) -> str:
    halves = {"weights": data.weight_set.labels}
    if data.is_split:
        halves["architecture"] = data.architecture_set.labels
    in_half = {what: labels.bincount(minlength=data.num_classes).tolist() for what, labels in halves.items()}
    counts = dict(zip(data.class_names, map(sum, zip(*in_half.values(), strict=True)), strict=True))
    text = f"{len(counts)}: {_shown([f'{name} ({count:,})' for name, count in counts.items()])}"
    largest = max(counts, key=lambda name: counts[name])
    smallest = min(counts, key=lambda name: counts[name])
    if counts[largest] >= _UNEVEN * counts[smallest]:
        share = counts[largest] / sum(counts.values())
        text += f"; uneven: who always says {largest} is right for {share:.0%}, {smallest} is rare"
    for what, numbers in in_half.items():
        lacking = [name for name, number in zip(data.class_names, numbers, strict=True) if not number]
        if lacking:
            text += f"; WARNING: no image that trains the {what} is of {_shown(lacking)}"
    return text


def _halves(data: SearchData) -> str:
    weights, architecture = data.sizes
    if not data.is_split:
        return f"none: all {weights:,} train the weights and the architecture, and validate it"
    folders = data.description.get("folders", {})
    text = f"{weights:,} train the weights, {architecture:,} others the architecture and validate it"
    if "train" in folders:
        name = {split: Path(entry["folder"]).name for split, entry in folders.items()}
        text = f"{weights:,} of {name['train']} train the weights, {architecture:,} "
        text += f"of {name['val']}" if "val" in folders else f"others of {name['train']}"
        text += " the architecture and validate it"
        if "test" in folders:
            text += f"; {name['test']} ({folders['test']['images']:,}) is not touched"
    return text


def _shown(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_CLASSES
    return ", ".join(names[:_SHOWN_CLASSES]) + (f" and {more:,} more" if more > 0 else "")
