"""Describe Python objects in JSON so that another process can make them anew: what a trial needs travels as text.

Nothing is pickled. Objects made by something under `nni.trace` (NNI's evaluators, `Trainer`, `DataLoader`, spaces) are
described by the name and the arguments of what made them, classes and functions by their name, tensors as tensors.
"""

from __future__ import annotations

import functools
import importlib
import runpy
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

import nni
import numpy as np
import torch
from nni.common.serializer import is_traceable
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, Subset, TensorDataset

from balenas_plugin.errors import OptionError

Document = Any
"""Plain JSON: None, numbers, texts, lists, and dicts with one of the keys below."""

_MAIN = "__main__"
_IMPORTED_MAIN = "__balenas_main__"
"""Name under which a trial runs the user's script: not `__main__`, so what is guarded by that name does not run."""


@dataclass
class Description:
    """Objects as JSON, and the tensors in them.

    Args:
        tensors: in the order of their numbers in the documents.
        script: the script that `__main__` is, if an object needs a class of it.
    """

    tensors: list[torch.Tensor] = field(default_factory=list)
    script: str | None = None

    def describe(self, value: Any, where: str) -> Document:
        """Return the description of an object.

        Args:
            value: the object.
            where: what it is, for messages.

        Raises:
            OptionError: it, or something in it, cannot be made anew from a description.
        """
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, np.generic):
            return value.item()
        if is_traceable(value, must_be_instance=True):
            return self._call(value.trace_symbol, value.trace_args, value.trace_kwargs, where)
        if isinstance(value, list | tuple):
            kind = "list" if isinstance(value, list) else "tuple"
            return {kind: [self.describe(entry, f"{where}[{k}]") for k, entry in enumerate(value)]}
        if isinstance(value, Mapping):
            return {"dict": [[self.describe(k, where), self.describe(v, f"{where}[{k!r}]")] for k, v in value.items()]}
        if isinstance(value, Path):
            return {"path": str(value)}
        if isinstance(value, torch.dtype | torch.device):
            return {"torch": str(value), "is": type(value).__name__}
        if isinstance(value, torch.Tensor):
            self.tensors.append(value.detach().cpu())
            return {"tensor": len(self.tensors) - 1}
        if isinstance(value, type | FunctionType | BuiltinFunctionType):
            return {"name": self._name(value, where)}
        return self._plain_object(value, where)

    def _plain_object(self, value: Any, where: str) -> Document:
        """Describe the few untraced objects whose arguments can be read off them."""
        if isinstance(value, functools.partial):
            return self._call(functools.partial, [value.func, *value.args], value.keywords, where)
        if type(value) is TensorDataset:
            return self._call(TensorDataset, value.tensors, {}, where)
        if type(value) is Subset:
            return self._call(Subset, [], {"dataset": value.dataset, "indices": list(value.indices)}, where)
        if type(value) is DataLoader and type(value.sampler) in (RandomSampler, SequentialSampler):
            names = ("dataset", "batch_size", "num_workers", "drop_last", "pin_memory", "timeout", "collate_fn")
            shuffle = type(value.sampler) is RandomSampler
            return self._call(DataLoader, [], {n: getattr(value, n) for n in names} | {"shuffle": shuffle}, where)
        raise OptionError(
            f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which a trial in another process "
            "cannot make anew. Let nni.trace see how it is made: decorate its class with @nni.trace, or write "
            f"nni.trace({type(value).__qualname__})(...) in the place of {type(value).__qualname__}(...)."
        )

    def _call(self, symbol: Any, args: Any, kwargs: Mapping[str, Any], where: str) -> Document:
        described: Document = {"call": self._name(symbol, where)}
        inside = f"{where}: {getattr(symbol, '__name__', symbol)}("
        if args:
            described["args"] = [self.describe(arg, f"{inside}argument {k + 1})") for k, arg in enumerate(args)]
        if kwargs:
            described["kwargs"] = {name: self.describe(arg, f"{inside}{name}=...)") for name, arg in kwargs.items()}
        return described

    def _name(self, symbol: Any, where: str) -> str:
        """Return "module:name" of a class or function.

        Raises:
            OptionError: no other process can import it.
        """
        module, name = getattr(symbol, "__module__", None), getattr(symbol, "__qualname__", "")
        main = sys.modules[_MAIN]
        if module == _MAIN and getattr(main, "__file__", None):
            self.script = str(Path(str(main.__file__)).resolve())
        found: Any = sys.modules.get(module or "")
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is None or (module == _MAIN and self.script is None):
            raise OptionError(
                f"{where} is made by {name or symbol!r}, which a trial in another process cannot import: define it at "
                "the top of a module, not inside a function, in a lambda or in an interactive session."
            )
        return f"{module}:{name}"


@dataclass(frozen=True)
class Rebuilding:
    """The other side of `Description`.

    Args:
        tensors: of the description.
        script: of the description, where it can be read now.
    """

    tensors: list[torch.Tensor]
    script: str | None

    def make(self, document: Document) -> Any:
        """Return the object that a document describes."""
        if not isinstance(document, Mapping):
            return document
        makers: dict[str, Callable[[], Any]] = {
            "call": lambda: self._call(document),
            "list": lambda: [self.make(entry) for entry in document["list"]],
            "tuple": lambda: tuple(self.make(entry) for entry in document["tuple"]),
            "dict": lambda: {self.make(key): self.make(value) for key, value in document["dict"]},
            "path": lambda: Path(document["path"]),
            "torch": lambda: _torch_word(document),
            "tensor": lambda: self.tensors[document["tensor"]],
            "name": lambda: self._named(document["name"]),
        }
        return next(maker for key, maker in makers.items() if key in document)()

    def _call(self, document: Mapping[str, Any]) -> Any:
        made_by = self._named(document["call"])
        args = [self.make(arg) for arg in document.get("args", [])]
        kwargs = {name: self.make(arg) for name, arg in document.get("kwargs", {}).items()}
        plain = made_by in (functools.partial, TensorDataset, Subset)
        return (made_by if plain else nni.trace(made_by))(*args, **kwargs)

    def _named(self, text: str) -> Any:
        module, _, name = text.partition(":")
        found: Any = _run_script(self.script) if module == _MAIN else importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return found


def _torch_word(document: Mapping[str, str]) -> torch.dtype | torch.device:
    text = document["torch"]
    return torch.device(text) if document["is"] == "device" else getattr(torch, text.removeprefix("torch."))


@functools.cache
def _run_script(script: str | None) -> Any:
    """Run the user's script once, as a module, and return it."""
    if script is None:
        raise OptionError("the description names a class of a script, but no script")
    module = type(sys)(_IMPORTED_MAIN)
    sys.modules[_IMPORTED_MAIN] = module
    sys.path.insert(0, str(Path(script).parent))
    vars(module).update(runpy.run_path(script, run_name=_IMPORTED_MAIN))
    return module
