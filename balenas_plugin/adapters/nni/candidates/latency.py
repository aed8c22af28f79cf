"""Latencies of every choice of a supernet, measured on this machine."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from balenas_plugin.adapters.nni.candidates.operations import zeros_of
from balenas_plugin.adapters.nni.candidates.sizes import Call, calls_watched, parts_of, table_of
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters, choice_names
from balenas_plugin.costs import CostTable
from balenas_plugin.costs.table import Runtime
from balenas_plugin.costs.timing import median_seconds
from balenas_plugin.distributions import Draw
from balenas_plugin.errors import SpaceError
from balenas_plugin.export.onnx_file import onnx_runner, onnx_to_time
from balenas_plugin.machine import processor
from balenas_plugin.search.mixing import mixing_of

Unit = Literal["ms", "us"]

_PER_SECOND: dict[Unit, float] = {"ms": 1e3, "us": 1e6}


@torch.no_grad()
def measured(
    space: nn.Module,
    images: Tensor,
    *,
    repeats: int,
    unit: Unit = "ms",
    network: Callable[[Mapping[str, int]], nn.Module] | None = None,
    runtime: Runtime = "torch",
) -> CostTable:
    """Return the median latency of each choice in a forward pass, and of what is in every architecture.

    Each distinct candidate is timed alone, on the input that it gets in the supernet, and all of them in turn, as often
    as is asked for. What is in every architecture takes what networks take beyond the sum of their candidates. A
    candidate that is no operation takes no time.

    Args:
        space: the supernet, not fused; it is left in evaluation mode.
        images: a batch, shape (N, C, H, W), on the device of the supernet.
        repeats: of every measurement.
        unit: of the latencies.
        network: makes the network of an architecture, label -> which choice; None: the drawn path of the supernet
            stands for it, whose mixing takes time too.
        runtime: what computes; onnxruntime needs such networks, and images on the CPU.

    Raises:
        SpaceError: latencies do not add up choice by choice, or a candidate cannot be written for onnxruntime.
    """
    space.eval()
    parts, zeros = parts_of(space), zeros_of(space)
    timed = {
        (label, name): [] if k in zeros[label] else list(modules)
        for label, by_choice in parts.items()
        for k, (name, modules) in enumerate(by_choice.items())
    }
    modules = [module for of_choice in timed.values() for module in of_choice]
    with calls_watched(modules, None) as (calls, _):
        space(images)
    keys = {module: _key(module, calls[module]) for module in modules if module in calls}
    distinct = {key: (module, calls[module]) for module, key in keys.items()}
    runs: dict[Any, Callable[[], object]] = {
        key: _pass(module, *call.args, runtime=runtime, **call.kwargs) for key, (module, call) in distinct.items()
    }
    names = choice_names(space)
    architectures = [
        {label: k % len(choices) for label, choices in names.items()} for k in range(max(map(len, names.values())))
    ]
    for k, chosen in enumerate(architectures):
        runs[k] = partial(_drawn, space, images, chosen)
        if network is not None:
            runs[k] = _pass(network(chosen).to(images.device).eval(), images, runtime=runtime)
    medians = median_seconds(runs, repeats=repeats, device=images.device)
    costs = {
        label: {name: sum(medians[keys[m]] for m in timed[label, name] if m in keys) for name in by_choice}
        for label, by_choice in parts.items()
    }
    beyond = [
        medians[number] - sum(costs[label][names[label][k]] for label, k in chosen.items())
        for number, chosen in enumerate(architectures)
    ]
    factor = _PER_SECOND[unit]
    return table_of(
        space,
        {label: {name: factor * cost for name, cost in by_choice.items()} for label, by_choice in costs.items()},
        fixed=factor * max(statistics.median(beyond), 0.0),
        measure="latency",
        unit=unit,
        machine=platform.node(),
        processor=processor() if images.device.type == "cpu" else torch.cuda.get_device_name(images.device),
        device=images.device.type,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        runtime=runtime,
        batch_size=len(images),
        image_shape=tuple(images.shape[1:]),
        repeats=repeats,
    )


def _pass(module: nn.Module, *inputs: Any, runtime: Runtime, **options: Any) -> Callable[[], object]:
    """Return a forward pass by PyTorch or, of a module of one tensor, by onnxruntime."""
    if runtime == "torch":
        return partial(module, *inputs, **options)
    if len(inputs) != 1 or options:
        raise SpaceError(f"{type(module).__name__} takes more than one tensor: onnxruntime does not time it")
    content = onnx_to_time(module, example=inputs[0])
    return partial(onnx_runner(content, threads=torch.get_num_threads()), inputs[0].numpy())


def _key(module: nn.Module, call: Call) -> Any:
    """Return what modules share that take equally long: all that can be read off them, and the shapes of inputs."""
    shapes = tuple(
        tuple(t.shape) for t in (*module.state_dict().values(), *tree_leaves(call.args)) if isinstance(t, Tensor)
    )
    return type(module), str(module), shapes


def _drawn(space: nn.Module, images: Tensor, chosen: Mapping[str, int]) -> object:
    """Run one architecture in the supernet."""
    alphas = architecture_parameters(space)
    one_hot = {k: torch.zeros_like(a).index_fill(0, torch.tensor(chosen[k]), 1.0) for k, a in alphas.items()}
    with mixing_of(space).using(Draw({}, one_hot, chosen=chosen, others="none"), alphas):
        return space(images)
