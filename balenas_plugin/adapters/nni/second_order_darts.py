"""DARTS of second order, which NNI does not have: what BaLeNAS of second order is compared with."""

from __future__ import annotations

from typing import Any

from nni.nas.evaluator.pytorch import LightningModule
from torch import Tensor

from balenas_plugin.adapters.nni.kept_evaluator import SearchStrategy
from balenas_plugin.adapters.nni.losses import NoLossError
from balenas_plugin.adapters.nni.metrics import Metrics, silent_loss
from balenas_plugin.adapters.nni.search_module import SearchModule
from balenas_plugin.adapters.nni.supernet import architecture_parameters
from balenas_plugin.adapters.nni.virtual_step import virtual_step
from balenas_plugin.bayes.architect import second_order_gradient


class SecondOrderDartsModule(SearchModule):
    """NNI's DARTS whose architecture step takes the gradient through one unrolled weight step (Eq. 7 of DARTS)."""

    def on_train_start(self) -> Any:
        """Find the metrics that only the weight step may feed."""
        self._metrics = Metrics(self.training_module)
        return super().on_train_start()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        """Run an architecture step (after the warm-up) and a weight step."""
        if self.trainer.current_epoch >= self.warmup_epochs:
            self.resample()
            try:
                self._architecture_step(batch["train"], batch["val"], batch_idx)
            except NoLossError as error:
                self.require_skippable(error)
        self.resample()
        outputs = self.weight_step(batch["train"], batch_idx)
        if batch_idx % self.log_prob_every_n_step == 0:
            self.log_probs(self.export_probs())
        return outputs

    def _architecture_step(self, train_batch: Any, val_batch: Any, batch_idx: int) -> None:
        optimizer = self.architecture_optimizers()
        alphas = list(architecture_parameters(self).values())
        held = {id(alpha) for alpha in alphas}
        weights = [p for p in self.training_module.parameters() if p.requires_grad and id(p) not in held]
        others = [o for o in self.trainer.optimizers if id(o.param_groups[0]["params"][0]) not in held]
        gradients, _ = second_order_gradient(
            train_loss=lambda: silent_loss(self.training_module, self._metrics, train_batch, 2 * batch_idx + 1),
            val_loss=lambda: self._validation_loss(val_batch, batch_idx),
            alphas=alphas,
            weights=weights,
            step=virtual_step(others, weights),
        )
        for alpha, gradient in zip(alphas, gradients, strict=True):
            alpha.grad = gradient
        optimizer.step()
        optimizer.zero_grad()

    def _validation_loss(self, val_batch: Any, batch_idx: int) -> Tensor:
        loss = silent_loss(self.training_module, self._metrics, val_batch, 2 * batch_idx)
        if self.penalty is not None:
            loss, details = self.penalty(loss, self.export_probs())
            self.log_dict({f"penalty/{key}": value for key, value in details.items()})
        return loss


class SecondOrderDARTS(SearchStrategy):
    """NNI's `DARTS` strategy, of second order.

    Source: Liu et al. 2019, Eq. (7)-(8); the unrolled step and the finite differences are those of `BaLeNAS`.
    """

    def configure_oneshot_module(self, training_module: LightningModule) -> SecondOrderDartsModule:
        """Wrap the evaluator's module in the search module."""
        return SecondOrderDartsModule(
            training_module,
            arc_learning_rate=self.arc_learning_rate,
            gradient_clip_val=self.gradient_clip_val,
            log_prob_every_n_step=self.log_prob_every_n_step,
            warmup_epochs=self.warmup_epochs,
            penalty=self.penalty,
        )
