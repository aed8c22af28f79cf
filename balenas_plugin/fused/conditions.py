"""Where operations may be computed together: what is around a pass, what comes in, what has changed since a plan."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as _module
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from balenas_plugin.fused.chains import METHODS, hooks_of

_HOOKS_ON_ALL = (
    _module._global_forward_pre_hooks,
    _module._global_forward_hooks,
    _module._global_backward_pre_hooks,
    _module._global_backward_hooks,
)


def surroundings(harmless: tuple[type, ...] = ()) -> str | None:
    """Return what goes on around a pass that must see each operation, None if nothing does.

    Args:
        harmless: modes (`TorchFunctionMode`) that treat operations together as they do them one by one.
    """
    if any(_HOOKS_ON_ALL):
        return "a hook listens to all modules"
    if torch._C._are_functorch_transforms_active():
        return "a transform of torch.func is at work"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation is at work"
    if torch._C._get_tracing_state() is not None:
        return "torch.jit.trace is at work"
    if torch._C._len_torch_dispatch_stack():
        return "a TorchDispatchMode is at work"
    if torch._C._len_torch_function_stack():
        for mode in _get_current_function_mode_stack():
            if not isinstance(mode, (DeviceContext, *harmless)):
                return f"{type(mode).__name__} is at work"
    return None


def why_unfit(x: object) -> str | None:
    """Return why an input is not a plain floating tensor, None if it is."""
    if type(x) is not Tensor:
        return f"the input is a {type(x).__name__}"
    if not x.is_floating_point():
        return f"the input is {str(x.dtype).removeprefix('torch.')}"
    if x.layout is not torch.strided or x.is_nested:
        return "the input is sparse or nested"
    return None


class Snapshot:
    """All that modules keep in themselves, but not the values of tensors: cheap to compare.

    Args:
        whole: modules of which nothing may change.
        called: modules that are called, so that only hooks on them matter.
        code: classes whose methods matter too.
    """

    def __init__(
        self, whole: Iterable[nn.Module], called: Iterable[nn.Module] = (), code: Iterable[type[nn.Module]] = ()
    ) -> None:
        self._modules = list(whole)
        self._types = list(map(type, self._modules))
        self._kinds = list(dict.fromkeys((*self._types, *code)))
        self._code = self._code_now()
        self._attributes = _dictionaries((vars(m), m._modules) for m in self._modules)
        self._attributes_then = [dict(table) for table in self._attributes]
        self._tensors = _dictionaries((m._parameters, m._buffers) for m in self._modules)
        self._tensors_then = [dict(table) for table in self._tensors]
        self._ids = self._ids_now()
        self._hooks = [hooks for m in (*self._modules, *called) for hooks in hooks_of(m)]
        self._hooked = any(self._hooks)

    def holds(self) -> bool:
        """Return whether all is as it was, hooks or none too; other tensors of the same shapes may have come in."""
        try:
            same = self._attributes == self._attributes_then  # of the same objects, which is why it is quick
        except (RuntimeError, TypeError, ValueError):
            return False  # tensors and arrays that were replaced have no truth value
        if not same or any(self._hooks) is not self._hooked or self._types != list(map(type, self._modules)):
            return False
        return self._code == self._code_now() and (self._ids == self._ids_now() or self._tensors_fit())

    def _code_now(self) -> list[Any]:
        return [getattr(kind, method, None) for kind in self._kinds for method in METHODS]

    def _ids_now(self) -> list[int]:
        return list(map(id, chain.from_iterable(map(dict.values, self._tensors))))

    def _tensors_fit(self) -> bool:
        """Return whether tensors that were replaced (`functional_call`, `load_state_dict(assign=True)`) are alike."""
        for table, then in zip(self._tensors, self._tensors_then, strict=True):
            if table.keys() != then.keys() or any(_kind(table[name]) != _kind(then[name]) for name in then):
                return False
        self._tensors_then, self._ids = [dict(table) for table in self._tensors], self._ids_now()
        return True


def _dictionaries(tables: Iterable[Iterable[Any]]) -> list[dict[str, Any]]:
    """Return those tables that are plain ones: a scripted module keeps its own in C++."""
    return [table for of_module in tables for table in of_module if isinstance(table, dict)]


def _kind(tensor: Tensor | None) -> object:
    if tensor is None:
        return None
    return Tensor if type(tensor) is nn.Parameter else type(tensor), tensor.shape, tensor.dtype
