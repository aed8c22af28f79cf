"""Record how a pass over a network calls its modules."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from balenas_plugin.errors import first_line
from balenas_plugin.export.standalone.expressions import NotExportableError

RESERVED = ("self", "torch", "nn", "F", "Tensor", "operator", "math")
"""Names that the written module gives a meaning."""

Layout = tuple["Layout", ...] | list["Layout"] | None
"""How tensors are nested in an argument; None is one tensor."""


@dataclass(frozen=True, repr=False)
class Argument:
    """One argument that a module is called with.

    Args:
        name: of the parameter of its forward.
        starred: whether it collects positional arguments (``*name``).
        layout: how tensors are nested in it.
    """

    name: str
    starred: bool
    layout: Layout

    @property
    def tensors(self) -> dict[str, str]:
        """A name of its own for each tensor -> the source that reads the tensor from the argument."""
        return _tensors(self.layout, self.name, self.name)

    @property
    def value(self) -> str:
        """Source that puts the argument together from the names in `tensors`, as it stands in a call."""
        value = _construct(self.layout, self.name)
        return f"*{value}" if self.starred else f"{self.name}={value}"

    @property
    def declaration(self) -> str:
        """Source that declares the parameter."""
        if self.starred:
            kinds = {_annotation(entry) for entry in self.layout or ()}
            return f"*{self.name}: {kinds.pop()}" if len(kinds) == 1 else f"*{self.name}"
        return f"{self.name}: {_annotation(self.layout)}"


@dataclass(frozen=True, repr=False)
class Calls:
    """How a module is called in all modes.

    Args:
        arguments: names and layouts; the arguments that are not given are at their defaults.
        outputs: layouts of what it returns, several where calls differ.
    """

    arguments: tuple[Argument, ...]
    outputs: tuple[Layout, ...]

    @property
    def one_tensor(self) -> bool:
        """Whether it always returns one tensor."""
        return all(output is None for output in self.outputs)

    @property
    def returns(self) -> str:
        """Source that declares what the module returns, empty where that differs."""
        kinds = {_annotation(output) for output in self.outputs}
        return f" -> {kinds.pop()}" if len(kinds) == 1 else ""


def record_calls(model: nn.Module, example: Tensor) -> dict[nn.Module, Calls]:
    """Return module -> how it is called, for the modules that map tensors to tensors in the same way every time.

    Raises:
        NotExportableError: the network cannot compute `example`.
    """
    found: dict[nn.Module, list[Calls | None]] = {}

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        found.setdefault(module, []).append(_describe(module, args, kwargs, output))

    hooks = [module.register_forward_hook(record, with_kwargs=True) for module in model.modules()]
    try:
        with torch.no_grad():
            model.eval()(example)
            model.train()(training_batch(example))
    except Exception as error:  # whatever the user's own code raises
        raise NotExportableError(
            f"it cannot compute an input of shape {tuple(example.shape)}: {first_line(error)}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return {module: same for module, calls in found.items() if (same := _in_common(calls)) is not None}


def training_batch(example: Tensor) -> Tensor:
    """Return `example` with at least two entries, which batch normalisation needs in training."""
    return example if len(example) > 1 else torch.cat([example, example])


def _in_common(calls: list[Calls | None]) -> Calls | None:
    """Return the description of all of `calls`, or None if the module is called in several ways."""
    known = [call for call in calls if call is not None]
    if len(known) < len(calls) or any(call.arguments != known[0].arguments for call in known):
        return None
    return Calls(known[0].arguments, tuple(output for call in known for output in call.outputs))


def _describe(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Calls | None:
    """Return how this call calls `module`, or None if something in it is not a tensor."""
    signature = inspect.signature(module.forward)
    arguments = []
    for name, value in signature.bind(*args, **kwargs).arguments.items():
        kind = signature.parameters[name].kind
        if name in RESERVED or kind is inspect.Parameter.VAR_KEYWORD or not _is_nested_tensors(value):
            return None
        arguments.append(Argument(name, kind is inspect.Parameter.VAR_POSITIONAL, _layout(value)))
    return Calls(tuple(arguments), (_layout(output),)) if _is_nested_tensors(output) else None


def _is_nested_tensors(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(map(_is_nested_tensors, value))
    return isinstance(value, Tensor)


def _layout(value: Any) -> Layout:
    if isinstance(value, Tensor):
        return None
    entries = [_layout(entry) for entry in value]
    return tuple(entries) if isinstance(value, tuple) else entries


def _tensors(layout: Layout, name: str, access: str) -> dict[str, str]:
    if layout is None:
        return {name: access}
    return {
        inner: source
        for index, entry in enumerate(layout)
        for inner, source in _tensors(entry, f"{name}_{index}", f"{access}[{index}]").items()
    }


def _construct(layout: Layout, name: str) -> str:
    if layout is None:
        return name
    entries = "".join(f"{_construct(entry, f'{name}_{index}')}, " for index, entry in enumerate(layout))
    return f"[{entries}]" if isinstance(layout, list) else f"({entries})"


def _annotation(layout: Layout) -> str:
    if layout is None:
        return "Tensor"
    kind = "list" if isinstance(layout, list) else "tuple"
    inner = {_annotation(entry) for entry in layout}
    of = inner.pop() if len(inner) == 1 else "Any"
    return f"list[{of}]" if kind == "list" else f"tuple[{of}, ...]"
