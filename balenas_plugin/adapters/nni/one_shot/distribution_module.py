"""Algorithm 1 as the Lightning module that NNI's one-shot engine trains, whatever distribution is learned.

The composition is NNI's::

    DistributionModule             <- this file: architecture step, weight step, validation at the mean
        |_ evaluator's module      <- the user's training_step, validation_step and weight optimizer
            |_ model space         <- turned into a supernet; its alphas hold the distribution's parameters
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import LightningModule
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from torch import Tensor, nn

from balenas_plugin.adapters.nni.candidates.operations import zeros_of
from balenas_plugin.adapters.nni.one_shot.distributed import without_reducer
from balenas_plugin.adapters.nni.one_shot.evaluator_hooks import call_step
from balenas_plugin.adapters.nni.one_shot.example_batch import ExampleBatch
from balenas_plugin.adapters.nni.one_shot.expected_cost import ExpectedCost, ProfilerPenalty, cost_of
from balenas_plugin.adapters.nni.one_shot.loaders import number_of_examples
from balenas_plugin.adapters.nni.one_shot.memory_format import ChannelsLast
from balenas_plugin.adapters.nni.one_shot.metrics import Metrics, silent_loss, trial_steps
from balenas_plugin.adapters.nni.one_shot.nni_host import NniHost
from balenas_plugin.adapters.nni.one_shot.search_module import SearchModule
from balenas_plugin.adapters.nni.one_shot.search_options import SearchOptions, require_precision, warmup_of
from balenas_plugin.adapters.nni.supernets.compilation import CompiledForward
from balenas_plugin.adapters.nni.supernets.edges import edge_parameters, learned_edge_weights
from balenas_plugin.adapters.nni.supernets.fused import depthwise_elsewhere
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters, choice_names, read_directly
from balenas_plugin.adapters.nni.supernets.supernet_decisions import decisions_of
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.data.finite import data_examined
from balenas_plugin.distributions import ChosenDistribution, Distribution
from balenas_plugin.errors import EvaluatorError, FileFormatError, NonFiniteLossError, SpaceError
from balenas_plugin.fused import depthwise
from balenas_plugin.restoring import restored
from balenas_plugin.search import Search, require_part
from balenas_plugin.search.mixing import MixingWeights, mixing_of


class DistributionModule(SearchModule):
    """Searches by Algorithm 1; the batch is ``{"train": ..., "val": ...}`` as in NNI's DARTS.

    Args:
        training_module: the evaluator's module.
        options: of the search.
        chosen: makes what is learned.
        method: what the search is called.
    """

    STATE = "balenas_distribution"
    """Key in a checkpoint of the state of the distribution."""

    def __init__(
        self,
        training_module: LightningModule,
        options: SearchOptions,
        chosen: ChosenDistribution,
        *,
        method: str = "DistributionStrategy",
    ) -> None:
        super().__init__(
            training_module,
            arc_learning_rate=options.arc_learning_rate,
            gradient_clip_val=options.gradient_clip_val,
            log_prob_every_n_step=options.log_prob_every_n_step,
        )
        self.options, self.method = options, method
        self.example = ExampleBatch()
        self.read_directly: dict[str, nn.Parameter] = {}
        """Label -> parameter that a module of the user's reads itself, in the place of asking for mixing weights."""
        self.network_weights: list[nn.Parameter] = []
        self.stages: Any = None
        """What makes the edits of a schedule (`callbacks.stages.Stages`), if there is one."""
        self.as_given: Callable[[], nn.Module]
        """Makes the supernet of the space as it is given, whatever is searched of it: what costs are counted of."""
        self._chosen = chosen
        self._restored: Mapping[str, Any] | None = None
        self._adopted: Posterior | None = None
        self._search: Search | None = None
        self._cost: ExpectedCost | ProfilerPenalty | None = None
        self._supernet_modules: list[BaseSuperNetModule] = []
        self._metrics = Metrics(nn.Module())
        self._compiled: CompiledForward | None = None
        self._depthwise_elsewhere = False
        self._searched: list[nn.Module] = []  # in a list, so that it is no submodule twice
        self._mixing: list[MixingWeights] | None = None

    # -- what is learned ----------------------------------------------------------------------------------------------

    @property
    def distribution(self) -> Distribution:
        """The distribution that is learned; available once training has been set up."""
        return self.search.distribution

    @property
    def search(self) -> Search:
        """Algorithm 1 over the parts; available once training has been set up."""
        if self._search is None:
            raise EvaluatorError("the search has not started, so there is no posterior yet: run the experiment first")
        return self._search

    def posterior(self) -> Posterior:
        """Return what is learned as it is now (a copy)."""
        if self._adopted is not None:
            return self._adopted.decided_by(decisions_of(self._space()))
        return self.distribution.posterior(choice_names(self._space()), decisions_of(self._space()))

    def adopt(self, posterior: Posterior, example: Any = None) -> None:
        """Take the place of the module of a search that ran in another process.

        Args:
            posterior: that it learned.
            example: the batch that proxies look at.
        """
        self._adopted = posterior
        self.example.batch = example
        with torch.no_grad():
            for label, alpha in self.named_arch_parameters().items():
                alpha.copy_(posterior.scores[label])

    def scores(self) -> dict[str, Tensor]:
        """Return label -> what discretisation ranks by; it is in the alphas where another process has searched."""
        if self._search is None:
            return {label: alpha.detach() for label, alpha in self.named_arch_parameters().items()}
        return self.distribution.scores()

    def export(self) -> dict[str, Any]:
        """Return what NNI's rules make of the scores that the distribution ranks by."""
        alphas, scores = self.named_arch_parameters(), self.scores()
        with restored(list(alphas.values())), torch.no_grad():
            for label, alpha in alphas.items():
                alpha.copy_(scores[label])
            return dict(super().export())

    def configure_architecture_optimizers(self) -> torch.optim.Optimizer:
        """Create the distribution over the alphas; it and the perturbation have generators of their own."""
        parameters = self.named_arch_parameters()
        if not parameters:
            raise SpaceError("the model space has no choices, so there is nothing to search")
        draws = self._chosen.kind.is_random or self.options.weight_step_alpha == "uniform"
        distribution = self._chosen(parameters, seed=self.ranks.new_seed() if draws else 0)
        distribution.set_zeros(zeros_of(self._space()))
        perturbation = self.options.perturbed_by(self.ranks.new_seed, self._space())
        schedule = None if self.stages is None else self.stages.schedule
        self._cost, mixed_op = cost_of(self, self.options), self.mixing.mixed_op
        order = self.options.update_order(self.warmup_epochs)
        self._search = Search(distribution, order, perturbation, mixed_op, cost=self._cost, schedule=schedule)
        self._search.edges = learned_edge_weights(self._space(), self._chosen)
        distribution.weighs_edges = self._search.edges is not None
        if self._restored is not None:
            self._search.load_state_dict(self._restored)
        else:
            distribution.start()
            if self._search.edges is not None:
                self._search.edges.start()
        self.follow_mask()
        return distribution.optimizer

    def configure_optimizers(self) -> Any:
        """Return the optimizers; a schedule of the learning rate is asked for the epochs of this network."""
        self.warmup_epochs = warmup_of(self.options.warmup_epochs, self.trainer.max_epochs)
        with nullcontext() if self.stages is None else self.stages.epochs_shown(self.trainer):
            return super().configure_optimizers()

    def follow_mask(self) -> None:
        """Let the supernet give no weight to choices that the distribution has dropped."""
        learned, self.mixing.dropped_are_zeros = self.distribution, self.stages is not None
        self.mixing.leave({learned.parameters[k]: (learned.mask[k], kept) for k, kept in learned.kept.items()})

    def forget_network(self) -> None:
        """Forget what belongs to a network that was replaced: what mixes it, and what was to be restored to it."""
        self._mixing = self._restored = self._compiled = None

    def named_arch_parameters(self) -> dict[str, nn.Parameter]:
        """Return label -> alpha, the posterior mean outside of a step, in label order."""
        return architecture_parameters(self._space())

    def _space(self) -> nn.Module:
        """Return the supernet, so that labels made of module names are the same as everywhere else."""
        return next(iter(self._searched), None) or getattr(self.training_module, "_model", None) or self.training_module

    @property
    def mixing(self) -> MixingWeights:
        """What the supernet's mixed modules ask for their weights."""
        if self._mixing is None:
            self._mixing = [mixing_of(self._space())]
        return self._mixing[0]

    def set_model(self, model: nn.Module) -> None:
        """Set the supernet; it stays the search's when the evaluator's module is given another model."""
        self._searched = [model]
        super().set_model(model)

    @contextmanager
    def holding(self, supernet: nn.Module) -> Iterator[None]:
        """Let the evaluator's module hold the supernet inside the block, whatever it has been given since."""
        held = getattr(self.training_module, "_model", supernet)
        self.set_model(supernet)
        try:
            yield
        finally:
            self.training_module.set_model(held)

    def arch_parameters(self) -> list[nn.Parameter]:
        """Return the alphas in label order (NNI's own order depends on addresses), then the weights of edges."""
        return [*self.named_arch_parameters().values(), *edge_parameters(self._space()).values()]

    # -- one iteration ------------------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        """Run one iteration of Algorithm 1: the architecture step (after the warm-up), then the weight step."""
        if self.example.on_first is not None and self.example.batch is None:
            self.example.offer(self.ranks.first(batch["val"]))
        if batch_idx == 0 and self._cost is not None:
            self._cost.prepare(batch["val"])
        first = batch_idx < _FIRST_BATCHES and self.trainer.current_epoch == 0
        with self._forward(batch_idx), data_examined(batch, cure=_CURE, first=first):
            return self._iteration(batch, batch_idx)

    def _forward(self, batch_idx: int) -> AbstractContextManager[None]:
        """Let the network run compiled inside the block, if that is asked for, or with the faster convolutions."""
        if self._compiled is not None:
            return self._compiled.used(learning=batch_idx == 0)
        return depthwise.Convolutions() if self._depthwise_elsewhere else nullcontext()

    def _iteration(self, batch: dict[str, Any], batch_idx: int) -> Any:
        host = NniHost(self, batch, batch_idx)
        if batch_idx == 0:
            host.of_draw("val", 0)  # says what cannot be split before the warm-up, not after it
        before = [parameter.detach().clone() for parameter in self.distribution.parameters.values()]
        _, loss = self.search.iteration(host, epoch=self.trainer.current_epoch, index=batch_idx)
        if loss is not None:
            after = self.distribution.parameters.values()
            moved = [(a.detach() - b).square().sum() for a, b in zip(after, before, strict=True)]
            self.log("arch_loss", self.ranks.mean(loss), on_step=True, on_epoch=True)
            self.log("mu_step", torch.stack(moved).sum().sqrt(), on_step=True, on_epoch=True)
        if batch_idx % self.log_prob_every_n_step == 0:
            metrics = self.distribution.metrics()
            self.log_dict({name: value for name, value in metrics.items() if "/" not in name})
            self.log_by_choice({name: value for name, value in metrics.items() if "/" in name})
        return host.outputs

    def _read_directly(self) -> dict[str, nn.Parameter]:
        found = read_directly(self._supernet_modules, self.mixing, self.named_arch_parameters())
        lost = {
            "no perturbation reaches them": self.options.perturbation is not None,
            "no gradient of theirs is taken with levels: 1": self.options.levels == 1,
            f"no draw of a {self.distribution.name} distribution reaches them": not self.distribution.has_logits,
            "no choice of theirs can be dropped": self.stages is not None and self.stages.schedule.drops,
        }
        if found and any(lost.values()):
            raise SpaceError(
                f"the modules of {', '.join(found)} compute their mixing weights themselves, so "
                f"{next(what for what, holds in lost.items() if holds)}: let them call what NNI passes to `mutate` as "
                "mutate_kwargs['softmax']"
            )
        return found

    def resample(self) -> dict[str, Any]:
        """Resample modules that need it (the user's own may); like NNI's, but without walking the model each time."""
        result: dict[str, Any] = {}
        for module in self._supernet_modules:
            result.update(module.resample(memo=result))
        return result

    def validation_loss(self, val_batch: Any, batch_idx: int) -> Tensor:
        """Return the loss on a batch of the architecture."""
        loss = self.silent_loss(val_batch, 2 * batch_idx)
        self.require_finite(loss, "architecture")
        return loss

    def silent_loss(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of the evaluator's training_step, which logs nothing."""
        return silent_loss(self.training_module, self._metrics, batch, batch_idx)

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute gradients, each the mean over the processes of the search."""
        with without_reducer(self.trainer.model):
            super().manual_backward(loss, *args, **kwargs)
        self.ranks.average_gradients(self.network_weights)

    def require_finite(self, loss: Tensor, which: str) -> None:
        """Raise NonFiniteLossError if a loss is NaN or infinite in any process."""
        loss = self.ranks.mean(loss)  # so that all processes stop, or none
        if not torch.isfinite(loss).all():
            raise NonFiniteLossError(
                f"the loss of the {which} step became {loss.item()} in epoch {self.trainer.current_epoch}, "
                f"step {self.trainer.fit_loop.epoch_loop.batch_idx} of it. The last checkpoint is from before that. "
                f"{_CURE}"
            )

    # -- hooks --------------------------------------------------------------------------------------------------------

    def configure_callbacks(self) -> list[pl.Callback]:
        """Search in channels-last memory where that is wanted and possible."""
        return [
            *super().configure_callbacks(),
            ChannelsLast(self._space, self.options.channels_last, partial(trial_steps, self)),
        ]

    def on_train_start(self) -> Any:
        """Learn which weights are trained and who mixes by itself; compile the network if that is asked for."""
        require_precision(self.trainer, self.arch_parameters())
        self.learn_network()
        return super().on_train_start()

    def learn_network(self) -> None:
        """Learn what the network is made of, before the first step and when it was changed."""
        self._supernet_modules = list(self.supernet_modules())
        self.read_directly = self._read_directly()
        self._metrics = Metrics(self.training_module)
        alphas = {id(alpha) for alpha in self.arch_parameters()}
        self.network_weights = [p for p in self.training_module.parameters() if p.requires_grad and id(p) not in alphas]
        self._depthwise_elsewhere = self.options.fused and bool(depthwise_elsewhere(self.training_module))
        if self.options.compile_mode is not None and self._compiled is None:
            self._compiled = CompiledForward(
                self._space(),
                self.options.compile_mode,
                keeps_gradients=self.options.order == "second",
                verbose=self.trainer.is_global_zero,
                mixing=self.mixing,
            )

    def on_train_epoch_start(self) -> Any:
        """Tell the distribution the epoch, and the size of data that may be loaded anew for each."""
        learned_on = self.trainer.train_dataloader["train" if self.options.levels == 1 else "val"]
        self.distribution.set_dataset_size(number_of_examples(learned_on))
        self.follow_mask()
        self.search.new_epoch(self.trainer.current_epoch, self.trainer.max_epochs or -1)
        return super().on_train_epoch_start()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the distribution's state, and the batch that proxies look at."""
        super().on_save_checkpoint(checkpoint)
        self.example.save(checkpoint)
        checkpoint[self.STATE] = self.search.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what `on_save_checkpoint` kept.

        Raises:
            FileFormatError: the checkpoint is of a search for another distribution.
        """
        super().on_load_checkpoint(checkpoint)
        self.example.load(checkpoint)
        state = checkpoint.get(self.STATE)
        learned = _BEFORE if state is None else state["name"]
        if learned != self._chosen.name:
            raise FileFormatError(
                f"the checkpoint is of a search that learns the distribution {learned!r}, or of an older version; "
                f"{self.method} learns {self._chosen.name!r}. Start the search anew."
            )
        require_part("mixed_op", state or {}, self.mixing.mixed_op)
        require_part("schedule", state or {}, None if self.stages is None else self.stages.schedule)
        if self.stages is not None:
            self.stages.replay(state, checkpoint["epoch"] + 1)
        self._restored = state

    def on_train_epoch_end(self) -> Any:
        """Stop before the checkpoint is replaced if the epoch's last step broke the weights."""
        if not all(torch.isfinite(p).all() for p in self.parameters()):
            raise NonFiniteLossError(
                f"weights became NaN or infinite at the end of epoch {self.trainer.current_epoch}. The last checkpoint "
                f"is from before that. {_CURE}"
            )
        self.ranks.average_buffers(self.training_module)
        result = super().on_train_epoch_end()
        if self.stages is not None:
            self.stages.end_epoch(self.trainer)
        return result

    def on_validation_start(self) -> Any:
        """Validate the same network in every process: statistics of batch-norm are each one's own until here."""
        self.ranks.average_buffers(self.training_module)
        return super().on_validation_start()

    def validation_step(self, batch: Any, batch_idx: int, *more: int) -> Any:
        """Validate with the evaluator's own step; the alphas hold the mean."""
        with self._forward(batch_idx):
            return call_step(self.training_module.validation_step, batch, batch_idx, *more)


_FIRST_BATCHES = 2  # in which NaN is looked for, whatever the loss

_BEFORE = "gaussian"  # checkpoints that do not name their distribution are of BaLeNAS, whose optimizer holds all

_CURE = "Lower the learning rate of the weights or arc_learning_rate, or clip gradients (gradient_clip_val)."
