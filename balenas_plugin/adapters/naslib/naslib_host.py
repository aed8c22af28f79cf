"""One iteration of a search in NASLib, as Algorithm 1 sees it, and the mixed operation that asks for its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from naslib.search_spaces.core.primitives import MixedOp
from torch import Tensor, nn

from balenas_plugin.bayes.architect import VirtualStep
from balenas_plugin.distributions import Draw
from balenas_plugin.mixed_ops.drawn_path import Others, drawn_path
from balenas_plugin.restoring import modes_restored
from balenas_plugin.search.mixing import MixingWeights

Batch = tuple[Tensor, Tensor]
"""Images and classes."""


class AskingMixedOp(MixedOp):
    """An edge's operations, added up with the weights of the current pass.

    Args:
        primitives: the operations.

    `mixing` is what is asked for the weights, and `others` says how operations not drawn take part (`drawn_path`), if
    a draw does not; the optimizer sets both for all edges. Where a hook of NASLib's changes the weights, all operations
    are computed.
    """

    mixing: MixingWeights
    others: Others

    def forward(self, x: Tensor, edge_data: Any) -> Tensor:
        """Return the weighted sum; of a draw that computes one operation, that operation alone."""
        chosen, kept = self.mixing.chosen(edge_data.alpha), self.mixing.kept(edge_data.alpha)
        if (chosen is None and kept is None) or self.pre_process_hook or self.post_process_hook:
            return super().forward(x, edge_data)
        weights = self.get_weights(edge_data)
        if chosen is None:
            return sum(weights[k] * self.primitives[k](x, None) for k in kept or ())
        others = self.mixing.others(edge_data.alpha) or self.others
        return drawn_path(weights, chosen, lambda k: self.primitives[k](x, None), others=others)

    def get_weights(self, edge_data: Any) -> Tensor:
        """Return the weights of an edge's alpha, shape (K,)."""
        return self.mixing(edge_data.alpha)

    def process_weights(self, weights: Tensor) -> Tensor:
        """Return the weights, which are on the simplex already."""
        return weights

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of the operations' results."""
        return sum(w * op(x, None) for w, op in zip(weights, self.primitives, strict=True))


class NaslibHost:
    """The graph and the batches of one iteration (a `Host`).

    Args:
        optimizer: of the search, a `DistributionOptimizer`.
        data_train: images and classes for the weights.
        data_val: the same for the architecture.
    """

    def __init__(self, optimizer: Any, data_train: Batch, data_val: Batch) -> None:
        self.optimizer, self.data_train, self.data_val = optimizer, data_train, data_val
        self.logits_val: list[Tensor] = []
        """Logits of the validation batch, one entry an evaluation."""
        self.logits_train: Tensor
        """Logits of the weight step."""

    @property
    def network_weights(self) -> Sequence[Tensor]:
        """The graph's weights."""
        return self.optimizer.network_weights

    @property
    def iterations(self) -> None:
        """NASLib's trainer does not say how many an epoch has."""
        return None

    def begin(self) -> None:
        """Do nothing: NASLib's graphs have nothing to resample."""

    def mixing(self, draw: Draw) -> AbstractContextManager[None]:
        """Let every edge use the weights of a draw."""
        distribution = self.optimizer.distribution
        return self.optimizer.mixing.using(draw, distribution.parameters, distribution.kept)

    def validation_loss(self, k: int) -> Tensor:
        """Return the loss of the architecture batch."""
        logits, loss = self.optimizer.evaluate(self.data_val, "validation")
        self.logits_val.append(logits.detach())
        return loss

    def validation_accuracy(self, k: int) -> Tensor:
        """Return the share of the architecture batch that is classified rightly."""
        self.validation_loss(k)
        return (self.logits_val[-1].argmax(1) == self.data_val[1]).float().mean()

    def training_loss(self, k: int | None) -> Tensor:
        """Return the loss of the weight batch, without a step."""
        return self.optimizer.evaluate(self.data_train, "training")[1]

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the graph into evaluation mode inside the block."""
        with modes_restored(self.optimizer.graph):
            self.optimizer.graph.eval()
            yield

    def examples(self) -> int:
        """Return the size of the validation batch."""
        return len(self.data_val[0])

    def step_weights(self, clipped_with: Callable[[], list[Tensor]]) -> Tensor:
        """Train the weights as NASLib does; return the loss."""
        optimizer = self.optimizer
        optimizer.op_optimizer.zero_grad()
        self.logits_train, loss = optimizer.evaluate(self.data_train, "training")
        loss.backward()
        self.clip_gradients(clipped_with)
        optimizer.op_optimizer.step()
        return loss

    def clip_gradients(self, clipped_with: Callable[[], list[Tensor]] = list) -> None:
        """Clip as NASLib does, if that is asked for, with other gradients in the norm."""
        optimizer = self.optimizer
        if optimizer.grad_clip:
            found = [w.grad for w in optimizer.network_weights if w.grad is not None]
            norm = nn.utils.get_total_norm([*found, *clipped_with()])
            nn.utils.clip_grads_with_norm_(optimizer.network_weights, optimizer.grad_clip, norm)

    @property
    def weight_optimizer(self) -> torch.optim.Optimizer:
        """NASLib's `op_optimizer`."""
        return self.optimizer.op_optimizer

    def virtual_step(self) -> VirtualStep:
        """Return what the weight optimizer's next step would be; its momentum counts if it is SGD's."""
        weights = self.optimizer.op_optimizer
        group = weights.param_groups[0]
        return VirtualStep(
            lr=group["lr"],
            momentum=group.get("momentum", 0.0),
            weight_decay=group["weight_decay"],
            momentum_buffers=[weights.state[w].get("momentum_buffer") for w in self.network_weights],
        )

    def average(self, tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
        """Return the tensors: NASLib searches in one process."""
        return list(tensors)
