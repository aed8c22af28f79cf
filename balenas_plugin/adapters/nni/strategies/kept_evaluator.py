"""Give the evaluator back as it was before a search, so that the same script can train with it what was found."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as pl
from nni.nas.evaluator.pytorch import Lightning
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.strategy import DARTS
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, Timer
from pytorch_lightning.loops import _FitLoop, _TrainingEpochLoop

from balenas_plugin.adapters.nni.one_shot.evaluator_hooks import TRANSFERS, architecture_loader, require_contract
from balenas_plugin.adapters.nni.one_shot.search_options import require_clipping_once
from balenas_plugin.adapters.nni.supernets.drawn import drawing_hooks
from balenas_plugin.distributions import Distribution
from balenas_plugin.errors import SpaceError
from balenas_plugin.mixed_ops import Alone, MixedOp
from balenas_plugin.search.mixing import MixingWeights

_REMEMBERING = (EarlyStopping, ModelCheckpoint, Timer)
"""Lightning's callbacks that stop a training, or choose its best epoch, by what they have seen of it so far."""


class KeptEvaluator(AbstractContextManager[None]):
    """What a search changes in an evaluator; it is put back when the `with` block of the search ends.

    The epochs that the trainer counts, and what `_REMEMBERING` callbacks remember, are the search's until the trainer
    fits again, and then what they were.

    Args:
        evaluator: before it is changed.
    """

    def __init__(self, evaluator: Lightning) -> None:
        trainer = evaluator.trainer
        if isinstance(trainer.fit, _FitAgain):  # of an earlier search
            trainer.fit.restore()
        self._trainer = trainer
        self._restored = [
            _Attributes(trainer, "check_val_every_n_epoch"),
            _Attributes(evaluator.module, "log", "optimizers"),
            _Attributes(evaluator.datamodule, "train_dataloader", "val_dataloader", *TRANSFERS),
        ]
        self._callbacks = list(trainer.callbacks)
        self._fit_loop = trainer.fit_loop
        self._remembered = [_Attributes(c, *vars(c)) for c in trainer.callbacks if isinstance(c, _REMEMBERING)]

    def __enter__(self) -> None:
        """Begin at epoch 0, whatever the trainer has done before."""
        self._trainer.fit_loop = _FitLoop(self._trainer)
        self._trainer.fit_loop.epoch_loop = _TrainingEpochLoop(self._trainer)
        _copy_limits(self._fit_loop, self._trainer.fit_loop)

    def __exit__(self, *error: object) -> None:
        self.restore()
        self._trainer.fit = _FitAgain(self._trainer, self._forget)

    def restore(self) -> None:
        """Put back what a search has changed."""
        for attributes in self._restored:
            attributes.restore()
        self._trainer.callbacks = self._callbacks

    def _forget(self) -> None:
        _copy_limits(self._trainer.fit_loop, self._fit_loop)  # which the user may have changed since
        self._trainer.fit_loop = self._fit_loop
        for attributes in self._remembered:
            attributes.restore()


class _FitAgain:
    """Takes the place of a trainer's `fit` until it is called.

    Args:
        trainer: that has searched.
        restore: puts back what shows how far it got.
    """

    def __init__(self, trainer: pl.Trainer, restore: Callable[[], None]) -> None:
        self._trainer = trainer
        self._restore = restore

    def restore(self) -> None:
        """Put it back."""
        del self._trainer.fit
        self._restore()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.restore()
        return self._trainer.fit(*args, **kwargs)


class _Attributes:
    """Attributes of an object itself (not of its class), to be put back; containers are copied."""

    def __init__(self, owner: Any, *names: str) -> None:
        self._owner, self._names = owner, names
        own = vars(owner) if owner is not None else {}
        self._values = {name: _copied(own[name]) for name in names if name in own}

    def restore(self) -> None:
        for name in self._names if self._owner is not None else ():
            if name in self._values:
                setattr(self._owner, name, _copied(self._values[name]))
            elif name in vars(self._owner):
                delattr(self._owner, name)


def _copy_limits(source: _FitLoop, target: _FitLoop) -> None:
    target.min_epochs, target.max_epochs = source.min_epochs, source.max_epochs
    target.epoch_loop.min_steps, target.epoch_loop.max_steps = source.min_steps, source.max_steps


def _copied(value: Any) -> Any:
    return value.copy() if type(value) in (dict, list, set) else value


class SearchStrategy(DARTS):
    """NNI's `DARTS`, whose supernet asks one object for its mixing weights, and which gives the evaluator back."""

    distribution: type[Distribution]
    mixed_op: MixedOp | None = None

    def configure_softmax(self) -> MixingWeights:
        """Return what all mixed modules of the supernet ask for their weights (NNI calls this for each of them)."""
        return self._mixing

    def default_mutation_hooks(self) -> list[Any]:
        """Return NNI's hooks, behind those whose modules compute a drawn candidate alone."""
        return [*drawing_hooks(), *super().default_mutation_hooks()]

    def mutate_model(self, model: ModelSpace) -> ModelSpace:
        """Turn the model space into a supernet in place.

        Raises:
            SpaceError: it has no operations that the search's mixed operation could mix, or some that it cannot.
        """
        self._mixing = MixingWeights(self.distribution.mean_weights, self.mixed_op, recompute=self.options.recompute)
        supernet = super().mutate_model(model)
        if self.mixed_op is not None and not any(isinstance(module, Alone) for module in supernet.modules()):
            raise SpaceError(f"{type(model).__name__} has no choice of operations that {self.mixed_op.name} can mix")
        return supernet

    _kept: AbstractContextManager[None] = nullcontext()

    def mutate_evaluator(self, evaluator: Lightning) -> Lightning:
        """Wrap the evaluator's module, and put the two halves of the data together.

        Raises:
            EvaluatorError: the evaluator lacks a loader, or needs something that only plain Lightning can serve.
            OptionError: the trainer clips gradients at another value.
        """
        if not isinstance(evaluator, Lightning):
            return super().mutate_evaluator(evaluator)  # NNI's TypeError
        require_contract(evaluator)
        require_clipping_once(self.gradient_clip_val, evaluator.trainer)
        self._kept = kept = KeptEvaluator(evaluator)
        try:
            mutated = super().mutate_evaluator(evaluator)
        except BaseException:
            kept.restore()
            raise
        mutated.fit_kwargs = dict(mutated.fit_kwargs)  # a checkpoint to resume from is the search's alone
        return mutated

    def train_dataloader(
        self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]
    ) -> dict[str, Any]:
        """Return both loaders; Lightning walks them together and starts the shorter one again."""
        return {"train": train_dataloader_fn(), "val": architecture_loader(val_dataloader_fn())}

    def _run(self) -> None:
        """Run the search."""
        with self._kept:
            super()._run()
