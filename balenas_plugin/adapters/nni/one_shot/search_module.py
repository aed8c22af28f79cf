"""A one-shot module that treats the evaluator's module as plain Lightning does in automatic optimisation.

NNI's own calls some hooks of the evaluator's module and leaves out others, steps no scheduler that monitors a metric,
and lets Lightning refuse gradient accumulation and clipping. Here the weight step is Lightning's, hook by hook, and
architecture steps stay out of the evaluator's sight: its `training_step` gives their loss, and no hook sees them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import LightningModule
from nni.nas.oneshot.pytorch.differentiable import DartsLightningModule
from pytorch_lightning.core.optimizer import _configure_optimizers, _configure_schedulers_automatic_opt
from pytorch_lightning.trainer import call
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from pytorch_lightning.utilities.types import LRSchedulerConfig
from torch import Tensor

from balenas_plugin.adapters.nni.one_shot.distributed import Ranks
from balenas_plugin.adapters.nni.one_shot.evaluator_hooks import call_step, follow, follow_datamodule
from balenas_plugin.adapters.nni.one_shot.losses import NoLossError, loss_of
from balenas_plugin.errors import EvaluatorError

_Data = pl.LightningDataModule
_INNER = "training_module."  # before every name in a one-shot module's state_dict


class SearchModule(DartsLightningModule):
    """What the one-shot modules of this package share.

    Args:
        training_module: the evaluator's module.
        **options: of NNI's `DartsLightningModule`.
    """

    _verifying = False
    _clipped_with: Callable[[], list[Tensor]] = staticmethod(list)

    def __init__(self, training_module: LightningModule, **options: Any) -> None:
        super().__init__(training_module, **options)
        self.ranks = Ranks()
        self._schedules: list[LRSchedulerConfig] = []
        self._stepped: int | None = None  # batches of this epoch, until schedulers that monitor a metric have seen them
        self._saved = False
        self._logged_at = -math.inf
        for name in ("prepare_data_per_node", "allow_zero_length_dataloader_with_multiple_devices", "strict_loading"):
            setattr(self, name, getattr(training_module, name))
        follow(self)

    # -- what Lightning asks before it starts -------------------------------------------------------------------------

    @property
    def automatic_optimization(self) -> bool:
        """Whether Lightning optimises: no, but while it verifies the trainer's options.

        It refuses accumulation and clipping of gradients to modules that optimise by hand, as it cannot know that this
        one does both.
        """
        return self._verifying

    def configure_callbacks(self) -> list[pl.Callback]:
        """Return the evaluator's own callbacks; Lightning verifies the trainer's options next."""
        self._verifying = True
        theirs = self.training_module.configure_callbacks()
        return [*theirs] if isinstance(theirs, Sequence) else [theirs]

    def setup(self, stage: str) -> Any:
        """Let the evaluator's module see its own optimizer only, and its datamodule one batch at a time.

        Learn how many processes search together.
        """
        self.ranks = Ranks(self.trainer.world_size)
        self.ranks.seed_apart()
        self._verifying = False
        self.training_module.optimizers = self.weight_optimizers
        follow_datamodule(self, self.trainer.datamodule)
        return super().setup(stage)

    def configure_optimizers(self) -> Any:
        """Return the evaluator's optimizer with its schedulers, and the one of the architecture behind it.

        Raises:
            EvaluatorError: the evaluator has no optimizer, or several.
        """
        architecture = self.configure_architecture_optimizers()
        architecture.is_arch_optimizer = True
        given = self.postprocess_weight_optimizers(self.training_module.configure_optimizers())
        optimizers, schedulers, monitor = _configure_optimizers([] if given is None else given)
        if len(optimizers) != 1:
            raise EvaluatorError(
                f"configure_optimizers of {type(self.training_module).__name__} returns {len(optimizers)} optimizers, "
                "but a search trains the weights with one"
            )
        self._schedules = _configure_schedulers_automatic_opt(schedulers, monitor)
        names = ("scheduler", "interval", "frequency", "name")
        return [*optimizers, architecture], [{name: getattr(s, name) for name in names} for s in self._schedules]

    def on_fit_start(self) -> Any:
        """Put back what Lightning has dropped of the schedulers."""
        self.on_new_optimizers()
        return super().on_fit_start()

    def on_new_optimizers(self) -> None:
        """Put back what Lightning drops of schedulers when it asks for optimizers: the metric that they monitor."""
        self.trainer.strategy.lr_scheduler_configs = self._schedules

    def weight_optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """Return what `optimizers()` is in plain Lightning: the evaluator's, without that of the architecture."""
        every = self.optimizers(use_pl_optimizer)
        own = [o for o in every if not _of_architecture(o)] if isinstance(every, list) else [every]
        return own[0] if len(own) == 1 else own

    # -- the weight step ----------------------------------------------------------------------------------------------

    def weight_step(
        self,
        batch: Any,
        batch_idx: int,
        check: Callable[[Tensor], None] = lambda loss: None,
        clipped_with: Callable[[], list[Tensor]] = list,
    ) -> Any:
        """Train the weights on a batch, as Lightning's automatic optimisation does; return what training_step did.

        Args:
            batch: of the training data.
            batch_idx: its number in the epoch; training_step is given 2 batch_idx + 1, as by NNI.
            check: of the loss, before its gradient is taken.
            clipped_with: returns further gradients that count in the norm by which the weights' are clipped.

        Raises:
            EvaluatorError: the evaluator's optimizer_step did not call its closure.
        """
        trainer = self.trainer
        outputs: list[Any] = []
        self._clipped_with = clipped_with
        optimizer = self.weight_optimizers()
        batches = trainer.accumulate_grad_batches

        @torch.enable_grad()
        def closure() -> Tensor | None:
            outputs[:] = [call_step(self.training_module.training_step, batch, 2 * batch_idx + 1)]
            loss = self._loss_of(outputs[0])
            if loss is not None:
                check(loss)
            if batch_idx % batches == 0:
                call._call_callback_hooks(trainer, "on_before_zero_grad", optimizer.optimizer)
                call._call_lightning_module_hook(trainer, "on_before_zero_grad", optimizer.optimizer)
                self.optimizer_zero_grad(trainer.current_epoch, batch_idx, optimizer.optimizer)
            if loss is not None:
                self.manual_backward(loss if batches == 1 else loss / batches)
            return loss

        if trainer.fit_loop._should_accumulate():
            closure()
        else:
            self.optimizer_step(trainer.current_epoch, batch_idx, optimizer, closure)
        if not outputs:
            raise EvaluatorError(
                f"optimizer_step of {type(self.training_module).__name__} must call optimizer.step(closure="
                "optimizer_closure): the closure runs training_step and computes the gradients"
            )
        self.advance_lr_schedulers(batch_idx)
        return outputs[0]

    def _loss_of(self, outputs: Any) -> Tensor | None:
        try:
            return loss_of(outputs)
        except NoLossError as error:
            self.require_skippable(error)
            return None

    def require_skippable(self, error: NoLossError) -> None:
        """Raise, as Lightning does, if a step is left out in one of several processes."""
        if self.trainer.world_size > 1:
            raise EvaluatorError("training_step must return a loss in every step of several processes") from error

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Call the evaluator's hook, then clip gradients."""
        if _of_architecture(optimizer):
            return
        self.training_module.on_before_optimizer_step(optimizer)
        self.clip_weights(optimizer)

    def clip_weights(self, optimizer: Any) -> None:
        """Clip the gradients of an optimizer's weights as the strategy says, or the trainer."""
        trainer, own = self.trainer, self.gradient_clip_val
        self.configure_gradient_clipping(
            optimizer,
            gradient_clip_val=trainer.gradient_clip_val if own is None else own,
            gradient_clip_algorithm=trainer.gradient_clip_algorithm,
        )

    def clip_gradients(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as Lightning does, but with other gradients in the norm where the search has some."""
        others = self._clipped_with()
        if not others or not gradient_clip_val or gradient_clip_algorithm == "value":
            return super().clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([*(p.grad for p in trained), *others])
        torch.nn.utils.clip_grads_with_norm_(trained, gradient_clip_val, norm)
        return None

    # -- schedulers ---------------------------------------------------------------------------------------------------

    def advance_lr_schedulers(self, batch_idx: int) -> None:
        """Step the schedulers that monitor no metric, when Lightning would."""
        loop = self.trainer.fit_loop.epoch_loop
        if not loop._should_accumulate():
            self._step_schedulers("step", batch_idx + 1)
            self._stepped = batch_idx + 1
        if loop._num_ready_batches_reached():
            self._step_schedulers("epoch", self.trainer.current_epoch + 1)

    def on_train_batch_start(self, batch: Any, batch_idx: int, *args: Any) -> Any:
        """Step schedulers that monitor a metric after every batch, and those of an epoch that ends here with -1."""
        self._step_monitoring_schedulers()
        response = super().on_train_batch_start(batch, batch_idx, *args)
        if response == -1:
            self._step_schedulers("step", batch_idx + 1)
            self._step_schedulers("epoch", self.trainer.current_epoch + 1)
        return response

    def on_train_epoch_end(self) -> Any:
        """Step schedulers that monitor a metric: not later, or they were a step behind after a resume."""
        result = super().on_train_epoch_end()
        self._step_monitoring_schedulers()
        if self.trainer.fit_loop.epoch_loop._num_ready_batches_reached():
            self._step_schedulers("epoch", self.trainer.current_epoch + 1, monitoring=True)
        return result

    def _step_monitoring_schedulers(self) -> None:
        if self._stepped is not None:
            self._step_schedulers("step", self._stepped, monitoring=True)
            self._stepped = None

    def _step_schedulers(self, interval: str, count: int, *, monitoring: bool = False) -> None:
        for config in self.trainer.lr_scheduler_configs:
            if config.interval != interval or config.reduce_on_plateau != monitoring or count % config.frequency:
                continue
            if not monitoring:
                self.lr_scheduler_step(config.scheduler, None)
            elif (metric := self._monitored(config)) is not None:
                self.lr_scheduler_step(config.scheduler, metric)

    def _monitored(self, config: LRSchedulerConfig) -> Tensor | None:
        metrics = self.trainer.callback_metrics
        if config.monitor in metrics:
            return metrics[config.monitor]
        known = sorted(name for name in metrics if "/" not in name)
        problem = (
            f"{type(config.scheduler).__name__} monitors {config.monitor!r}, which was not logged by the end of epoch "
            f"{self.trainer.current_epoch}; what was: {', '.join(known) or 'nothing'}"
        )
        if config.strict:
            raise EvaluatorError(f"{problem}. Monitor one of these, or validate before the scheduler steps.")
        rank_zero_warn(f"{problem}: the learning rate stays", category=RuntimeWarning)
        return None

    # -- log and checkpoints ------------------------------------------------------------------------------------------

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Log; a batch of a size unknown to Lightning (a graph, an object of the user's) counts once in means.

        With several processes, what is logged for an epoch only is the mean (sum, ...) over all of them.
        """
        on_step = kwargs.get("on_step")
        epoch_only = not (self.trainer.training if on_step is None else on_step)
        if self.ranks.several and epoch_only and not kwargs.get("rank_zero_only") and not args:
            kwargs["sync_dist"] = isinstance(kwargs.get("reduce_fx", "mean"), str)
        try:
            super().log(name, value, *args, **kwargs)
        except (MisconfigurationException, RecursionError) as error:
            if "could not infer the batch_size" not in str(error):
                raise
            super().log(name, value, *args, **{**kwargs, "batch_size": 1})

    def log_by_choice(self, metrics: Mapping[str, float]) -> None:
        """Write probabilities and other numbers of each choice to the loggers, no more often than Lightning writes.

        `log` takes a third of a millisecond for each number, and Lightning copies all of them into every checkpoint.
        """
        every, step = self.trainer.log_every_n_steps, self.trainer.fit_loop.total_batch_idx
        if not every or step - self._logged_at < every:
            return
        self._logged_at = step
        chances = {f"prob/{k}/{name}": p for k, choices in self.export_probs().items() for name, p in choices.items()}
        for logger in self.trainer.loggers:
            logger.log_metrics({**chances, **metrics}, step=step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the evaluator's module add its state.

        Raises:
            EvaluatorError: something in it could not be read back without unpickling objects.
        """
        for key in (_Data.CHECKPOINT_HYPER_PARAMS_KEY, _Data.CHECKPOINT_HYPER_PARAMS_TYPE):
            checkpoint.pop(key, None)  # any objects, which no resume asks for
        with _inner_names(checkpoint):
            self.training_module.on_save_checkpoint(checkpoint)
        if not self._saved:  # once is enough: what is saved differs in its values
            _require_plain(checkpoint)
            self._saved = True

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the evaluator's module take its state back."""
        with _inner_names(checkpoint):
            self.training_module.on_load_checkpoint(checkpoint)


def _of_architecture(optimizer: Any) -> bool:
    return getattr(optimizer, "is_arch_optimizer", False)


@contextmanager
def _inner_names(checkpoint: dict[str, Any]) -> Iterator[None]:
    """Let parameters in a checkpoint have the names inside the block that they have in the evaluator's module."""
    checkpoint["state_dict"] = {key.removeprefix(_INNER): value for key, value in checkpoint["state_dict"].items()}
    yield
    checkpoint["state_dict"] = {_INNER + key: value for key, value in checkpoint["state_dict"].items()}


def _require_plain(checkpoint: dict[str, Any]) -> None:
    """Raise unless what users add to a checkpoint can be read as checkpoints are: without unpickling any object."""
    for key, value in checkpoint.items():
        if key in ("state_dict", "optimizer_states"):
            continue
        try:
            buffer = io.BytesIO()
            torch.save(value, buffer)
            buffer.seek(0)
            torch.load(buffer, map_location="cpu", weights_only=True)
        except Exception as error:  # torch's own, or whatever the object's class raises
            raise EvaluatorError(
                f"a search could not be resumed: {key!r} in its checkpoint holds objects, and files are read without "
                "unpickling any. Let on_save_checkpoint and state_dict (of the datamodule, of callbacks) keep tensors, "
                f"numbers, strings, and lists and dicts of them. ({str(error).strip().partition(chr(10))[0]})"
            ) from error
