"""The state of every random generator as tensors of fixed shapes, so that a state dict can hold it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def random_tensors() -> dict[str, Tensor]:
    """Return the state of Python's, NumPy's and torch's generators (those of its GPUs too) by name."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    states = {
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "python_gauss": torch.tensor([gauss is not None, gauss or 0.0], dtype=torch.float64),
        "numpy": torch.tensor([*keys.tolist(), position, has_gauss], dtype=torch.int64),
        "numpy_gauss": torch.tensor(cached, dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states |= {f"cuda_{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore_random_tensors(states: Mapping[str, Tensor]) -> None:
    """Restore what `random_tensors` returned; GPUs that are not there any more are left out."""
    version, *words = states["python"].tolist()
    has_gauss, gauss = states["python_gauss"].tolist()
    random.setstate((version, tuple(words), gauss if has_gauss else None))
    *keys, position, has_gauss = states["numpy"].tolist()
    cached = float(states["numpy_gauss"])
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"].cpu())
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            if f"cuda_{i}" in states:
                torch.cuda.set_rng_state(states[f"cuda_{i}"].cpu(), i)


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Put every random generator back when the block ends."""
    states = random_tensors()
    try:
        yield
    finally:
        restore_random_tensors(states)
