"""A draw of the mixing weights, and the way back from gradients in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from balenas_plugin.mixed_ops.drawn_path import Others

Weights = Mapping[str, Tensor]
"""label -> mixing weights of a pass, shape (K,), not negative, adding up to 1."""


class Draw:
    """Mixing weights of one pass, and the way back from gradients in them to the distribution's parameters.

    Args:
        parameters: label -> leaf tensors that `outputs` was computed from.
        outputs: label -> what gradients go back through, shape (K,).
        values: label -> the weights themselves where they differ from `outputs` (a one-hot draw); else `outputs`.
        chosen: label -> index of the only candidate that has to be computed; empty where all are.
        others: how candidates that are not computed take part, see `mixed_ops.drawn_path`, of all labels or by label;
            None leaves it to the mixed operation.
        logits: label -> what a module that reads the parameter itself must find there, shape (K,); empty where that is
            the parameter as it is.
        expected: label -> what costs are expected under, a function of `parameters` too, shape (K,); the weights
            themselves where nothing is given.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        outputs: Weights,
        *,
        values: Weights | None = None,
        chosen: Mapping[str, int] | None = None,
        others: Others | Mapping[str, Others | Sequence[int]] | None = None,
        logits: Mapping[str, Tensor] | None = None,
        expected: Weights | None = None,
    ) -> None:
        self._parameters, self.outputs = parameters, outputs
        self.weights = _as_leaves(values or outputs)
        self.chosen = dict(chosen or {})
        by_label = others if isinstance(others, Mapping) else dict.fromkeys(self.chosen, others)
        self.others = {label: part for label, part in by_label.items() if part is not None}
        self.logits = {label: a.detach() for label, a in (logits or {}).items()}
        self.direct: Weights = {}
        """label -> gradient in the logits, of what reads the parameter itself."""
        self._expected = outputs if expected is None else expected
        self.expected = self.weights if expected is None else _as_leaves(expected)
        """label -> weights under which costs are expected, which gradients can be taken in."""
        self.of_costs: Weights = {}
        """label -> gradient of costs in these."""
        self.examples = 1
        """Of how many examples the loss was the mean, where a distribution asks for it (it needs no gradient)."""

    def pull_back(self, gradients: Weights) -> dict[str, Tensor]:
        """Return label -> gradient in the parameters, of gradients in the weights and of costs, if there are any.

        A label without one is left out.
        """
        of_weights, back = dict(gradients), []
        for label, g in self.of_costs.items():
            if self._expected[label] is not self.outputs[label]:
                back.append((label, self._expected[label], g))
            else:
                of_weights[label] = of_weights[label] + g if label in of_weights else g
        back += [(label, self.outputs[label], g) for label, g in of_weights.items()]
        back = [way for way in back if way[0] in self._parameters]
        reached = {label for label, *_ in back}
        used = [label for label in self._parameters if label in reached]
        pulled: dict[str, Tensor] = {}
        if used:  # torch refuses an empty list
            inputs = [self._parameters[label] for label in used]
            found = torch.autograd.grad([output for _, output, _ in back], inputs, [g for *_, g in back])
            pulled.update(zip(used, found, strict=True))
        for label, gradient in self.direct.items():
            pulled[label] = pulled[label] + gradient if label in pulled else gradient
        return pulled


def _as_leaves(weights: Weights) -> dict[str, Tensor]:
    return {label: w.detach().requires_grad_() for label, w in weights.items()}


Evaluate = Callable[[Draw], tuple[Tensor, Weights]]
"""Returns the validation loss at a draw, and its gradient in the weights (a label that had no part may lack)."""
