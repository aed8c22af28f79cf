"""Measure the latencies of a config's search space."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from nni.mutable import Categorical
from torch import nn

from balenas_plugin.adapters.nni.candidates.latency import Unit, measured
from balenas_plugin.adapters.nni.run.build import build_space
from balenas_plugin.adapters.nni.strategies.strategy import DistributionStrategy
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters
from balenas_plugin.config import SearchConfig
from balenas_plugin.costs import CostTable
from balenas_plugin.data import load_search_data
from balenas_plugin.errors import OptionError


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
    choices = space.simplify()
    supernet = DistributionStrategy(distribution="point", fused=False).mutate_model(copy.deepcopy(space)).to(device)
    alike = choices.keys() == architecture_parameters(supernet).keys()
    plain = alike and all(type(domain) is Categorical for domain in choices.values())

    def network(chosen: Mapping[str, int]) -> nn.Module:
        frozen = space.freeze({label: cast(Any, choices[label]).values[k] for label, k in chosen.items()})
        return cast(nn.Module, copy.deepcopy(frozen))

    images = torch.randn(batch_size, *data.image_shape, generator=torch.Generator().manual_seed(0)).to(device)
    return measured(supernet, images, repeats=repeats, unit=unit, network=network if plain else None)
