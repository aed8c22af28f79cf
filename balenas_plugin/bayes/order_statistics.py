"""Which of several independent Gaussians is the largest; `balenas_plugin.bayes.laws` has other laws."""

from __future__ import annotations

from torch import Tensor

from balenas_plugin.bayes.laws import NormalLaw


def log_win_probability(mean: Tensor, std: Tensor) -> Tensor:
    """Return log P(X_k is the largest), shape (K,), float64, in nats, for independent X_k ~ N(mean_k, std_k^2)."""
    return NormalLaw(mean, std.double() ** -2).log_win_probability()
