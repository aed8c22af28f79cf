"""Makes the edits that a schedule asks for: it prunes, widens and renews the network between the epochs of a search.

The log of the edits is in the checkpoint with the schedule's state. A search that is resumed makes the network like the
edited one before Lightning loads the weights, so a search killed in any stage ends as if it had not been.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.nn.pytorch import LayerChoice
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.oneshot.pytorch.supermodule.differentiable import DifferentiableMixedCell
from torch import Tensor, nn

from balenas_plugin.adapters.nni.callbacks.learned import search_state
from balenas_plugin.adapters.nni.callbacks.probing import curvature_of
from balenas_plugin.adapters.nni.callbacks.search_callback import SearchCallback
from balenas_plugin.adapters.nni.candidates.operations import operation_kinds
from balenas_plugin.adapters.nni.one_shot.distributed import wrap_anew
from balenas_plugin.adapters.nni.one_shot.memory_format import ChannelsLast
from balenas_plugin.adapters.nni.supernets.edges import edge_parameters
from balenas_plugin.adapters.nni.supernets.fusion_plan import Planned
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters, labelled_alphas, supernet_modules
from balenas_plugin.diagnostics import SearchState
from balenas_plugin.errors import EvaluatorError
from balenas_plugin.mixed_ops import Alone
from balenas_plugin.mixed_ops.channels import random_copies, require_widenable, widen
from balenas_plugin.mixed_ops.dropped import Dropped, SkipDropout
from balenas_plugin.restoring import random_numbers_restored
from balenas_plugin.schedules import Anew, Edit, Keep, Lower, Schedule, Seen, Stop, Widen
from balenas_plugin.search.mixing import mixing_of
from balenas_plugin.search_spaces import NONE, SKIP

_logger = logging.getLogger(__name__)

Kinds = Mapping[str, Sequence[str]]


class Stages(SearchCallback):
    """Lets a schedule edit a search; the strategy installs it.

    Args:
        schedule: what asks for edits.
        anew: makes a new supernet of a depth (None: as it was).
        depths: returns those that the space can have, up to its own; none if nobody knows.
    """

    def __init__(
        self, schedule: Schedule, anew: Callable[[int | None], nn.Module], depths: Callable[[], Sequence[int]]
    ) -> None:
        self.schedule, self._anew, self._depths = schedule, anew, depths
        self._module: Any = None
        self._kinds: Kinds = {}
        self._next = 0  # the epoch that begins
        self._decided: tuple[int, Sequence[Edit]] | None = None
        self._past: dict[int, dict[str, Any]] = {}

    # -- before the first epoch ---------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Look at the space, and make the first network, before a checkpoint is read.

        Raises:
            OptionError: the schedule does not fit.
            SpaceError: it divides channels otherwise than they can be.
        """
        super().setup(trainer, pl_module, stage)
        if not self.searching:
            return
        self._module, self._kinds = pl_module, _all_kinds(pl_module)
        epochs = -1 if trainer.max_epochs is None else trainer.max_epochs
        depths = self._depths() if self.schedule.deepens else ()
        if depths:
            self.schedule.least_depth = depths[0]
        edits = self.schedule.begin(epochs, self._kinds, depths[-1] if depths else None)
        for divisor in self.schedule.divisors:
            for operation in _operations(self._module.model):
                require_widenable(operation, k=self._module.mixing.mixed_op.k, new_k=divisor)
        for edit in edits:
            self._make(edit)
        self._with_dropout()
        self.schedule.made(-1, edits)

    def replay(self, state: Mapping[str, Any], epoch: int) -> None:
        """Make the network like that of a checkpoint, whose weights are loaded next.

        Args:
            state: of the search.
            epoch: that begins after the checkpoint.
        """
        self._next = epoch
        self.schedule.load_state_dict(state["schedule"])
        with random_numbers_restored():
            ended = epoch == self._module.trainer.max_epochs or self.schedule.stopped is not None
            for edit in self.schedule.network_edits(epoch - ended):
                self._make(edit)
            self._with_dropout()

    @contextmanager
    def epochs_shown(self, trainer: pl.Trainer) -> Iterator[None]:
        """Let the trainer count the epochs of the present network alone, for schedules of the learning rate."""
        whole, span = trainer.fit_loop.max_epochs, self.schedule.epochs_of_network(self._next)
        trainer.fit_loop.max_epochs = whole if span is None else span[1]
        try:
            yield
        finally:
            trainer.fit_loop.max_epochs = whole

    # -- in an epoch --------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop a search that was killed after its schedule had stopped it."""
        if self.searching and self.schedule.stopped is not None:
            trainer.should_stop = True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the dropout of skip connections."""
        if self.searching:
            self._set_dropout(self.schedule.skip_dropout(trainer.current_epoch))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave skip connections as they were."""
        if self.searching:
            self._set_dropout(0.0)

    def _set_dropout(self, p: float) -> None:
        for module in self._module.modules() if self.schedule.drops_skips else ():
            if isinstance(module, SkipDropout):
                module.p = p

    # -- after an epoch -----------------------------------------------------------------------------------------------

    def decided(
        self, trainer: pl.Trainer, state: SearchState, eigenvalue: float | None = None, *, stopping: bool = False
    ) -> Sequence[Edit]:
        """Return the edits after this epoch; the schedule is asked once.

        Args:
            trainer: at the end of an epoch.
            state: of the search.
            eigenvalue: of the curvature, if it is known.
            stopping: whether something else ends the search.
        """
        epoch = trainer.current_epoch
        if self._decided is None or self._decided[0] != epoch:
            last = stopping or trainer.should_stop or epoch + 1 == trainer.max_epochs
            since = next((e for e in range(epoch + 1) if self._module.search.learns(e)), epoch + 1)
            if eigenvalue is None and since <= epoch and self.schedule.looks_at_eigenvalue(epoch, last):
                eigenvalue = self._eigenvalue(trainer)
            scores = {label: values.double() for label, values in state.posterior.scores.items()}
            seen = Seen(
                epoch=epoch,
                last=last,
                learned_since=since,
                scores=scores,
                decisions=state.decisions,
                kinds=self._kinds,
                eigenvalue=eigenvalue,
            )
            self._decided = epoch, tuple(self.schedule.after(seen))
        return self._decided[1]

    def _eigenvalue(self, trainer: pl.Trainer) -> float | None:
        try:
            with random_numbers_restored():
                return curvature_of(self._module, trainer, method="auto", num_batches=1, seed=0).eigenvalue
        except (EvaluatorError, RuntimeError, NotImplementedError) as error:  # a measurement is not worth a search
            _logger.warning("%s saw no eigenvalue after epoch %d: %s", self.schedule.name, trainer.current_epoch, error)
            return None

    def end_epoch(self, trainer: Any) -> None:
        """Ask the schedule, and make its edits; what follows the epoch in a search that goes on follows them."""
        module, epoch = self._module, trainer.current_epoch
        if self.schedule.looks_back:
            edges = module.search.edges
            self._past[epoch] = {
                **{kind: {k: p.detach().clone() for k, p in of_kind.items()} for kind, of_kind in self._learned()},
                "state": copy.deepcopy(module.distribution.state_dict()),
                "edges": None if edges is None else copy.deepcopy(edges.state_dict()),
            }
            self._past.pop(epoch - self.schedule.looks_back - 1, None)
        edits: Sequence[Edit] = ()
        if trainer.is_global_zero:
            state = search_state(module)
            edits = () if state is None else self.decided(trainer, state)
        edits = module.ranks.first(edits)
        self.schedule.made(epoch, edits)
        self._next = epoch + 1
        last = trainer.should_stop or self._next == trainer.max_epochs
        for edit in edits:
            self._learn(edit, trainer)
            if not last:  # then the network is as it was found
                self._make(edit)
            if isinstance(edit, Anew):
                self._begin_anew(trainer)
        if edits and not last:
            self._forget_dropped(trainer)
            self._with_dropout()
            wrap_anew(trainer)
            module.learn_network()
            for planned in (part for part in module.modules() if isinstance(part, Planned)):
                planned.forget_plan()
            for callback in trainer.callbacks:
                if isinstance(callback, ChannelsLast):
                    callback.forget()

    def _learn(self, edit: Edit, trainer: pl.Trainer) -> None:
        """Make what an edit changes in the distribution."""
        distribution = self._module.distribution
        for label, value in edit.labels.items() if isinstance(edit, Keep | Lower) else ():
            (distribution.keep if isinstance(edit, Keep) else distribution.lower)(label, value)
        if isinstance(edit, Stop):
            trainer.should_stop = True
            if edit.epoch is not None:
                past, edges = self._past[edit.epoch], self._module.search.edges
                with torch.no_grad():
                    for kind, of_kind in self._learned():
                        for label, value in past.get(kind, {}).items():  # checkpoints of old have none of edges
                            of_kind[label].copy_(value)
                distribution.load_state_dict(past["state"])
                if past.get("edges") is not None:
                    edges.load_state_dict(past["edges"])
        self._module.follow_mask()

    def _learned(self) -> list[tuple[str, Mapping[str, Tensor]]]:
        """Return what is learned besides the weights of the network: label -> parameter, and node -> its edges'."""
        edges = edge_parameters(self._module.model)
        return [("parameters", self._module.distribution.parameters), ("edge_parameters", edges)]

    def _make(self, edit: Edit) -> None:
        """Make what an edit changes in the network, of a search that goes on or of one that is resumed."""
        module = self._module
        if isinstance(edit, Anew):
            with random_numbers_restored(module.ranks.new_seed()):
                module.set_model(self._anew(edit.depth))
            module.forget_network()
        elif isinstance(edit, Keep | Widen):
            make_in(module.model, edit, module.ranks.new_seed, _of_weights(module.trainer))

    def _begin_anew(self, trainer: pl.Trainer) -> None:
        """Give a new network its place on the device, optimizers, and a distribution."""
        self._module.to(self._module.device)
        trainer.precision_plugin.convert_module(self._module)
        trainer.strategy.setup_optimizers(trainer)
        self._module.on_new_optimizers()

    def _forget_dropped(self, trainer: pl.Trainer) -> None:
        """Take the weights of dropped candidates out of the optimizer, as if they had never been there."""
        left = {id(parameter) for parameter in self._module.parameters()}
        for optimizer in _of_weights(trainer):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if id(parameter) not in left:
                        optimizer.state.pop(parameter, None)
                group["params"] = [parameter for parameter in group["params"] if id(parameter) in left]

    def _with_dropout(self) -> None:
        """Let skip connections drop entries, where the schedule asks for that."""
        for label, index, place, key in places(self._module.model) if self.schedule.drops_skips else ():
            kinds = self._kinds.get(label)
            if type(place[key]) is nn.Identity and kinds is not None and kinds[index] == SKIP:
                place[key] = SkipDropout()

    # -- resume -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the distributions that the schedule may go back to; its own state is the search's."""
        return {"past": self._past}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them back."""
        self._past = dict(state_dict["past"])


def make_in(
    model: nn.Module,
    edit: Keep | Widen,
    seed: Callable[[], int],
    optimizers: Sequence[torch.optim.Optimizer] = (),
) -> None:
    """Make an edit in a supernet.

    Args:
        model: the supernet.
        edit: that drops or widens candidates.
        seed: returns that of what is drawn.
        optimizers: whose state of what is widened is widened too.
    """
    if isinstance(edit, Widen):
        _widen(model, edit.divisor, torch.Generator().manual_seed(seed()), optimizers)
        return
    for label, index, place, key in places(model):
        operation = place[key]
        nested = any(isinstance(part, BaseSuperNetModule) for part in operation.modules())
        if label in edit.labels and index not in edit.labels[label] and not nested:
            place[key] = operation if isinstance(operation, Dropped) else Dropped(operation)


def _widen(
    model: nn.Module, divisor: int, generator: torch.Generator, optimizers: Sequence[torch.optim.Optimizer]
) -> None:
    mixed_op: Any = mixing_of(model).mixed_op
    for operation in _operations(model):
        widen(operation, k=mixed_op.k, new_k=divisor, copies=random_copies(generator), optimizers=optimizers)
    mixed_op.k = divisor
    for p in model.parameters():  # strides that a resumed search has, or its kernels round otherwise
        p.data = p.data.clone(memory_format=torch.contiguous_format)


def _operations(model: nn.Module) -> list[nn.Module]:
    """Return every candidate operation once; of a dropped one what it was."""
    found = {id(place[key]): place[key] for *_, place, key in places(model)}
    return [each.before if isinstance(each, Dropped) else each for each in found.values()]


def places(model: nn.Module) -> Iterator[tuple[str, int, Any, str]]:
    """Yield label, index, and where it stands (a mapping and the key), of every candidate operation of a supernet."""
    labels = {id(alpha): label for label, alpha in architecture_parameters(model).items()}
    edges: list[tuple[str, Any, Sequence[str]]] = []
    for name, module in supernet_modules(model):
        alphas = labelled_alphas(module, name)
        if isinstance(module, LayerChoice):
            edges += [(labels[id(alpha)], module._modules, list(map(str, module.names))) for alpha in alphas.values()]
        elif isinstance(module, DifferentiableMixedCell):
            for node, inputs in enumerate(module.ops, start=module.num_predecessors):
                for j, operations in enumerate(inputs):
                    edges.append((labels[id(alphas[f"{module.label}/{node}_{j}"])], operations, list(operations)))
    for label, place, keys in edges:
        for k, key in enumerate(keys):
            alone = place[key]
            yield (label, k, alone._modules, "operation") if isinstance(alone, Alone) else (label, k, place, key)


def _of_weights(trainer: pl.Trainer) -> list[torch.optim.Optimizer]:
    """Return the optimizers of the network's weights: that of the architecture may have parameters of its own."""
    return [optimizer for optimizer in trainer.optimizers if not getattr(optimizer, "is_arch_optimizer", False)]


def _all_kinds(module: Any) -> Kinds:
    """Return label -> the kind of every choice, of those among operations: that no edge is chosen is "none"."""
    alphas, kinds = module.named_arch_parameters(), operation_kinds(module.model)
    return {label: [*each, *[NONE] * (len(alphas[label]) - len(each))] for label, each in kinds.items()}
