"""ProxylessNAS: binary gates, of which one is open in a pass, learned by what the closed ones would have added."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from balenas_plugin.distributions._distribution import Distribution, Draw
from balenas_plugin.distributions.categorical import Categorical
from balenas_plugin.options import Betas, NonNegative, Positive, PositiveInt

Mode = Literal["full_v2", "two"]


class BinaryGates(Categorical):
    r"""Compute one candidate a label, and learn from the gradients in the gates of those that are involved.

    With the loss's gradient :math:`b_k` in gate k, the sum of candidate k's output times the gradient that comes in
    there, and q the softmax of alpha over the involved candidates I, the gradient in alpha is
    :math:`\sum_{j \in I} b_j q_j (\delta_{ij} - q_i)`. Candidates that are not drawn are computed in the backward pass
    of the architecture step, one after the other and without gradients, so that memory is that of one path. A label
    whose drawn candidate is no operation (its output is 0) learns nothing from that draw.

    Args:
        parameters: label -> logits alpha, shape (K,).
        mode: "full_v2": one candidate is drawn with p = softmax(alpha), and all are involved. "two": two are drawn
            without replacement and are involved, one of them is computed, drawn with q; their logits are then moved
            by one number so that the probabilities of all others stay, whose logits are left as they are.
        num_mc_samples: M, draws an update.
        lr, betas, weight_decay: of Adam, which learns the logits.
        optimizer: makes another optimizer of them.
        seed: of the noise.

    Source: Cai, Zhu and Han 2019, "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware"; the
    modes are those of its code, `full_v2` that of its search.
    """

    name = "binary-gates"
    new_epoch = Distribution.new_epoch  # nothing is fixed
    source = "Cai et al. 2019"

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        mode: Mode = "full_v2",
        num_mc_samples: PositiveInt = 1,
        lr: Positive = 1e-3,
        betas: Betas = (0.0, 0.999),
        weight_decay: NonNegative = 0.0,
        optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            parameters,
            num_mc_samples=num_mc_samples,
            lr=lr,
            betas=betas,
            weight_decay=weight_decay,
            optimizer=optimizer,
            seed=seed,
        )
        self.mode = mode
        self.zeros: Mapping[str, Collection[int]] = {}
        self._involved: dict[str, Tensor] = {}

    def set_zeros(self, zeros: Mapping[str, Collection[int]]) -> None:
        """Say which choices of a label are no operation."""
        self.zeros = zeros

    def draws(self) -> Iterable[Draw]:
        """Yield the draws of an update, whose involved candidates are evaluated."""
        self._involved = {label: torch.zeros_like(mask) for label, mask in self.mask.items()}
        return (self._gated() for _ in range(self.num_mc_samples))

    def _gated(self) -> Draw:
        leaves = self._leaves()
        involved, q, values = dict(self.mask), {}, {}
        for label, alpha in leaves.items():
            if self.mode == "two":
                p = alpha.detach().masked_fill(~self.mask[label], -torch.inf).softmax(-1)
                pair = (p / self._exponential(p)).topk(min(2, len(p))).indices
                involved[label] = torch.zeros_like(self.mask[label]).index_fill(0, pair, True) & self.mask[label]
            q[label] = alpha.masked_fill(~involved[label], -torch.inf).softmax(-1)
            opened = (q[label].detach() / self._exponential(alpha)).argmax(-1)
            values[label] = F.one_hot(opened, len(alpha)).to(alpha)
        both = torch.cat([torch.stack([involved[k].to(v), v]) for k, v in values.items()], -1)
        rows = zip(values, both.split([len(v) for v in values.values()], -1), strict=True)
        found = {label: row.tolist() for label, row in rows}
        chosen = {label: gates.index(1) for label, (_, gates) in found.items()}
        learning = [label for label, k in chosen.items() if k not in self.zeros.get(label, ())]
        others = {
            label: [k for k, inside in enumerate(found[label][0]) if inside and k != chosen[label]]
            for label in learning
        }
        for label in learning:
            self._involved[label] = self._involved[label] | involved[label]
        return Draw(
            {label: leaves[label] for label in learning},
            q,
            values=values,
            chosen=chosen,
            others={**dict.fromkeys(chosen, "none"), **others},
            expected=q,
        )

    @torch.no_grad()
    def step(self, gradients: Sequence[Mapping[str, Tensor]], anchors: Mapping[str, Tensor]) -> None:
        """Follow the gradients; with "two", leave the probabilities of what is not involved as they were."""
        before = {label: p.clone() for label, p in self.parameters.items()}
        super().step(gradients, anchors)
        if self.mode != "two":
            return
        for label, parameter in self.parameters.items():
            old, involved = before[label], self._involved[label]
            inside = torch.where(involved, parameter, -torch.inf).logsumexp(-1)
            shift = inside - old.masked_fill(~involved, -torch.inf).logsumexp(-1)
            parameter.copy_(torch.where(involved, parameter - shift, old))
