"""Replays of reference vectors, one module a method: each runs the package's own code on a file's inputs.

A module is called like the file (up to the first ``_heldout`` or ``.``). It has `SECTIONS`, section -> a function of
the document that returns the largest difference, and `INPUTS`, the sections that hold no results. A function `unknown`
of the document names what it does not replay inside of sections.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

DESCRIPTIONS = {"doc", "method", "repository", "commit", "source", "dtype", "torch", "nni_version", "meta"}
"""Sections that only say where a file comes from."""


def tensor(values: Any) -> Tensor:
    """Return numbers as float64."""
    return torch.as_tensor(values, dtype=torch.float64)


def difference(*pairs: tuple[Any, Any]) -> float:
    """Return the largest difference of (found, expected), relative where the expected number is above 1."""
    return max((_difference(tensor(found).detach(), tensor(expected)) for found, expected in pairs), default=0.0)


def _difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    off = (found - expected).abs() / expected.abs().clamp_min(1)
    off = torch.where(found.isnan() & expected.isnan() | (found == expected), 0.0, off)
    return float(off.nan_to_num(torch.inf).max()) if off.numel() else 0.0


def largest(differences: Iterable[float]) -> float:
    """Return the largest of several differences."""
    return max(differences, default=0.0)


def put(tensors: Iterable[Tensor], values: Iterable[Any]) -> None:
    """Write values into parameters."""
    with torch.no_grad():
        for t, value in zip(tensors, values, strict=True):
            t.copy_(tensor(value))
