"""Language modelling as an NNI evaluator module: a hidden state is carried from one sequence of a text to the next.

The reference carries one for the weights and one for the architecture. Here a batch says where in which text it is
(`Excerpt`), and a sequence begins in the state that the one before it ended in, however often either is evaluated: by
several draws, by an architecture step of second order, by a perturbation. The first sequence of a text begins in zeros.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from balenas_plugin.adapters.nni.run.tasks.classification import SupernetModule
from balenas_plugin.data.text import ARCHITECTURE, WEIGHTS, Excerpt, TextConfig, TextData, TextLoader
from balenas_plugin.errors import OptionError, SpaceError

_STATES = "hidden_states"
_VALIDATED = " validated"


class Perplexity(MeanMetric):
    """The exponential of the mean loss of a word, in nats."""

    def compute(self) -> Tensor:
        """Return the perplexity of all words since the last reset."""
        return super().compute().exp()


class LanguageModelModule(SupernetModule):
    """Cross-entropy of the next word, and perplexity, over each epoch.

    The network maps words ``(B, T)`` and a hidden state to logits ``(B, vocabulary, T)``, its outputs ``(B, T, d)`` and
    the last hidden state ``(B, d)``. Where it has a `slowness`, that times the mean square of the differences of
    consecutive outputs joins the loss of the weights.

    Source: Liu et al. 2019 (DARTS, `rnn/train_search.py`); slowness: Merity et al. 2018.
    """

    reported = {"val_loss": -1, "train_loss": -1}  # noqa: RUF012

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.perplexity = nn.ModuleDict({f"{stage}_perplexity": Perplexity() for stage in ("train", "val")})
        self.states: dict[str, dict[int, Tensor]] = {}
        """Text -> sequence -> the hidden states that it begins in, of all rows, shape (rows, d)."""

    def forward(self, words: Tensor) -> Tensor:
        """Return logits of the next words, shape (B, vocabulary, T), of a sequence that begins in zeros."""
        logits: Tensor = self.model(words)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of a word, with the slowness on the text of the weights."""
        loss, outputs = self._evaluate(batch, "train")
        slowness = getattr(self.model, "slowness", 0.0)
        if slowness and outputs.shape[1] > 1 and getattr(batch, "text", WEIGHTS) == WEIGHTS:
            loss = loss + slowness * outputs.diff(dim=1).square().mean()
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the mean cross-entropy of a word, and the perplexity."""
        self._evaluate(batch, "val")

    def _evaluate(self, batch: Any, stage: str) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy of a word and the network's outputs, and log it."""
        words, targets = batch[:2]
        logits, outputs, last = self._passed(words, self._entering(batch, stage))
        self._carry(batch, stage, last.detach())
        loss = F.cross_entropy(logits, targets)
        count, name = targets.numel(), f"{stage}_perplexity"
        perplexity: Any = self.perplexity[name]
        perplexity.update(loss.detach(), count)
        self.log(f"{stage}_loss", loss, on_step=False, on_epoch=True, batch_size=count)
        self.log(name, perplexity, on_step=False, on_epoch=True, batch_size=count)
        return loss, outputs

    def _passed(self, words: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        size = getattr(self.model, "size", None)
        if not isinstance(size, int):
            raise SpaceError(
                f"{type(self.model).__name__} is no language model: its network must take words and a hidden state of "
                "the size that its attribute `size` says (see LanguageModel)"
            )
        if self.model.num_labels < self.num_classes:
            raise OptionError(
                f"the network knows {self.model.num_labels} words but the text has {self.num_classes}: leave out the "
                "space's num_labels, or set it and data.vocabulary alike"
            )
        zeros = next(self.model.parameters()).new_zeros(len(words), size)
        passed: tuple[Tensor, Tensor, Tensor] = self.model(words, zeros if hidden is None else hidden)
        return passed

    def _entering(self, batch: Any, stage: str) -> Tensor | None:
        """Return the hidden states that the rows of a batch begin in; None: zeros."""
        if not isinstance(batch, Excerpt) or not batch.sequence:
            return None
        states = self.states.get(_text(batch, stage), {}).get(batch.sequence)
        return None if states is None else states.to(batch.rows.device)[batch.rows]

    def _carry(self, batch: Any, stage: str, last: Tensor) -> None:
        """Keep the states that the next sequence begins in, and those of this one for when it is evaluated again."""
        if not isinstance(batch, Excerpt):
            return
        known, number = self.states.get(_text(batch, stage), {}), batch.sequence
        following = known.get(number + 1, last.new_zeros(batch.all_rows, last.shape[1])).to(last)
        kept = {number: known[number]} if number in known else {}
        self.states[_text(batch, stage)] = {**kept, number + 1: following.index_copy(0, batch.rows, last)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the hidden states: of use where a checkpoint is written within an epoch."""
        checkpoint[_STATES] = {text: dict(states) for text, states in self.states.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the hidden states back."""
        self.states = {text: dict(states) for text, states in checkpoint.get(_STATES, {}).items()}


def _text(batch: Excerpt, stage: str) -> str:
    """Return under which name the states of a text are kept: a validation has its own."""
    return batch.text + (_VALIDATED if stage == "val" else "")


def text_loaders(
    config: TextConfig, data: TextData, *, seed: int, device: torch.device, verbose: bool = True
) -> tuple[TextLoader, TextLoader]:
    """Return the loader of the weights' text and that of the architecture's; nothing in them is random."""
    return (
        TextLoader(data.weight_text, name=WEIGHTS, device=device),
        TextLoader(data.architecture_text, name=ARCHITECTURE, device=device),
    )
