"""What the evaluator's weight optimizer would do next, for second-order architecture gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from balenas_plugin.bayes.architect import VirtualStep
from balenas_plugin.errors import EvaluatorError


def virtual_step(optimizers: Sequence[torch.optim.Optimizer], weights: Sequence[Tensor]) -> VirtualStep:
    """Return the weight optimizer's next step as one of SGD; its momentum counts if it has one.

    Args:
        optimizers: of the weights; there must be one.
        weights: in the order in which the step is wanted.

    Raises:
        EvaluatorError: there are several optimizers, or one with several learning rates.
    """
    if len(optimizers) != 1:
        raise EvaluatorError(
            f'order="second" unrolls one step of the weight optimizer, but the evaluator has {len(optimizers)}. '
            'Use one, or order="first".'
        )
    (optimizer,) = optimizers
    groups = optimizer.param_groups
    for name in ("lr", "momentum", "weight_decay"):
        if len({group.get(name, 0.0) for group in groups}) > 1:
            raise EvaluatorError(
                f'order="second" unrolls one weight step with one {name}, but the parameter groups of the '
                f'evaluator\'s optimizer have several. Use one, or order="first".'
            )
    return VirtualStep(
        lr=groups[0]["lr"],
        momentum=groups[0].get("momentum", 0.0),
        weight_decay=groups[0].get("weight_decay", 0.0),
        momentum_buffers=[optimizer.state[w].get("momentum_buffer") for w in weights],
    )
