"""Measure the latencies of a config's search space, and find what the choices of a finished run cost."""

from __future__ import annotations

import copy
import platform
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from nni.mutable import Categorical
from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn

from balenas_plugin.adapters.nni.candidates.latency import Unit, measured
from balenas_plugin.adapters.nni.candidates.sizes import counted, number_of_parameters
from balenas_plugin.adapters.nni.run.build import build_space
from balenas_plugin.adapters.nni.strategies.strategy import supernet_of
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters, choice_names
from balenas_plugin.config import SearchConfig
from balenas_plugin.costs import CostTable
from balenas_plugin.costs.table import Measure, Runtime
from balenas_plugin.data import load_search_data
from balenas_plugin.deployment.latency import torch_threads
from balenas_plugin.errors import FileFormatError, OptionError, SpaceError

_REPEATS = 30


def measure_latencies(
    config: SearchConfig, *, device: str, threads: int | None, batch_size: int, repeats: int, unit: Unit
) -> CostTable:
    """Return the latencies of the space of a config, on images of the size of its data.

    Args:
        config: of a search.
        device: "cpu" or "cuda".
        threads: of torch; None: those of the config, or as many as torch takes.
        batch_size: images at a time.
        repeats: of every measurement.
        unit: of the latencies.

    Raises:
        OptionError: there is no such device.
        SpaceError: latencies do not add up choice by choice.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise OptionError("there is no GPU that torch can use here: measure with --device cpu")
    threads = threads or config.threads
    if threads is not None:
        torch.set_num_threads(threads)
    data = load_search_data(config.images("a table of latencies"))
    space = build_space(config.space, num_classes=data.num_classes)
    images = torch.randn(batch_size, *data.image_shape, generator=torch.Generator().manual_seed(0)).to(device)
    return _measured(space, images, repeats=repeats, unit=unit)


def cost_tables(
    space: ModelSpace, images: Tensor, measures: Iterable[Measure], *, folder: Path
) -> dict[Measure, CostTable]:
    """Return what each choice of a space costs; nothing where costs do not add up choice by choice.

    Args:
        space: as configured.
        images: a batch, shape (N, C, H, W).
        measures: which costs.
        folder: keeps the latencies, in milliseconds of one thread and one image, in a file named after this machine.

    Raises:
        StorageError: that file could not be written.
    """
    found: dict[Measure, CostTable] = {}
    supernet = supernet_of(space)
    try:
        for measure in measures:
            if measure == "latency":
                found[measure] = _kept_latencies(space, supernet, images[:1], folder)
            else:
                found[measure] = counted(supernet, measure, lambda: supernet(images[:2]))
    except SpaceError:
        return {}
    return found


def _kept_latencies(space: ModelSpace, supernet: nn.Module, image: Tensor, folder: Path) -> CostTable:
    runtime: Runtime = "onnxruntime" if find_spec("onnxruntime") else "torch"
    path = folder / f"latency-{re.sub(r'[^A-Za-z0-9_.-]', '_', platform.node())}.json"
    with suppress(FileFormatError, OptionError):  # there is none yet, or of another processor or space
        table = CostTable.load(path)
        table.require_this_machine(str(path), None)
        table.rows(type(space).__name__, number_of_parameters(supernet), choice_names(supernet), path=str(path))
        if (table.unit, table.threads, table.batch_size, table.image_shape) == ("ms", 1, 1, tuple(image.shape[1:])):
            return table
    with torch_threads(1):
        try:
            table = _measured(space, image, repeats=_REPEATS, unit="ms", runtime=runtime)
        except SpaceError:  # onnxruntime does not run it
            table = _measured(space, image, repeats=_REPEATS, unit="ms")
    table.save(path)
    return table


def _measured(space: ModelSpace, images: Tensor, *, repeats: int, unit: Unit, runtime: Runtime = "torch") -> CostTable:
    choices = space.simplify()
    supernet = supernet_of(space).to(images.device)
    alike = choices.keys() == architecture_parameters(supernet).keys()
    plain = alike and all(type(domain) is Categorical for domain in choices.values())

    def network(chosen: Mapping[str, int]) -> nn.Module:
        frozen = space.freeze({label: cast(Any, choices[label]).values[k] for label, k in chosen.items()})
        return cast(nn.Module, copy.deepcopy(frozen))

    return measured(supernet, images, repeats=repeats, unit=unit, network=network if plain else None, runtime=runtime)
