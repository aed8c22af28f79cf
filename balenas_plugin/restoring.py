"""Leave no trace: put back what a measurement or a trial changes in a network, and every random generator.

`untouched` restores everything; the other context managers are its parts, for blocks that change less.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

_NOT_FOLLOWED = (nn.Module, Optimizer, DataLoader, Dataset, type, ModuleType, FunctionType, MethodType)
"""Modules are looked at one by one, and no step of a search changes the others."""

_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
_REGISTRIES = ("_parameters", "_buffers", "_modules")  # of a module: what is in them is not followed
_DEPTH = 3  # a list in a meter of a module
_LARGEST_STATISTIC = 2**20  # a larger tensor that is no buffer is data, and not copied


@contextmanager
def untouched(module: nn.Module, *, seed: int | None = None, besides: tuple[type, ...] = ()) -> Iterator[None]:
    """Leave a network and all random generators after the block as they were before it.

    Restored: what buffers hold (batch-norm statistics), modes, which parameters have gradients, what modules keep in
    attributes, and the random generators. Neither the values of parameters nor their gradients are copied: restore the
    first with `restored`, and call no `backward`.

    Args:
        module: the network.
        seed: of torch's generators inside the block; None: they go on from where they are.
        besides: further classes whose objects are not looked into where modules keep them in attributes.
    """
    learned = {parameter: parameter.requires_grad for parameter in module.parameters()}
    with random_numbers_restored(seed), restored(list(module.buffers())), attributes_restored(module, besides=besides):
        try:
            yield
        finally:
            for parameter, requires_grad in learned.items():
                parameter.requires_grad_(requires_grad)


@contextmanager
def restored(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Restore the values of `tensors`, bit for bit, when the block ends; yields copies of them."""
    saved = [t.detach().clone() for t in tensors]
    try:
        yield saved
    finally:
        with torch.no_grad():
            for t, value in zip(tensors, saved, strict=True):
                t.copy_(value)


@contextmanager
def modes_restored(module: nn.Module) -> Iterator[None]:
    """Restore the mode, training or evaluation, of each module in `module` when the block ends."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


# -- random generators ----------------------------------------------------------------------------------------------


def random_states(*, gpus: bool | None = None) -> dict[str, Tensor]:
    """Return the states of Python's, NumPy's and torch's generators by name, as tensors of fixed shapes.

    Args:
        gpus: whether to include those of the GPUs, which starts CUDA; None: if there are any.
    """
    version, words, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=True)  # a dict of other generators would do as well, says its type
    _, keys, position, has_gauss, cached = legacy
    cuda = torch.cuda.get_rng_state_all() if (torch.cuda.is_available() if gpus is None else gpus) else []
    return {
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "python_gauss": torch.tensor([gauss is not None, gauss or 0.0], dtype=torch.float64),
        "numpy": torch.tensor([*keys.tolist(), position, has_gauss], dtype=torch.int64),
        "numpy_gauss": torch.tensor(cached, dtype=torch.float64),
        "torch": torch.get_rng_state(),
        **{f"cuda_{i}": state for i, state in enumerate(cuda)},
    }


def set_random_states(states: Mapping[str, Tensor]) -> None:
    """Set the generators to what `random_states` returned; GPUs that are not there any more are left out."""
    version, *words = states["python"].tolist()
    has_gauss, gauss = states["python_gauss"].tolist()
    random.setstate((version, tuple(words), gauss if has_gauss else None))
    *keys, position, has_gauss = states["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, float(states["numpy_gauss"])))
    torch.set_rng_state(states["torch"].cpu())
    for i in range(torch.cuda.device_count() if "cuda_0" in states else 0):
        if f"cuda_{i}" in states:
            torch.cuda.set_rng_state(states[f"cuda_{i}"].cpu(), i)


@contextmanager
def random_numbers_restored(seed: int | None = None) -> Iterator[None]:
    """Restore every random generator when the block ends; inside, torch's begin with `seed` if one is given."""
    states = random_states(gpus=torch.cuda.is_initialized())  # never where CUDA was started before a fork
    try:
        if seed is not None:
            torch.manual_seed(seed)
        yield
    finally:
        set_random_states(states)


# -- attributes -----------------------------------------------------------------------------------------------------


@contextmanager
def attributes_restored(module: nn.Module, *, besides: tuple[type, ...] = ()) -> Iterator[None]:
    """Restore the attributes of all modules in `module`: lists of outputs, counters, meters, tensors, generators.

    What a parameter or buffer holds is not restored, but one replaced by another tensor is, and so are modules.

    Args:
        module: the network.
        besides: classes whose objects are not looked into.
    """
    undo: dict[int, Callable[[], object]] = {}
    for part in module.modules():
        _note(part, undo, _DEPTH, (*_NOT_FOLLOWED, *besides))
    try:
        yield
    finally:
        for restore in undo.values():
            restore()


def _note(value: Any, undo: dict[int, Callable[[], object]], depth: int, not_followed: tuple[type, ...]) -> None:
    """Note how `value`, and what is in it, is restored."""
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
        if not isinstance(item, not_followed):
            _note(item, undo, left, not_followed)


def _set_attributes(value: Any, attributes: dict[str, Any]) -> None:
    own = vars(value)
    for name in own.keys() - attributes.keys():
        del own[name]
    own.update(attributes)


def _values(tensor: Tensor) -> Callable[[], None]:
    before, version = tensor.detach().clone(), tensor._version

    def restore() -> None:
        if tensor._version != version:  # or a graph that holds it could no longer be differentiated
            with torch.no_grad():
                tensor.copy_(before)

    return restore


def _generator(generator: Any) -> Callable[[], object]:
    if isinstance(generator, np.random.Generator):
        state = generator.bit_generator.state
        return lambda: setattr(generator.bit_generator, "state", state)
    prefix = ("get", "set") if isinstance(generator, random.Random) else ("get_", "set_")
    state = getattr(generator, f"{prefix[0]}state")()
    return lambda: getattr(generator, f"{prefix[1]}state")(state)
