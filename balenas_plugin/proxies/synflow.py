"""SynFlow: the summed products of weights along all paths through a network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from balenas_plugin.proxies._evaluation.exponents import ExponentTracking
from balenas_plugin.proxies._evaluation.linearised import (
    EmbeddingsAsInputs,
    NormalisationRemoved,
    example_of_ones,
    in_double_if_possible,
)
from balenas_plugin.proxies._evaluation.network import Network, borrowed, total
from balenas_plugin.proxies._registry import Proxy

_SMALLEST = 1e-200  # below it, some of the summed terms may have been lost to underflow


def synflow(model: nn.Module, inputs: Tensor, targets: Tensor | None = None) -> float:
    """Return ``sum |w dR/dw|`` over the Conv2d and Linear weights w; infinite where it is beyond float64 (1.8e308).

    R is the sum of the outputs for one example of ones, of the size of an example of `inputs` ``(N, ...)``, in float64,
    without normalisations (batch-norm above all) and with the absolute value of every parameter. Where `inputs` are
    tokens, the ones are what their embeddings give. Rank by `log_synflow`.

    The network is in evaluation mode: without batch-norm, that differs from training mode by dropout, which would make
    the value random.

    BaLeNAS (Zhang et al. 2022), Eq. (8); Tanaka et al. 2020 (SynFlow).
    """
    mantissa, exponent = _saliency(model, inputs)
    try:
        return math.ldexp(mantissa, exponent)
    except OverflowError:
        return math.inf


def log_synflow(model: nn.Module, inputs: Tensor, targets: Tensor | None = None) -> float:
    """Return the natural logarithm of `synflow`, finite for a network of any depth; ``-inf`` for a value of zero."""
    mantissa, exponent = _saliency(model, inputs)
    return math.log(mantissa) + exponent * math.log(2) if mantissa else -math.inf


def summed_saliency(network: Network, output: Tensor) -> float:
    """Return ``sum |w dR/dw|`` over the weights w of `network`, where R is the scalar `output`."""
    gradients = network.gradients(output)
    return total((w * g).abs().sum() for w, g in zip(network.weights.values(), gradients, strict=True))


def _saliency(model: nn.Module, inputs: Tensor) -> tuple[float, int]:
    """Return m and e, where ``m 2^e`` is the value of `synflow`; e is 0 where float64 is wide enough."""

    def compute(dtype: torch.dtype | None) -> tuple[float, int]:
        with borrowed(model, training=False, absolute=True, dtype=dtype) as network:
            network.require_weights()
            ones = example_of_ones(inputs, dtype)
            if dtype is not None:
                with EmbeddingsAsInputs(ones=True), NormalisationRemoved():
                    output = network(ones).sum()
                value = summed_saliency(network, output)
                if _SMALLEST < value < math.inf:
                    return value, 0
            with EmbeddingsAsInputs(ones=True), ExponentTracking() as tracking, NormalisationRemoved():
                output = network(ones).sum()
            return summed_saliency(network, output), tracking.exponent(output)

    return in_double_if_possible(compute)


PROXY = Proxy(
    name="synflow",
    compute=synflow,
    log_compute=log_synflow,
    higher_is_better=True,
    needs_labels=False,
    description="sum of |weight x gradient| of the network without normalisations on ones; ranked by its logarithm",
    source="Tanaka et al. 2020 (SynFlow); Eq. (8) of BaLeNAS; as in Abdelfattah et al. 2021",
)
