"""Language modelling as an NNI evaluator module: a hidden state is carried from one sequence of a text to the next.

The reference carries one for the weights and one for the architecture; see `HiddenStates`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balenas_plugin.adapters.nni.run.tasks.classification import SupernetModule
from balenas_plugin.data.text import ARCHITECTURE, WEIGHTS, Excerpt, TextConfig, TextData, TextLoader
from balenas_plugin.training.language_models.carrying import HiddenStates, Perplexity, RateOfSequence, passed

_STATES = "hidden_states"
_VALIDATED = " validated"


class LanguageModelModule(RateOfSequence, SupernetModule):
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
        self.states = HiddenStates()

    def forward(self, words: Tensor) -> Tensor:
        """Return logits of the next words, shape (B, vocabulary, T), of a sequence that begins in zeros."""
        network: Any = self.model
        logits: Tensor = network(words)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of a word, with the slowness on the text of the weights."""
        loss, outputs = self._evaluate(batch, "train")
        if isinstance(batch, Excerpt) and batch.text == WEIGHTS:
            self.rate = batch.rate
            slowness = getattr(self.model, "slowness", 0.0)
            if slowness and outputs.shape[1] > 1:
                loss = loss + slowness * outputs.diff(dim=1).square().mean()
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the mean cross-entropy of a word, and the perplexity."""
        self._evaluate(batch, "val")

    def _evaluate(self, batch: Any, stage: str) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy of a word and the network's outputs, and log it."""
        words, targets = batch[:2]
        text = getattr(batch, "text", "") + (_VALIDATED if stage == "val" else "")  # a validation has its own states
        network: Any = self.model
        entering = self.states.entering(batch, text)
        logits, outputs, last = passed(network, words, entering, known=self.num_classes)
        self.states.carry(batch, text, last.detach())
        loss = F.cross_entropy(logits, targets)
        count, name = targets.numel(), f"{stage}_perplexity"
        perplexity: Any = self.perplexity[name]
        perplexity.update(loss.detach(), count)
        self.log(f"{stage}_loss", loss, on_step=False, on_epoch=True, batch_size=count)
        self.log(name, perplexity, on_step=False, on_epoch=True, batch_size=count)
        return loss, outputs

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the hidden states: of use where a checkpoint is written within an epoch."""
        checkpoint[_STATES] = self.states.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the hidden states back."""
        self.states.load_state_dict(checkpoint.get(_STATES, {}))


def text_loaders(
    config: TextConfig, data: TextData, *, seed: int, device: torch.device, verbose: bool = True
) -> tuple[TextLoader, TextLoader]:
    """Return the loader of the weights' text, in which lengths may be random, and that of the architecture's."""
    return (
        TextLoader(data.weight_text, name=WEIGHTS, device=device, lengths=config.lengths, seed=seed),
        TextLoader(data.architecture_text, name=ARCHITECTURE, device=device),
    )
