"""The one-shot strategy for NNI's `NasExperiment` that learns a distribution, whichever it is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch
from nni.nas.evaluator.pytorch import Lightning, LightningModule
from nni.nas.execution import ExecutionEngine, TrainingServiceExecutionEngine
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.space import ExecutableModelSpace, ModelStatus, RawFormatModelSpace
from pytorch_lightning.utilities.model_helpers import is_overridden

from balenas_plugin.adapters.nni.callbacks.checkpoint import SearchCheckpoint, require_checkpoint
from balenas_plugin.adapters.nni.callbacks.probing import as_searched
from balenas_plugin.adapters.nni.one_shot.distribution_module import DistributionModule
from balenas_plugin.adapters.nni.one_shot.loaders import number_of_examples, require_a_batch
from balenas_plugin.adapters.nni.one_shot.search_options import (
    OPTION_NAMES,
    SearchOptions,
    own_options,
    validation_interval,
    warmup_of,
)
from balenas_plugin.adapters.nni.strategies.process_guard import ProcessGuard, require_supported
from balenas_plugin.adapters.nni.strategies.rankable import require_rankable
from balenas_plugin.adapters.nni.strategies.staged import StagedStrategy
from balenas_plugin.adapters.nni.strategies.working_files import out_of_working_directory, output_folder
from balenas_plugin.adapters.nni.supernets.by_position import positions_of
from balenas_plugin.adapters.nni.supernets.found_model import FoundModel, exporter_space
from balenas_plugin.adapters.nni.supernets.fused import fusing_hooks
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters, supernet_modules
from balenas_plugin.adapters.nni.supernets.supernet_decisions import decisions_of, exported
from balenas_plugin.adapters.nni.supernets.trained_supernet import TrainedSupernet
from balenas_plugin.bayes.architectures import Architectures, DescribedArchitecture
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.distributions import ChosenDistribution, Distribution, get_distribution, list_distributions
from balenas_plugin.errors import OptionError, SpaceError, quoted
from balenas_plugin.mixed_ops import mixed_op_of
from balenas_plugin.options import given_options, joined_options, summary
from balenas_plugin.presets import Preset
from balenas_plugin.schedules import schedule_of
from balenas_plugin.search import Search
from balenas_plugin.search_spaces import SearchSpace
from balenas_plugin.selection import ProxySelection, RankedArchitecture, rank
from balenas_plugin.selection.candidates import report_fewer


class DistributionStrategy(StagedStrategy):
    """Learn a distribution over mixing weights: Algorithm 1, for every method that is made of its parts.

    In each iteration the architecture step draws mixing weights, takes the gradient of the validation loss at each
    draw, and updates the distribution; the weight step trains the network on a training batch. Usable wherever NNI's
    `DARTS` is, with the same model spaces. `BaLeNAS`, `DARTS`, `DrNAS`, `GDAS`, `SNAS` and the other presets are
    strategies of this kind with options of their own.

    Args:
        distribution: name of what is learned, or a class; a preset has its own.
        mutation_hooks: as in NNI's one-shot strategies.
        **options: those of every search, see `SearchOptions`, and those of the distribution, such as
            ``num_mc_samples``, ``betas`` and, for "gaussian", ``prior_precision``; see `balenas_plugin.distributions`.

    Raises:
        OptionError: an option has a wrong type or is out of range.
    """

    preset: ClassVar[Preset | None] = None

    search_in_trials: ClassVar[Callable[..., Any]]
    """Makes the search under NNI's training services, which makes strategies again in trials."""

    def __init__(
        self,
        *,
        distribution: str | type[Distribution] | None = None,
        mutation_hooks: list[Any] | None = None,
        **options: Any,
    ) -> None:
        nnis = {key: options.pop(key) for key in ("model_space", "engine") if key in options}
        self.distribution = self._distribution_class(distribution)
        options = {
            **(self.preset.options if self.preset is not None else {}),
            **given_options(self.options_class(distribution), options),
        }
        self.options = SearchOptions(**{key: value for key, value in options.items() if key in OPTION_NAMES})
        chosen = {key: value for key, value in options.items() if key not in OPTION_NAMES}
        self.chosen = ChosenDistribution(self.distribution, chosen, lr=self.options.arc_learning_rate)
        self.mixed_op, self.schedule = mixed_op_of(self.options.mixed_op), schedule_of(self.options.schedule)
        self._require_sound()
        super().__init__(
            arc_learning_rate=self.options.arc_learning_rate,
            gradient_clip_val=self.options.gradient_clip_val,
            log_prob_every_n_step=self.options.log_prob_every_n_step,
            warmup_epochs=self.options.warmup_epochs,
            penalty=self.options.penalty,
            mutation_hooks=mutation_hooks,
            **nnis,
        )
        self.selection = self.options.selection
        self.recipe: Any = None
        """How a trial makes the search anew; None: from a description of the space, the evaluator and the options."""
        self.found: Any = None
        """What a search before the experiment has found: the trials are the candidates' alone."""
        self.ranked: list[RankedArchitecture] | None = None
        """The ranking of a search that ran in a trial."""
        self.trained: dict[int, Any] = {}
        """Rank -> what training gave, for the architectures that became trials."""
        self._trials: Any = None
        self._pristine: ModelSpace | None = None
        self._checkpoint: SearchCheckpoint | None = None
        self._guard = ProcessGuard()
        self._loaders: dict[str, Any] = {}

    @classmethod
    def options_class(cls, distribution: str | type[Distribution] | None = None) -> type[Any]:
        """Return all options but the distribution: those of a search, and those of what it learns.

        Raises:
            OptionError: there is no such distribution, or an option of it has the name of one of every search.
        """
        own = own_options(cls._distribution_class(distribution))
        return joined_options(
            cls.__name__,
            SearchOptions,
            own,
            about=summary(cls) if cls.preset is None else cls.preset.summary,
            where="strategy",
            called=f"strategy {cls.__name__}",
            changed=None if cls.preset is None else cls.preset.options,
            without=("lr",),
        )

    @classmethod
    def _distribution_class(cls, given: str | type[Distribution] | None) -> type[Distribution]:
        if cls.preset is None and given is None:
            raise OptionError(
                f"DistributionStrategy needs a distribution: one of {', '.join(list_distributions())}, or a class"
            )
        if cls.preset is not None and given not in (None, cls.preset.distribution):
            raise OptionError(
                f"{cls.preset.name} learns the distribution {cls.preset.distribution!r}, got {quoted(given)}: "
                "DistributionStrategy takes any"
            )
        wanted: Any = cls.preset.distribution if cls.preset is not None else given
        return wanted if isinstance(wanted, type) and issubclass(wanted, Distribution) else get_distribution(wanted)

    def _require_sound(self) -> None:
        """Raise OptionError where the parts do not go together."""
        order, perturbation = self.options.update_order(), self.options.perturbed_by(int)
        distribution = self.chosen({"": torch.zeros(2)}, seed=0)
        costs = self.options.cost is not None or self.options.penalty is not None
        cost = (lambda loss, expected: loss) if costs else None
        Search(distribution, order, perturbation, self.mixed_op, cost=cost, schedule=self.schedule)
        if self.options.mc_batches == "split" and not self.distribution.needs_gradient:
            raise OptionError(
                f"{self.chosen.name} compares the losses of draws, so they must see the same examples: "
                'mc_batches must be "full"'
            )

    def arguments(self) -> dict[str, Any]:
        """Return all arguments that make an equal strategy."""
        own = {key: value for key, value in self.chosen.options.items() if key != "lr"}
        given = {} if self.preset is not None else {"distribution": self.distribution}
        return {**given, **{key: getattr(self.options, key) for key in OPTION_NAMES}, **own}

    # -- what is searched ---------------------------------------------------------------------------------------------

    def configure_oneshot_module(self, training_module: LightningModule) -> DistributionModule:
        """Wrap the evaluator's module in the search module."""
        module = DistributionModule(training_module, self.options, self.chosen, method=type(self).__name__)
        selection = self.selection
        if selection is not None:
            module.example.on_first = lambda: require_rankable(module, lambda: self._to_rank(selection))
        return module

    def default_mutation_hooks(self) -> list[Any]:
        """Return NNI's hooks for DARTS, behind those that fuse."""
        hooks: list[Any] = super().default_mutation_hooks()
        return [*fusing_hooks(), *hooks] if self.options.fused else hooks

    def _initialize(self, model_space: ExecutableModelSpace, engine: ExecutionEngine) -> RawFormatModelSpace:
        """Prepare the search: in this process with NNI's sequential engine, in a trial with its training services."""
        if not isinstance(engine, TrainingServiceExecutionEngine):
            return super()._initialize(model_space, engine)
        self._trials = self.search_in_trials(self, engine)
        space = copy.deepcopy(self._trials.experiment.model_space)
        self._model_space = RawFormatModelSpace(space, self._trials.experiment.evaluator)
        evaluator = self.mutate_evaluator(self._trials.experiment.evaluator)
        self._mutated_model_space = RawFormatModelSpace(self.mutate_model(space), evaluator)
        self._mutated_model_space.status = ModelStatus.Frozen
        return self._mutated_model_space

    def _run(self) -> None:
        """Run the search."""
        if self._trials is not None:
            with self._kept:
                self._trials.run()
            return
        trainer = self._mutated_model_space.evaluator.trainer
        folder = output_folder(trainer) if self._checkpoint is None else self._checkpoint.directory
        with self._guard.explained(), out_of_working_directory(trainer, folder):
            super()._run()

    def mutate_model(self, model: ModelSpace) -> ModelSpace:
        """Turn the model space into a supernet in place.

        Raises:
            SpaceError: the space has no choices.
        """
        if self.selection is not None or self.mixed_op is not None:
            self._pristine = copy.deepcopy(model)
        model = super().mutate_model(model)
        if not architecture_parameters(model):
            raise SpaceError(
                f"{type(model).__name__} has no choices, so there is nothing to search: give it a LayerChoice, "
                "InputChoice, Repeat, Cell or nni.choice"
            )
        searched = {label for _, module in supernet_modules(model) for label in module.simplify()}
        loose = sorted(set(self._arch_parameters) - searched)
        if loose:
            raise SpaceError(
                f"{type(model).__name__} has choices that belong to no layer, so no gradient reaches them: {loose}. "
                "Use them in a LayerChoice, InputChoice, Repeat, Cell or a Mutable layer."
            )
        return model

    def mutate_evaluator(self, evaluator: Lightning) -> Lightning:
        """Wrap the evaluator, make it validate, and give it a checkpoint from which the search resumes exactly.

        Raises:
            EvaluatorError: the evaluator lacks a data loader, or one has less than a batch.
            OptionError: the warm-up leaves no epochs.
        """
        if not isinstance(evaluator, Lightning):
            return super().mutate_evaluator(evaluator)  # NNI's TypeError
        require_supported(evaluator.trainer)
        every, epochs = validation_interval(self.options, evaluator.trainer), evaluator.trainer.max_epochs
        warmup_of(self.options.warmup_epochs, epochs)
        if every is not None and epochs is not None and epochs > 0:
            every = min(every, epochs)  # once at least: NNI's final report asks for the metric
        self._validates = every != 0 and is_overridden("validation_step", evaluator.module, parent=LightningModule)
        mutated = super().mutate_evaluator(evaluator)
        trainer = mutated.trainer
        if self._validates:
            trainer.check_val_every_n_epoch = every
        self._checkpoint = next((c for c in trainer.callbacks if isinstance(c, SearchCheckpoint)), None)
        if self._checkpoint is None and trainer.checkpoint_callback is not None:
            self._checkpoint = SearchCheckpoint(output_folder(trainer))
            trainer.callbacks.append(self._checkpoint)
        if trainer.world_size > 1:
            trainer.callbacks.insert(0, self._guard)
        return mutated

    def train_dataloader(
        self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]
    ) -> dict[str, Any]:
        """Return both loaders; Lightning walks them together and starts the shorter one again."""
        loaders = super().train_dataloader(train_dataloader_fn, val_dataloader_fn)
        require_a_batch(loaders["train"], "training")
        require_a_batch(loaders["val"], "validation")
        if self.selection is not None and self.selection.needs_supernet:  # say now what would fail after the search
            positions_of(loaders["train"], "training")
            positions_of(loaders["val"], "validation")
        self._loaders = loaders
        return loaders

    def val_dataloader(self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]) -> Any:
        """Return the validation loader (NNI's one-shot strategies never validate)."""
        if not self._validates:
            return None
        loader = val_dataloader_fn()
        if isinstance(loader, list | tuple | dict):  # all are validated on, see `architecture_loader`
            return loader
        # NNI's report asks for the truth of the loader, which has none without a length; a list has
        return [loader] if number_of_examples(loader) is None else loader

    # -- what was found -----------------------------------------------------------------------------------------------

    @property
    def posterior(self) -> Posterior:
        """The posterior over the architecture parameters; available once the strategy has run."""
        module = self._search_module()
        with module.holding(self.supernet):
            return module.posterior()

    def iterate_samples(self) -> Iterator[DescribedArchitecture]:
        """Yield the argmax of mu, then all other networks from the most to the least probable.

        Each comes as a mapping with its exact log-probability under the posterior. It names the choices that
        make a difference: none inside a candidate that is not chosen, or in a block beyond a depth.
        """
        module = self._search_module()
        with module.holding(self.supernet):
            first = exported(module)
        posterior = self.posterior
        return Architectures(posterior.decisions, posterior).iterate(first=first)

    def list_models(self, sort: bool = True, limit: int | None = 1) -> Iterator[RawFormatModelSpace]:
        """Yield the best architectures as frozen models, each network once; say so if there are fewer than asked for.

        Without a `selection`: the argmax of mu, then the next most probable distinct ones. With one: its ranking. Their
        weights are the supernet's, but new where a `mixed_op` has built other operations than the space's own.

        Args:
            sort: ignored; the order is always the one above.
            limit: how many; None lists all there are, best first, as far as one reads.
        """
        if self.selection is None:
            samples = (ranked.sample for ranked in self.iterate_samples())
        else:
            samples = (ranked.choices for ranked in self.rank())
        listed = 0
        space = self.supernet if self.mixed_op is None else self._pristine
        for listed, architecture in enumerate(islice(samples, limit), start=1):  # noqa: B007  # it is read behind
            yield FoundModel(space, self.model_space.evaluator).freeze(architecture)
        report_fewer(listed, limit or listed, self.selection)

    def rank(self, selection: ProxySelection | None = None, *, progress: bool = False) -> list[RankedArchitecture]:
        """Rank architectures drawn from the posterior, by zero-cost proxies or by the supernet's accuracy.

        Args:
            selection: another one than the strategy's own.
            progress: show a progress bar.

        Raises:
            OptionError: the strategy was made without a `selection`, so it kept no copy of the space; or the supernet's
                accuracy is asked for where a trial has searched.
            EvaluatorError: a batch of a loader is not (images, labels).
        """
        if selection is None and self.ranked is not None:
            return self.ranked
        selection = selection or self.selection
        if self._pristine is None or selection is None:
            raise OptionError(
                "the strategy keeps what ranking needs only if it is made with selection=ProxySelection(...)"
            )
        return rank(self.posterior, **self._to_rank(selection), progress=progress)

    def _to_rank(self, selection: ProxySelection) -> dict[str, Any]:
        """Return what a ranking looks at, as its arguments."""
        inputs, targets = self._search_module().example.pair()
        space = exporter_space(self._pristine, decisions_of(self.supernet), tuple(inputs.shape[1:]))
        supernet = self._trained_supernet(space) if selection.needs_supernet else None
        return {"space": space, "selection": selection, "inputs": inputs, "targets": targets, "supernet": supernet}

    def _trained_supernet(self, space: SearchSpace) -> TrainedSupernet:
        if self._trials is not None:
            raise OptionError(
                "the search ran in a trial, and the supernet's weights are there: give the selection to the strategy, "
                "which ranks at the end of the trial"
            )
        trainer = self._mutated_model_space.evaluator.trainer
        return TrainedSupernet(
            self.supernet,
            space,
            self._loaders["train"],
            self._loaders["val"],
            device=trainer.strategy.root_device,
            prepare=lambda batch: as_searched(batch, trainer),
        )

    def _search_module(self) -> DistributionModule:
        module = self.oneshot_module
        assert isinstance(module, DistributionModule)
        return module

    # -- resume -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return where the checkpoint is, or will be.

        NNI saves this before the search starts, and a kill comes later.
        """
        return {} if self._checkpoint is None else {"ckpt_path": str(self._checkpoint.path)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the checkpoint of an interrupted search; from the start, if it was killed before the first.

        Raises:
            FileFormatError: the checkpoint is damaged or not one of a search.
        """
        if "ckpt_path" not in state_dict:
            return
        path = Path(state_dict["ckpt_path"])
        if self._checkpoint is not None:
            self._checkpoint.directory = path.parent
        if path.exists():
            require_checkpoint(path, None if self._checkpoint is None else self._checkpoint.other)
            super().load_state_dict(state_dict)
            self._mutated_model_space.evaluator.fit_kwargs["weights_only"] = True
