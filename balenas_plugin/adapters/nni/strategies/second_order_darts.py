"""DARTS of second order, which NNI does not have: what BaLeNAS of second order is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from nni.nas.evaluator.pytorch import LightningModule
from torch import nn

from balenas_plugin.adapters.nni.one_shot.distribution_module import DistributionModule
from balenas_plugin.adapters.nni.strategies.kept_evaluator import SearchStrategy
from balenas_plugin.adapters.nni.strategies.search_options import SearchOptions
from balenas_plugin.distributions.point import Point


class SecondOrderDartsModule(DistributionModule):
    """Search module of `SecondOrderDARTS`; its alphas are the logits.

    Args:
        training_module: the evaluator's module.
        **options: of NNI's DARTS.
    """

    def __init__(self, training_module: LightningModule, **options: Any) -> None:
        super().__init__(training_module, SearchOptions(num_mc_samples=1, order="second", **options))

    def make_distribution(self, parameters: Mapping[str, nn.Parameter], *, seed: int) -> Point:
        """Return the point estimate, with the optimizer of NNI's DARTS."""
        rate = self.options.arc_learning_rate
        return Point(
            parameters,
            optimizer=lambda alphas: torch.optim.Adam(alphas, rate, betas=(0.5, 0.999), weight_decay=1e-3),
        )


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
