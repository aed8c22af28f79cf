"""A training of a language model as a Lightning module, and what its test says."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torchmetrics import MeanMetric

from balenas_plugin.data.text import WEIGHTS, Excerpt, TextLoader, TrainingTexts
from balenas_plugin.errors import OptionError
from balenas_plugin.training.epochs import require_finite
from balenas_plugin.training.language_models.carrying import HiddenStates, Perplexity, RateOfSequence, passed
from balenas_plugin.training.optimizers import optimizer_factory, scheduled
from balenas_plugin.training.recipe import Recipe, TextOptions

_OF_IMAGES = (
    "image_size",
    "augment",
    "cutout",
    "transforms",
    "label_smoothing",
    "auxiliary",
    "drop_path",
    "validation",
)
"""Options of a recipe that say nothing for a text."""


class TextTraining(RateOfSequence):
    """Train a language model by a recipe: cross-entropy of the next word, and slowness.

    Args:
        network: as a `LanguageModel`.
        recipe: how.
        vocabulary: number of different words.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, *, vocabulary: int) -> None:
        super().__init__()
        self.network, self.recipe, self.vocabulary = network, recipe, vocabulary
        self.options = text_options(recipe)
        self._make_optimizer = optimizer_factory(recipe.optimizer, "optimizer")
        self.states = HiddenStates()
        self.perplexity = nn.ModuleDict({f"of_{stage}": Perplexity() for stage in ("train", "val", "test")})
        self.right = MeanMetric()

    def forward(self, words: Tensor) -> Tensor:
        """Return logits of the next words, shape (B, vocabulary, T), of sequences that begin in zeros."""
        logits: Tensor = self.network(words)
        return logits

    def training_step(self, batch: Excerpt, batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of a word, with the slowness."""
        loss, outputs, _ = self._evaluate(batch, "train")
        self.rate = batch.rate
        if self.trainer.is_last_batch:
            self._log_epoch()
        if self.options.slowness and outputs.shape[1] > 1:
            loss = loss + self.options.slowness * outputs.diff(dim=1).square().mean()
        return loss

    def _log_epoch(self) -> None:
        found = self._found("train")
        require_finite(found, self.current_epoch)
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        logged = {"train_perplexity": found, "lr": optimizer.param_groups[0]["lr"]}
        self.log_dict(logged, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)

    def _found(self, stage: str) -> Tensor:
        """Return the perplexity of all words of a stage since the last call."""
        metric: Any = self.perplexity[f"of_{stage}"]
        found: Tensor = metric.compute()
        metric.reset()
        return found

    def _evaluate(self, batch: Excerpt, stage: str) -> tuple[Tensor, Tensor, Tensor]:
        entering = self.states.entering(batch, stage)
        logits, outputs, last = passed(self.network, batch.words, entering, known=self.vocabulary)
        self.states.carry(batch, stage, last.detach())
        loss = F.cross_entropy(logits, batch.targets)
        metric: Any = self.perplexity[f"of_{stage}"]
        metric.update(loss.detach(), batch.targets.numel())
        return loss, outputs, logits

    def validation_step(self, batch: Excerpt, batch_idx: int) -> None:
        """Count how well the network predicts a batch."""
        self._evaluate(batch, "val")

    def on_validation_epoch_end(self) -> None:
        """Log the perplexity."""
        self.log("val_perplexity", self._found("val"))

    def test_step(self, batch: Excerpt, batch_idx: int) -> None:
        """Count how well the network predicts a batch, and how many words it predicts rightly."""
        _, _, logits = self._evaluate(batch, "test")
        self.right.update((logits.argmax(1) == batch.targets).float())

    @property
    def test_perplexity(self) -> Tensor:
        """Of all words that were tested."""
        metric: Any = self.perplexity["of_test"]
        found: Tensor = metric.compute()
        return found

    def configure_optimizers(self) -> Any:
        """Return the optimizer, with the recipe's learning rate for every step."""
        return scheduled(self, self._make_optimizer, self.recipe)


class AveragedFromPlateau(WeightAveraging):
    """Average the weights of all steps from the epoch on in which the validation text stops being predicted better.

    Until then the average is the weights themselves. It is what is validated and tested. The steps are those without
    it: so does ASGD with lambd = 0 and t0 = 0.

    Args:
        patience: epochs that are not compared with; in an epoch worse than the best before these, averaging begins.

    Source: Merity et al. 2018 (AWD-LSTM, non-monotonically triggered ASGD); Liu et al. 2019 (DARTS, `rnn/train.py`).
    """

    def __init__(self, patience: int) -> None:
        super().__init__(avg_fn=self._averaged)
        self.patience = patience
        self.seen: list[float] = []
        self.before: int | None = None
        """Steps before averaging began."""

    def _averaged(self, average: Tensor, current: Tensor, steps: Tensor | int) -> Tensor:
        if self.before is None:
            return current
        return average + (current - average) / max(1, int(steps) - self.before)  # torch's ASGD leaves out its first

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to average, where validation has become worse."""
        found = float(trainer.callback_metrics["val_perplexity"])
        earlier = self.seen[: -self.patience]
        if self.before is None and earlier and found > min(earlier):
            assert self._average_model is not None
            self.before = int(self._average_model.n_averaged)
        self.seen.append(found)

    def state_dict(self) -> dict[str, Any]:
        """Return the callback's state."""
        return {**super().state_dict(), "seen": self.seen, "before": self.before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        super().load_state_dict(state_dict)
        self.seen, self.before = list(state_dict["seen"]), state_dict["before"]


def text_options(recipe: Recipe) -> TextOptions:
    """Return what a recipe says of texts.

    Raises:
        OptionError: it is for images.
    """
    if recipe.text is None:
        raise OptionError(
            f"the recipe {recipe.name or 'given'} is for images, and the data are a text: take text-small or "
            "darts-ptb, or give it a section text"
        )
    given = [name for name in _OF_IMAGES if getattr(recipe, name)]
    if given:
        raise OptionError(f"the recipe's {given[0]} is for images, and the data are a text: leave it out")
    return recipe.text


def text_loaders(data: TrainingTexts, recipe: Recipe, *, seed: int) -> dict[str, TextLoader]:
    """Return the loaders of a training, by the names of Lightning's `Trainer.fit`."""
    lengths = text_options(recipe).lengths
    return {
        "train_dataloaders": TextLoader(data.training, name=WEIGHTS, lengths=lengths, seed=seed),
        "val_dataloaders": TextLoader(data.validation, name="validation"),
        "test_dataloaders": TextLoader(data.test, name="test"),
    }
