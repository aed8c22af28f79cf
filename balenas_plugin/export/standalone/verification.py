"""Run the text of a stand-alone module and compare its network with the original."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor, nn

from balenas_plugin.errors import first_line
from balenas_plugin.export.standalone.calls import training_batch
from balenas_plugin.export.standalone.expressions import NotExportableError

TOLERANCE = 1e-6
"""Largest difference of an output, absolute or relative."""

_GRADIENT_TOLERANCE = 1e-4
"""Largest relative difference of a gradient."""


def verify(source: str, weights: bytes, model: nn.Module, example: Tensor) -> None:
    """Compare what `source` builds with `model`, whose statistics and gradients change.

    Both modes are compared, with one seed; in training also the gradients of a fixed weighted sum of the outputs.

    Raises:
        NotExportableError: something differs, and what.
    """
    try:
        written, fresh = _run(source, weights)
        if _shapes(fresh) != _shapes(written):
            raise NotExportableError("the written network has other tensors when it is built anew")
        with torch.no_grad():
            expected, found = (_drawn(network.eval(), example) for network in (model, written))
        _compare("in evaluation its outputs", expected, found, TOLERANCE)
        _compare_training(model, written, training_batch(example))
    except NotExportableError:
        raise
    except Exception as error:  # whatever code traced from the user's raises
        raise NotExportableError(f"the written network cannot be run: {first_line(error)}") from error


def _run(source: str, weights: bytes) -> tuple[nn.Module, nn.Module]:
    """Return the networks that `source` loads and builds."""
    namespace: dict[str, Any] = {"__name__": "standalone", "__file__": "standalone.py"}
    exec(compile(source, "standalone.py", "exec"), namespace)
    networks = []
    for function in ("load", "build"):
        namespace["WEIGHTS"] = io.BytesIO(weights)
        networks.append(namespace[function]())
    return networks[0], networks[1]


def _drawn(network: nn.Module, batch: Tensor) -> Any:
    """Return the outputs of a batch; what is random in them comes from one seed."""
    torch.manual_seed(0)
    return network(batch)


def _compare_training(model: nn.Module, written: nn.Module, batch: Tensor) -> None:
    expected, found = (_tensors(_drawn(network.train(), batch)) for network in (model, written))
    if len(expected) != len(found):
        raise NotExportableError("in training it returns other outputs than the written network")
    for one, other in zip(expected, found, strict=True):
        _compare("in training its outputs", one, other, TOLERANCE)
    trained = {name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    names = [name for name, _ in written.named_parameters() if name in trained]
    if names:
        gradients = zip(names, _gradients(model, names, expected), _gradients(written, names, found), strict=True)
        for name, one, other in gradients:
            _compare(f"the gradients of {name}", one, other, _GRADIENT_TOLERANCE)


def _gradients(network: nn.Module, names: list[str], outputs: list[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients of a weighted sum of `outputs`; zero where it does not depend on a parameter."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    total = sum((_weighted_sum(output) for output in outputs), torch.zeros(()))
    return torch.autograd.grad(total, [parameters[name] for name in names], materialize_grads=True)


def _compare(what: str, expected: Any, found: Any, tolerance: float) -> None:
    if not isinstance(expected, Tensor):
        raise NotExportableError(f"it returns a {type(expected).__name__}, and one tensor is needed")
    if expected.shape != found.shape:
        raise NotExportableError(
            f"{what} have shape {tuple(expected.shape)}, those of the written network {tuple(found.shape)}"
        )
    if not torch.allclose(expected, found, rtol=tolerance, atol=TOLERANCE, equal_nan=True):
        difference = (expected - found).abs().max()
        raise NotExportableError(
            f"{what} differ from those of the written network by up to {difference:.3g}: its forward depends on "
            "something that tracing does not see, such as a hook, random numbers of Python or a condition on the data"
        )


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    entries = output.values() if isinstance(output, dict) else output
    return [tensor for entry in entries for tensor in _tensors(entry)]


def _weighted_sum(output: Tensor) -> Tensor:
    """Return a sum whose weights are unlike: those of a softmax, say, would add up to a constant otherwise."""
    flat = output.flatten().float()
    return flat @ torch.cos(torch.arange(len(flat), dtype=flat.dtype))


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}
