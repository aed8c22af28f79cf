"""`BaLeNASOptimizer`: BaLeNAS for NASLib, beside its DARTS, DrNAS and GDAS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from naslib.optimizers.oneshot.darts.optimizer import DARTSOptimizer
from naslib.utils import load_default_config
from torch import Tensor, nn

from balenas_plugin.adapters.naslib.compatibility import Repairs, logger
from balenas_plugin.adapters.naslib.final_selection import common_notation, exporter_space
from balenas_plugin.adapters.naslib.graph_decisions import one_hot_logits
from balenas_plugin.adapters.naslib.graphs import LabelledAlpha, labelled_alphas
from balenas_plugin.adapters.naslib.naslib_host import AskingMixedOp, NaslibHost
from balenas_plugin.adapters.naslib.optimizer_options import split_options
from balenas_plugin.adapters.naslib.saved_state import NAME, SearchState
from balenas_plugin.bayes.decisions import Sample
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.data.finite import data_examined
from balenas_plugin.distributions.gaussian import Gaussian
from balenas_plugin.errors import NonFiniteLossError
from balenas_plugin.restoring import random_numbers_restored, restored
from balenas_plugin.search import Search
from balenas_plugin.search.mixing import MixingWeights
from balenas_plugin.selection import ProxySelection, RankedArchitecture, Space, rank

Batch = tuple[Tensor, Tensor]

_CURE = "Lower learning_rate or arch_learning_rate, or set grad_clip, and resume from the last checkpoint."


class BaLeNASOptimizer(Repairs, DARTSOptimizer):  # type: ignore[misc]
    r"""Learn a distribution over architectures: Bayesian learning for neural architecture search, in NASLib.

    Every architecture parameter alpha has a Gaussian posterior; its mean mu is what the edges hold under `alpha`.
    Usable wherever NASLib's `DARTSOptimizer` is, in either of its calling styles, with the same search spaces, configs
    and `Trainer`; a killed search resumes exactly.

    Args:
        config: NASLib's config; its section `search` then holds the options. Or give them as keyword arguments.
        num_mc_samples: M, draws per architecture step (Table 5).
        antithetic: draw in pairs on both sides of the mean.
        order: "first", or "second" for the gradient through one unrolled weight step (Eq. 1); NASLib's `unrolled` says
            the same.
        finite_difference: of the second order: "central", or "one-sided" for one evaluation less.
        update: "vadam", or "newton" for the literal Eq. (17)-(18).
        arch_learning_rate: learning rate of the means, in logits per step.
        betas: moment decays of VAdam; with "newton" the first is the momentum.
        prior_precision: delta, precision of the prior, in 1/logit^2; in the place of DARTS's `arch_weight_decay`.
        initial_precision: precision before the first step; 1 means sigma = 1 logit.
        dataset_size: N, the number of validation examples. None: NASLib's `data_size` if there is one, else 25,000.
        weight_step_alpha: "mean", or "sample" to train the weights at a draw from the posterior.
        warmup_epochs: epochs at the start without architecture steps.
        selection: how `get_final_architecture` selects: "synflow" for the paper's BaLeNAS-TF, a `ProxySelection` (or a
            dict of its options); None for the argmax of mu.
        learning_rate, momentum, weight_decay, grad_clip, op_optimizer, loss_criteria: as in `DARTSOptimizer`. Any
            further option of NASLib's configs is ignored, as NASLib's optimizers do.

    Raises:
        OptionError: an option has a wrong type or is out of range, or looks like a misspelled one of ours.

    Source: Zhang et al. 2022, "BaLeNAS: Differentiable Architecture Search via the Bayesian Learning Rule".
    """

    def __init__(self, config: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.arch_learning_rate = self.options.arch_learning_rate
        self._alphas: list[LabelledAlpha] = []
        self.network_weights: list[nn.Parameter] = []
        self.mixing = MixingWeights(Gaussian.mean_weights)
        self._handed_out: dict[str, Any] = {}
        self._epoch = 0

    def _search_options(
        self, config: Mapping[str, Any] | None, options: dict[str, Any]
    ) -> tuple[dict[str, Any], str | None]:
        search, dataset = super()._search_options(config, options)
        self.options, others = split_options(search, known=load_default_config().get("search", {}))
        return others, dataset

    # -- what is searched ---------------------------------------------------------------------------------------------

    @staticmethod
    def update_ops(edge: Any) -> None:
        """Let an edge of several operations mix them with the weights of the current pass (NASLib calls this)."""
        if isinstance(edge.data.op, list):
            edge.data.set("op", AskingMixedOp(edge.data.op))

    def adapt_search_space(
        self, search_space: Any, dataset: str | None = None, scope: Any = None, dataset_api: Any = None
    ) -> None:
        """Turn a copy of the search space into a supernet with a posterior over its alphas (see `Repairs`).

        Raises:
            SpaceError: the space has no choices.
            OptionError: `selection` does not know the space.
        """
        super().adapt_search_space(search_space, dataset, scope, dataset_api)
        self._alphas = common_notation(search_space, labelled_alphas(self.graph))
        for module in self.graph.modules():
            if isinstance(module, AskingMixedOp):
                module.mixing = self.mixing
        self.network_weights = [p for p in self.graph.parameters() if p.requires_grad]
        self.distribution = Gaussian(
            {entry.label: entry.alpha for entry in self._alphas},
            seed=int(torch.randint(2**62, ()).item()),
            **self.options.vadam_options(),
        )
        self.arch_optimizer = self.distribution.optimizer
        self._search = Search(self.distribution, self.options.update_order())
        self._state = SearchState(self._alphas, self.arch_optimizer, self.op_optimizer, self._scheduler)
        self.graph.add_module(NAME, self._state)
        if self.options.selection is not None:
            self._exporter_space()  # refuse a space that it does not know now, not after the search

    @property
    def alphas(self) -> list[nn.Parameter]:
        """The means mu, one tensor per label, in the order of the draws."""
        return [entry.alpha for entry in self._alphas]

    @property
    def posterior(self) -> Posterior:
        """The posterior as it is now (a copy); labels are ``cell/source_target``."""
        return Posterior(
            {entry.label: entry.alpha.detach().cpu() for entry in self._alphas},
            {entry.label: self.arch_optimizer.precision(entry.alpha).detach().cpu() for entry in self._alphas},
            {entry.label: entry.choices for entry in self._alphas},
        )

    def before_training(self) -> None:
        """Move everything to the device, the posterior too."""
        super().before_training()
        self.arch_optimizer.load_state_dict(self.arch_optimizer.state_dict())  # moves it to where the means are

    def get_checkpointables(self) -> dict[str, Any]:
        """Return what a checkpoint is to hold; NASLib's holds the model, which has all in its module `balenas`."""
        self._handed_out = super().get_checkpointables()
        return self._handed_out

    def _scheduler(self) -> Any:
        """Return the schedule of the weights' learning rate: the trainer adds it to the checkpointables."""
        scheduler = self._handed_out.get("scheduler")
        return scheduler if getattr(scheduler, "optimizer", None) is self.op_optimizer else None

    def new_epoch(self, epoch: int) -> None:
        """Log the posterior, and continue with the random numbers of the checkpoint after a resume."""
        super().new_epoch(epoch)
        self._epoch = epoch
        self._state.restore_random_numbers()
        logger.info("entropy of the posterior: %.4f nats", self.posterior.entropy())

    # -- one iteration ------------------------------------------------------------------------------------------------

    def step(self, data_train: Batch, data_val: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run one iteration of Algorithm 1: the architecture step (after the warm-up), then the weight step.

        Args:
            data_train: images (B, C, H, W) and classes (B,) for the weights.
            data_val: the same for the architecture.

        Returns:
            Training logits; validation logits, averaged over the draws; training loss; validation loss, also averaged.

        Raises:
            NonFiniteLossError: a loss became NaN or infinite.
        """
        with data_examined({"train": data_train, "val": data_val}, cure=_CURE):
            return self._step(data_train, data_val)

    def _step(self, data_train: Batch, data_val: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if self._state.example is None:
            self._state.example = (data_val[0].detach().cpu(), data_val[1].detach().cpu())
        host = NaslibHost(self, data_train, data_val)
        train_loss, val_loss = self._search.iteration(host, epoch=self._epoch, index=0)
        if val_loss is None:  # a warm-up
            with torch.no_grad():
                val_loss = host.validation_loss(0)
        return host.logits_train, torch.stack(host.logits_val).mean(0), train_loss, val_loss

    def evaluate(self, batch: Batch, which: str) -> tuple[Tensor, Tensor]:
        """Return the logits of a batch, and its loss.

        Raises:
            NonFiniteLossError: the loss is NaN or infinite.
        """
        logits = self.graph(batch[0])
        loss = self.loss(logits, batch[1])
        if not torch.isfinite(loss):
            raise NonFiniteLossError(f"the {which} loss became {loss.item()} in epoch {self._epoch}. {_CURE}")
        return logits, loss

    # -- what was found -----------------------------------------------------------------------------------------------

    def get_final_architecture(self) -> Any:
        """Return the graph of the architecture found: by argmax of mu, or as `selection` ranks."""
        if self.options.selection is None:
            return super().get_final_architecture()
        best = self.rank()[0]
        logger.info("selected: %s", best.choices)
        return self.architecture(best.choices)

    def architecture(self, sample: Sample) -> Any:
        """Return the graph of an architecture, with the weights of the search.

        Args:
            sample: label -> operation, as in `posterior.choices`; in NAS-Bench-301 an edge that is cut has no entry.
        """
        with restored(self.alphas):
            with torch.no_grad():
                for alpha, logits in zip(self.alphas, one_hot_logits(sample, self._alphas), strict=True):
                    alpha.copy_(logits)
            return super().get_final_architecture()

    def rank(self, selection: ProxySelection | None = None, *, progress: bool = False) -> list[RankedArchitecture]:
        """Rank architectures drawn from the posterior with zero-cost proxies, on the first validation batch seen.

        Args:
            selection: another one than the optimizer's own.
            progress: show a progress bar.

        Raises:
            OptionError: the exporter does not know the search space.
        """
        inputs, targets = self._state.example or (None, None)
        return rank(
            self.posterior,
            self._exporter_space(),
            selection or self.options.selection,
            inputs=inputs,
            targets=targets,
            progress=progress,
        )

    def _exporter_space(self) -> Space:
        example = self._state.example
        image_shape = (3, 32, 32) if example is None else tuple(example[0].shape[1:])
        return exporter_space(self.search_space, self._alphas, image_shape, self.architecture)

    def test_statistics(self) -> Any:
        """Return the benchmark's accuracy of the argmax of mu (see `Repairs`), without touching random generators."""
        with random_numbers_restored():  # NASLib's graphs draw their ids
            return super().test_statistics()
