"""Compare two runs bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

RESULTS = ("history.csv", "diagnostics.jsonl", "posterior.json", "architectures.json")


def differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Yield where two nested structures of tensors and plain values differ, be it in the last bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or not torch.equal(one, other):
            yield where
    elif isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            if key in one and key in other:
                yield from differences(one[key], other[key], f"{where}/{key}")
            else:
                yield f"{where}/{key} (in one only)"
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            yield f"{where} (lengths {len(one)} and {len(other)})"
        for k, (a, b) in enumerate(zip(one, other, strict=False)):
            yield from differences(a, b, f"{where}/{k}")
    elif type(one) is not type(other) or one != other:
        yield f"{where}: {one!r} and {other!r}"


def checkpoint_of(run: Path) -> dict[str, Any]:
    """Return a run's checkpoint, read without unpickling any object."""
    return torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)


def assert_same_run(one: Path, other: Path) -> None:
    """Assert that two runs have the same results, weights, optimizer states, random states and progress."""
    for name in RESULTS:
        if (one / name).exists() or (other / name).exists():
            assert (one / name).read_text() == (other / name).read_text(), name
    first, second = checkpoint_of(one), checkpoint_of(other)
    assert {"state_dict", "optimizer_states", "lr_schedulers", "callbacks", "loops"} <= set(first)
    assert list(differences(first, second)) == []
