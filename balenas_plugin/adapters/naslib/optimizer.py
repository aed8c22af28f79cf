"""`DistributionOptimizer`: searches of this package in NASLib, beside its own DARTS, DrNAS and GDAS."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from naslib.optimizers.oneshot.darts.optimizer import DARTSOptimizer
from naslib.utils import load_default_config
from torch import Tensor, nn

from balenas_plugin.adapters.naslib.compatibility import Repairs, logger
from balenas_plugin.adapters.naslib.final_selection import (
    common_notation,
    decisions_of,
    exporter_space,
    published_others,
)
from balenas_plugin.adapters.naslib.found_run import write_run
from balenas_plugin.adapters.naslib.graph_decisions import edge_decisions, one_hot_logits
from balenas_plugin.adapters.naslib.graphs import LabelledAlpha, labelled_alphas
from balenas_plugin.adapters.naslib.naslib_host import AskingMixedOp, Batch, NaslibHost
from balenas_plugin.adapters.naslib.optimizer_options import read_options
from balenas_plugin.adapters.naslib.saved_state import NAME, SavedState
from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.data.finite import data_examined
from balenas_plugin.distributions import Distribution, get_distribution, list_distributions
from balenas_plugin.errors import NonFiniteLossError, OptionError
from balenas_plugin.perturbations import Perturbation, perturbation_of
from balenas_plugin.presets import Preset, get_preset, list_presets
from balenas_plugin.restoring import random_numbers_restored, restored
from balenas_plugin.search import Search
from balenas_plugin.search.mixing import MixingWeights
from balenas_plugin.search_spaces import SearchSpace
from balenas_plugin.selection import ProxySelection, RankedArchitecture, rank

_CURE = "Lower learning_rate or arch_learning_rate, or set grad_clip, and resume from the last checkpoint."
_FIRST_AUTHORS_N = 25_000


class DistributionOptimizer(Repairs, DARTSOptimizer):
    r"""Search by one of this package's methods: learn a distribution over the mixing weights of every edge.

    The parameters of the distribution are what the edges hold under `alpha`; draws are not written there. Usable
    wherever NASLib's `DARTSOptimizer` is, in either of its calling styles, with the same search spaces, configs and
    `Trainer`; a killed search resumes exactly.

    Args:
        config: NASLib's config; its section `search` then holds the options. Or give them as keyword arguments.
        preset: a method, e.g. "BaLeNAS", "DARTS", "DrNAS", "SNAS" or "GDAS" (`balenas_plugin.presets`): what is
            learned, and the defaults of the options.
        distribution: in its place, the name of what is learned (`balenas_plugin.distributions`), or a class.
        num_mc_samples: M, draws per architecture step.
        arch_weight_decay: of the distribution's optimizer. BaLeNAS has its prior in its place, DrNAS its anchor.
        learning_rate, momentum, weight_decay, grad_clip, op_optimizer, loss_criteria: as in `DARTSOptimizer`.
        options: also those of `SearchOptions` and `Order`, and of the distribution, named as in its class
            (`balenas_plugin.distributions`). Any other option is ignored, as NASLib's optimizers do.

    Raises:
        OptionError: an option has a wrong type or is out of range, or looks like a misspelled one of ours.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        *,
        preset: str | None = None,
        distribution: str | type[Distribution] | None = None,
        **options: Any,
    ) -> None:
        self._preset, self._kind = _method(preset, distribution)
        super().__init__(config, **options)
        self.arch_learning_rate = self.options.arch_learning_rate
        self._alphas: list[LabelledAlpha] = []
        self.network_weights: list[nn.Parameter] = []
        self.mixing = MixingWeights(self._kind.mean_weights)
        self._handed_out: dict[str, Any] = {}
        self._epoch = self._iteration = 0

    def _search_options(
        self, config: Mapping[str, Any] | None, options: dict[str, Any]
    ) -> tuple[dict[str, Any], str | None]:
        search, dataset = super()._search_options(config, options)
        known = {*load_default_config().get("search", {}), *inspect.signature(DARTSOptimizer).parameters}
        self.options, self.update_order, self._chosen, others = read_options(
            search, preset=self._preset, kind=self._kind, known=known
        )
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
        """Turn a copy of the search space into a supernet with a distribution over its weights (see `Repairs`).

        Raises:
            SpaceError: the space has no choices.
            OptionError: `selection` does not know the space, or the method needs to know `epochs`.
        """
        super().adapt_search_space(search_space, dataset, scope, dataset_api)
        self._alphas = common_notation(search_space, labelled_alphas(self.graph))
        for module in self.graph.modules():
            if isinstance(module, AskingMixedOp):
                module.mixing, module.others = self.mixing, published_others(search_space)
        self.network_weights = [p for p in self.graph.parameters() if p.requires_grad]
        self.distribution = self._chosen({entry.label: entry.alpha for entry in self._alphas}, seed=_seed())
        self.distribution.start()
        self.distribution.set_zeros(
            {e.label: [k for k, name in enumerate(e.choices) if name in ("Zero", "none")] for e in self._alphas}
        )
        asked = self.options.perturbation
        perturbation = perturbation_of(asked, seed=0 if asked is None else _seed())
        if perturbation is not None:
            perturbation.set_parameterised({entry.label: entry.parameterised for entry in self._alphas})
        self._search = Search(self.distribution, self.update_order, perturbation)
        self.distribution.set_dataset_size(self.options.data_size or _FIRST_AUTHORS_N)
        self._number_of_epochs(0)
        self.arch_optimizer = self.distribution.optimizer
        self._state = SavedState(self._search, self.op_optimizer, self._scheduler)
        self.graph.add_module(NAME, self._state)
        if self.options.selection is not None:
            self._exporter_space()  # refuse a space that it does not know now, not after the search

    @property
    def alphas(self) -> list[nn.Parameter]:
        """The parameters of the distribution, one tensor per label, in the order of the graph's edges."""
        return [entry.alpha for entry in self._alphas]

    @property
    def posterior(self) -> Posterior:
        """What is learned, as it is now (a copy); labels are ``cell/source_target``."""
        choices = {entry.label: entry.choices for entry in self._alphas}
        return self.distribution.posterior(choices, decisions_of(self.search_space, self._alphas))

    def before_training(self) -> None:
        """Move everything to the device, the distribution's state too."""
        super().before_training()
        self.distribution.load_state_dict(self.distribution.state_dict())  # moves it to where the parameters are

    def get_checkpointables(self) -> dict[str, Any]:
        """Return what a checkpoint is to hold; NASLib's holds the model, which has all in its module `balenas`."""
        self._handed_out = super().get_checkpointables()
        return self._handed_out

    def _scheduler(self) -> Any:
        """Return the schedule of the weights' learning rate: the trainer adds it to the checkpointables."""
        scheduler = self._handed_out.get("scheduler")
        return scheduler if getattr(scheduler, "optimizer", None) is self.op_optimizer else None

    def new_epoch(self, epoch: int) -> None:
        """Let the distribution know, and continue with the random numbers of the checkpoint after a resume."""
        super().new_epoch(epoch)
        self._epoch, self._iteration = epoch, 0
        self._search.new_epoch(epoch, self._number_of_epochs(epoch))
        self._state.restore_random_numbers()
        logger.info("entropy of the distribution: %.4f nats", self.distribution.entropy())

    def _number_of_epochs(self, epoch: int) -> int:
        """Return the epochs of the search, which most methods do not ask for."""
        perturbation = type(self._search.perturbation or Perturbation())
        changes = self.distribution.counts_epochs and type(self.distribution).new_epoch is not Distribution.new_epoch
        if not changes and perturbation.new_epoch is Perturbation.new_epoch:
            return max(self.options.epochs or 0, epoch + 1)
        if self.options.epochs is None or epoch >= self.options.epochs:
            raise OptionError(
                f"{self._preset.name} changes with the epochs: epochs must be the number of them that the trainer has, "
                f"more than {epoch}, got {self.options.epochs}"
            )
        return self.options.epochs

    # -- one iteration ------------------------------------------------------------------------------------------------

    def step(self, data_train: Batch, data_val: Batch) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Run one iteration of Algorithm 1: an architecture step (after the warm-up) and a weight step.

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

    def _step(self, data_train: Batch, data_val: Batch) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        if self._state.example is None:
            self._state.example = (data_val[0].detach().cpu(), data_val[1].detach().cpu())
        host = NaslibHost(self, data_train, data_val)
        train_loss, val_loss = self._search.iteration(host, epoch=self._epoch, index=self._iteration)
        self._iteration += 1
        if not host.logits_val:  # the architecture made no step of its own
            with torch.no_grad(), host.mixing(self.distribution.mean()):
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
        """Return the graph of the architecture found: by the largest score of every edge, or as `selection` ranks."""
        if self.options.selection is None:
            with self._holding(self.distribution.scores()):
                return super().get_final_architecture()
        best = self.rank()[0]
        logger.info("selected: %s", best.choices)
        return self.architecture(best.choices)

    def architecture(self, architecture: Architecture) -> Any:
        """Return the graph of an architecture, with the weights of the search.

        Args:
            architecture: label -> operation (`posterior.choices`); of the DARTS space, as its genotypes are read:
                ``get_space("darts-reference").read("DARTS_V2").sample``.
        """
        decisions = decisions_of(self.search_space, self._alphas) or edge_decisions(self._alphas)
        with self._holding(one_hot_logits(architecture, self._alphas, decisions)):
            return super().get_final_architecture()

    @contextmanager
    def _holding(self, scores: Mapping[str, Tensor]) -> Iterator[None]:
        """Let the alphas hold scores inside the block, for NASLib to discretise."""
        with restored(self.alphas):
            with torch.no_grad():
                for label, alpha in self.distribution.parameters.items():
                    alpha.copy_(scores[label])
            yield

    def rank(self, selection: ProxySelection | None = None, *, progress: bool = False) -> list[RankedArchitecture]:
        """Rank architectures drawn from what was learned with zero-cost proxies, on the first validation batch seen.

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

    def write_run(self, folder: str | Path, *, top_k: int = 10) -> Path:
        """Write what was found as the folder of a run, for `balenas report`; return it.

        Args:
            folder: is made; a run that is there is replaced.
            top_k: how many architectures to list.

        Raises:
            OptionError: the exporter does not know the search space.
            StorageError: a file cannot be written.
        """
        return write_run(Path(folder), self._preset.name, self.posterior, self._exporter_space(), self._epoch, top_k)

    def _exporter_space(self) -> SearchSpace:
        example = self._state.example
        image_shape = (3, 32, 32) if example is None else tuple(example[0].shape[1:])
        return exporter_space(self.search_space, self._alphas, image_shape, self.architecture)

    def test_statistics(self) -> Any:
        """Return the benchmark's accuracy of the present argmax (see `Repairs`), without touching random generators."""
        with random_numbers_restored(), self._holding(self.distribution.scores()):  # NASLib's graphs draw their ids
            return super().test_statistics()


