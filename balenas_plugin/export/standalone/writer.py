"""Write a network as a Python module that imports nothing but PyTorch, and its weights beside it.

The network is traced (`tracing`), each of its modules becomes a class with the forward that was traced (`blocks`,
`forward`), equal ones become one class (`classes`), and the text is run and compared with the network before anything
is written (`verification`).
"""

from __future__ import annotations

import copy
import io
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from balenas_plugin.data.network_task import NetworkTask
from balenas_plugin.errors import OptionError, SpaceError, first_line
from balenas_plugin.export.standalone.blocks import BlockBuilder, find_tensor
from balenas_plugin.export.standalone.expressions import NotExportableError
from balenas_plugin.export.standalone.forward import attribute_path, is_name
from balenas_plugin.export.standalone.module_text import module_text
from balenas_plugin.export.standalone.tracing import take_apart
from balenas_plugin.export.standalone.verification import verify
from balenas_plugin.files import write_atomically, write_text_atomically
from balenas_plugin.restoring import random_numbers_restored


def write_standalone(
    model: nn.Module,
    folder: Path,
    *,
    name: str,
    example: Tensor,
    title: str,
    task: NetworkTask | None = None,
    source: str | None = None,
) -> list[Path]:
    """Write ``<name>.py``, which builds `model` with nothing but PyTorch, and ``<name>.pt``, its weights.

    The module has ``build()``, the network with fresh weights, and ``load(path=None)``, the network with the exported
    weights. Names of modules and keys of the weights are those of `model`; modules that its forward never calls are
    left out. Before anything is written, the text is run, and its network compared with `model` on `example`: the
    outputs in both modes and the gradients. The same input gives the same bytes.

    Args:
        model: a network without a choice left open; it is not changed.
        folder: where to write; made if it is not there.
        name: of the two files; a Python identifier.
        example: an input, shape (N, ...).
        title: what the network is, for the head of the file.
        task: that it was trained for: the module then has CLASS_NAMES and ``preprocess(image)``, which needs Pillow, or
            of a text VOCABULARY, ``encode(text)`` and ``decode(numbers)``.
        source: of the module, where somebody knows it; None: the model is traced.

    Returns:
        The two paths, the module first.

    Raises:
        OptionError: `name` cannot be imported.
        SpaceError: the network has a part that cannot be written, or the written network differs from it.
        StorageError: a file could not be written.
    """
    _check_name(name)
    example = example.detach().cpu()
    try:
        with random_numbers_restored():
            if source is None:
                source, weights = _write(model, example, name=name, title=title, task=task)
            else:
                weights = _saved(model.state_dict())
                source = source if task is None else f"{source}\n\n{task.source()}"
            verify(source, weights, _copy(model), example)
    except NotExportableError as error:
        raise SpaceError(
            f"{type(model).__name__} cannot be written as a stand-alone module: {error}. Change that part of the "
            "network, or use --format onnx, which records the operations of a pass instead of source."
        ) from error
    module_path, weights_path = folder / f"{name}.py", folder / f"{name}.pt"
    write_atomically(weights_path, lambda file: file.write(weights))
    write_text_atomically(module_path, source)
    return [module_path, weights_path]


def _check_name(name: str) -> None:
    if not is_name(name) or name in sys.stdlib_module_names or name in ("torch", "numpy"):
        raise OptionError(
            f"{name!r} cannot be the name of a stand-alone module: it must be a Python identifier (letters, digits "
            "and underscores, no digit first) and not the name of a module that PyTorch itself imports"
        )


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model).cpu()
    except (TypeError, RuntimeError) as error:  # a lock, an open file, a tensor in the middle of a graph
        raise NotExportableError(f"it cannot be copied: {first_line(error)}") from error


def _write(model: nn.Module, example: Tensor, *, name: str, title: str, task: NetworkTask | None) -> tuple[str, bytes]:
    """Return the source of the module and the contents of the file of weights."""
    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            raise NotExportableError(f"{key} has no shape yet (call the network once)")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise NotExportableError(f"{key} is {tensor.dtype}, and only float32 can be written (call model.float())")
    traced = _copy(model)  # tracing runs it, which changes the statistics of its batch normalisation
    builder = BlockBuilder(traced, take_apart(traced, example))
    root = builder.expression()
    source = module_text(
        root,
        name=name,
        title=title,
        example=example,
        ties=_ties(traced, builder.tensors),
        frozen=[attribute_path(traced, path, root="network") for path in builder.frozen],
        tables=builder.tables,
        task=task,
    )
    weights = {
        path: builder.tensors[path] if path in builder.constants else find_tensor(model, path)
        for path in builder.tensors
    }
    return source, _saved(weights)


def _saved(tensors: Mapping[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save({path: tensor.detach().cpu().clone() for path, tensor in tensors.items()}, buffer)
    return buffer.getvalue()


def _ties(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Return place -> an earlier place that holds the same tensor, both as source."""
    first: dict[int, str] = {}
    ties: dict[str, str] = {}
    for path, tensor in tensors.items():
        source = attribute_path(model, path, root="network")
        if id(tensor) in first:
            ties[source] = first[id(tensor)]
        first.setdefault(id(tensor), source)
    return ties
