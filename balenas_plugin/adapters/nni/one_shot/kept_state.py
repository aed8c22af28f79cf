"""Put back what a user's modules keep in plain attributes: lists of outputs, counters, meters, tensors, generators."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

_OTHERS = (nn.Module, pl.Trainer, Optimizer, DataLoader, Dataset, type, ModuleType, FunctionType, MethodType)
"""Not followed: modules are looked at one by one, and no step of a search changes the others."""

_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
_REGISTRIES = ("_parameters", "_buffers", "_modules")  # of a module: what is in them is not followed
_DEPTH = 3  # a list in a meter of a module
_LARGEST_STATISTIC = 2**20  # a larger tensor that is no buffer is data, and not copied


@contextmanager
def attributes_kept(module: nn.Module) -> Iterator[None]:
    """Leave the attributes of a module, and of all modules in it, after the block as they were before it.

    What a parameter or buffer holds is not kept, but one replaced by another tensor is put back, as are modules.
    """
    undo: dict[int, Callable[[], object]] = {}
    for part in module.modules():
        _keep(part, undo, _DEPTH)
    try:
        yield
    finally:
        for put_back in undo.values():
            put_back()


def _keep(value: Any, undo: dict[int, Callable[[], object]], depth: int) -> None:
    """Note how `value`, and what is in it, is put back."""
    if id(value) in undo or depth == 0:
        return
    inside: list[tuple[int, Any]] = []
    if isinstance(value, Tensor):
        small = value.numel() <= _LARGEST_STATISTIC
        if small and not isinstance(value, nn.Parameter) and not value.is_inference():
            undo[id(value)] = _values(value)
    elif isinstance(value, np.ndarray):
        if value.size <= _LARGEST_STATISTIC:
            before = value.copy()
            undo[id(value)] = lambda: np.copyto(value, before)
    elif isinstance(value, _GENERATORS):
        undo[id(value)] = _generator(value)
    elif isinstance(value, (list, deque, set, dict)):
        contents: Any = dict(value) if isinstance(value, dict) else list(value)
        fill = value.extend if isinstance(value, (list, deque)) else value.update
        undo[id(value)] = lambda: (value.clear(), fill(contents))
        inside = [(depth - 1, item) for item in (contents.values() if isinstance(value, dict) else contents)]
    elif hasattr(value, "__dict__"):
        attributes = dict(vars(value))
        undo[id(value)] = lambda: _set_attributes(value, attributes)
        inside = [(1 if name in _REGISTRIES else depth - 1, item) for name, item in attributes.items()]
    for left, item in inside:
        if not isinstance(item, _OTHERS):
            _keep(item, undo, left)


def _set_attributes(value: Any, attributes: dict[str, Any]) -> None:
    own = vars(value)
    for name in own.keys() - attributes.keys():
        del own[name]
    own.update(attributes)


def _values(tensor: Tensor) -> Callable[[], None]:
    before, version = tensor.detach().clone(), tensor._version

    def put_back() -> None:
        if tensor._version != version:  # or a graph that holds it could no longer be differentiated
            with torch.no_grad():
                tensor.copy_(before)

    return put_back


def _generator(generator: Any) -> Callable[[], object]:
    if isinstance(generator, np.random.Generator):
        state = generator.bit_generator.state
        return lambda: setattr(generator.bit_generator, "state", state)
    prefix = ("get", "set") if isinstance(generator, random.Random) else ("get_", "set_")
    state = getattr(generator, f"{prefix[0]}state")()
    return lambda: getattr(generator, f"{prefix[1]}state")(state)
