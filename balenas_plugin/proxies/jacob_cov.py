"""Jacobian covariance: whether a network responds differently to different examples."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from balenas_plugin.errors import OptionError
from balenas_plugin.proxies._evaluation.network import borrowed, gradients
from balenas_plugin.proxies._registry import Proxy

_EPSILON = 1e-5


def jacob_cov(model: nn.Module, inputs: Tensor, targets: Tensor | None = None) -> float:
    """Return ``-sum_i [log(v_i + 1e-5) + 1/(v_i + 1e-5)]``, v the eigenvalues of the Jacobians' correlation matrix.

    The Jacobian of an example is the gradient of its summed outputs for its input, in training mode; the correlation
    is between examples, ``(N, N)``. NaN if an example's Jacobian is constant, as in a network whose output does not
    depend on its input.

    Mellor et al. 2020 (the first version of "Neural architecture search without training").

    Raises:
        OptionError: `inputs` are fewer than two examples or not floating-point numbers.
    """
    if inputs.shape[0] < 2 or not inputs.is_floating_point():
        raise OptionError(
            f"proxy 'jacob_cov' correlates the gradients of examples: it needs 2 floating-point examples or more, "
            f"not {inputs.shape[0]} of {inputs.dtype}"
        )
    with borrowed(model) as network:
        leaf = inputs.detach().clone().requires_grad_()
        (jacobians,) = gradients(network(leaf).sum(), [leaf])
    correlation = torch.corrcoef(jacobians.flatten(1).double().cpu())
    if not bool(correlation.isfinite().all()):
        return math.nan
    shifted = torch.linalg.eigvalsh(correlation) + _EPSILON
    return -float((shifted.log() + shifted.reciprocal()).sum())


PROXY = Proxy(
    name="jacob_cov",
    compute=jacob_cov,
    higher_is_better=True,
    needs_labels=False,
    description="spread of the eigenvalues of the correlation between the examples' input gradients",
    source="Mellor et al. 2020; as in Abdelfattah et al. 2021",
)