def _seed() -> int:
    return int(torch.randint(2**62, ()).item())


def _method(preset: str | None, distribution: str | type[Distribution] | None) -> tuple[Preset, type[Distribution]]:
    """Return the method that is asked for, and what it learns."""
    if (preset is None) is (distribution is None):
        raise OptionError(
            f"give DistributionOptimizer a preset, one of {', '.join(list_presets())}, or a distribution, one of "
            f"{', '.join(list_distributions())} or a class; and not both"
        )
    if preset is not None:
        return get_preset(preset), get_distribution(get_preset(preset).distribution)
    kind = distribution if isinstance(distribution, type) else get_distribution(str(distribution))
    return Preset(name=f"the distribution {kind.name}", distribution=kind.name, summary="", source=kind.source), kind


class BaLeNASOptimizer(DistributionOptimizer):
    """Learn a Gaussian posterior over the alphas: Bayesian learning for neural architecture search, in NASLib.

    Args:
        config: see `DistributionOptimizer`, also for all options that are not listed here.
        num_mc_samples: M, draws per architecture step (Table 5), by default 3.
        antithetic: draw in pairs on both sides of the mean.
        update: "vadam", or "newton" for the literal Eq. (17)-(18).
        arch_learning_rate: learning rate of the means, in logits per step.
        betas: moment decays of VAdam; with "newton" the first is the momentum.
        prior_precision: delta, precision of the prior, in 1/logit^2; in the place of DARTS's `arch_weight_decay`.
        initial_precision: precision before the first step; 1 means sigma = 1 logit.
        dataset_size: N, the number of validation examples. None: NASLib's `data_size` if there is one, else 25,000.

    Source: Zhang et al. 2022, "BaLeNAS: Differentiable Architecture Search via the Bayesian Learning Rule".
    """

    def __init__(self, config: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(config, preset="BaLeNAS", **options)
