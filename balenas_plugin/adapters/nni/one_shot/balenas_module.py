"""The Lightning module of `BaLeNAS`: a Gaussian posterior, and the batch that proxies look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from nni.nas.evaluator.pytorch import LightningModule
from torch import Tensor, nn

from balenas_plugin.adapters.nni.one_shot.distribution_module import DistributionModule
from balenas_plugin.adapters.nni.one_shot.loaders import number_of_examples
from balenas_plugin.adapters.nni.strategies.search_options import SearchOptions
from balenas_plugin.adapters.nni.supernets.parameters import choice_names
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.bayes.vadam import VAdam
from balenas_plugin.distributions.gaussian import Gaussian
from balenas_plugin.errors import EvaluatorError


class BaLeNASModule(DistributionModule):
    """Search module of `BaLeNAS`; its alphas hold the posterior mean.

    Args:
        training_module: the evaluator's module.
        options: see `BaLeNAS`.
        **overrides: single options, in the place of `options`.
    """

    EXAMPLE = "balenas_example"
    """Key in a checkpoint of the batch that proxies look at."""

    def __init__(
        self, training_module: LightningModule, options: SearchOptions | None = None, **overrides: Any
    ) -> None:
        super().__init__(training_module, replace(options or SearchOptions(), **overrides))
        self._adopted: Posterior | None = None

    # -- the posterior ------------------------------------------------------------------------------------------------

    def make_distribution(self, parameters: Mapping[str, nn.Parameter], *, seed: int) -> Gaussian:
        """Return a Gaussian whose means are the alphas."""
        return Gaussian(parameters, seed=seed, **self.options.vadam_options())

    @property
    def vadam(self) -> VAdam:
        """The optimizer that holds the posterior; available once training has been set up."""
        return cast(Gaussian, self.distribution).optimizer

    def adopt(self, posterior: Posterior, example: Any = None) -> None:
        """Take the place of the module of a search that ran in another process.

        Args:
            posterior: that it learned.
            example: see `example`.
        """
        self._adopted = posterior
        self._example = example
        with torch.no_grad():
            for label, alpha in self.named_arch_parameters().items():
                alpha.copy_(posterior.mean[label])

    def posterior(self) -> Posterior:
        """Return the posterior as it is now (a copy)."""
        if self._adopted is not None:
            return self._adopted
        return self.distribution.posterior(choice_names(self._space()))

    def distribution_metrics(self) -> dict[str, float]:
        """Return the posterior's entropy in nats, and the mean sigma in logits: over all choices, and per label."""
        return self.distribution.posterior().metrics()

    def example(self) -> tuple[Tensor, Tensor]:
        """Return the first batch of the validation data, (images, labels), on the CPU: what proxies look at.

        It is kept where `on_example` was set before the search, which is called when it is there.

        Raises:
            EvaluatorError: the batch is something else.
        """
        match self._example:
            case (Tensor() as images, Tensor() as labels):
                return images.cpu(), labels.cpu()
        raise EvaluatorError(
            "a selection ranks networks on batches of two tensors, (inputs, labels), and the validation loader gives "
            f"{_described(self._example)}. Search without `selection`: architectures are then listed by probability"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the batch that proxies look at, so that a resumed search ranks on the same one."""
        super().on_save_checkpoint(checkpoint)
        if self._example is not None:
            checkpoint[self.EXAMPLE] = list(self.example())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back the batch that proxies look at."""
        super().on_load_checkpoint(checkpoint)
        self._example = checkpoint.get(self.EXAMPLE)

    # -- hooks --------------------------------------------------------------------------------------------------------

    def on_train_start(self) -> Any:
        """Learn N from the validation loader."""
        result = super().on_train_start()
        self._set_dataset_size()
        return result

    def _set_dataset_size(self) -> None:
        if self.options.dataset_size is not None:
            return
        size = number_of_examples(self.trainer.train_dataloader["val"])
        if size is None:
            raise EvaluatorError(
                "the validation loader has no length, so the number N of its examples is unknown: pass dataset_size"
            )
        if size != self.vadam.dataset_size:
            self.vadam.set_dataset_size(size)

    def on_train_epoch_start(self) -> Any:
        """Refuse data that has grown or shrunk where it is loaded anew (reload_dataloaders_every_n_epochs)."""
        self._set_dataset_size()
        return super().on_train_epoch_start()


def _described(batch: Any) -> str:
    name = type(batch).__name__
    parts = [str(key) for key in batch] if isinstance(batch, dict) else []
    if isinstance(batch, list | tuple):
        parts = [type(part).__name__ for part in batch]
    return f"{name} ({', '.join(parts)})" if parts else name
