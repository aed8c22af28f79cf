"""What every module that trains a language model needs: hidden states, perplexity, and a rate for each sequence.

A batch says where in which text it is (`Excerpt`), and a sequence begins in the state that the one before it ended in,
however often either is evaluated: by several draws, by an architecture step of second order, by a perturbation. The
first sequence of a text begins in zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from balenas_plugin.data.text import Excerpt
from balenas_plugin.errors import OptionError, SpaceError


class Perplexity(Metric):
    """The exponential of the mean loss of a word, in nats; not finite where the loss of one is not."""

    total: Tensor
    words: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("words", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, count: int) -> None:
        """Count so many words, whose mean loss is this."""
        self.total += loss * count
        self.words += count

    def compute(self) -> Tensor:
        """Return the perplexity of all words since the last reset."""
        return (self.total / self.words).exp()


class HiddenStates:
    """Where the sequences of each text begin.

    Attributes:
        by_text: text -> sequence -> the hidden states that it begins in, of all rows, shape (rows, d).
    """

    def __init__(self) -> None:
        self.by_text: dict[str, dict[int, Tensor]] = {}

    def entering(self, batch: Any, text: str) -> Tensor | None:
        """Return the hidden states that the rows of a batch begin in; None: zeros."""
        if not isinstance(batch, Excerpt) or not batch.sequence:
            return None
        states = self.by_text.get(text, {}).get(batch.sequence)
        return None if states is None else states.to(batch.rows.device)[batch.rows]

    def carry(self, batch: Any, text: str, last: Tensor) -> None:
        """Keep the states that the next sequence begins in, and those of this one for when it is evaluated again.

        Args:
            batch: an `Excerpt`; of others nothing is kept.
            text: name, under which a validation of the same text has states of its own.
            last: hidden states that the batch has ended in, detached, shape (B, d).
        """
        if not isinstance(batch, Excerpt):
            return
        known, number = self.by_text.get(text, {}), batch.sequence
        following = known.get(number + 1, last.new_zeros(batch.all_rows, last.shape[1])).to(last)
        kept = {number: known[number]} if number in known else {}
        self.by_text[text] = {**kept, number + 1: following.index_copy(0, batch.rows, last)}

    def state_dict(self) -> dict[str, Any]:
        """Return all states: of use where a checkpoint is written within an epoch."""
        return {text: dict(states) for text, states in self.by_text.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the states back."""
        self.by_text = {text: dict(states) for text, states in state_dict.items()}


def passed(network: nn.Module, words: Tensor, hidden: Tensor | None, *, known: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits ``(B, vocabulary, T)``, outputs ``(B, T, d)`` and the last hidden state ``(B, d)`` of a sequence.

    Args:
        network: as a `LanguageModel`.
        words: of the sequence, shape (B, T).
        hidden: states that it begins in, shape (B, d); None: zeros.
        known: words of the text.

    Raises:
        SpaceError: the network is no language model.
        OptionError: it knows fewer words than the text has.
    """
    size, vocabulary = getattr(network, "size", None), getattr(network, "num_labels", None)
    if not isinstance(size, int) or not isinstance(vocabulary, int):
        raise SpaceError(
            f"{type(network).__name__} is no language model: its network must take words and a hidden state of "
            "the size that its attribute `size` says (see LanguageModel)"
        )
    if vocabulary < known:
        raise OptionError(
            f"the network knows {vocabulary} words but the text has {known}: leave out the "
            "space's num_labels, or set it and data.vocabulary alike"
        )
    zeros = next(network.parameters()).new_zeros(len(words), size)
    found: tuple[Tensor, Tensor, Tensor] = network(words, zeros if hidden is None else hidden)
    return found


class RateOfSequence(pl.LightningModule):
    """A module whose weight steps have the learning rate times the rate of their sequence (`Excerpt.rate`).

    Source: Liu et al. 2019 (DARTS, `rnn/train.py`): longer sequences have proportionally larger steps.
    """

    rate = 1.0
    """Of the sequence that was evaluated last on the text of the weights."""

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Take a step, with the rate of the sequence that the closure evaluates."""
        groups = optimizer.param_groups
        rates = [group["lr"] for group in groups]

        def closure() -> Any:
            loss = None if optimizer_closure is None else optimizer_closure()
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate * self.rate
            return loss

        try:
            super().optimizer_step(epoch, batch_idx, optimizer, closure)
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
