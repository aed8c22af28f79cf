"""Which of several independent Gaussians is the largest; `laws` and `strongest` have the general cases."""

from __future__ import annotations

from torch import Tensor

from balenas_plugin.bayes.laws import NormalLaw


def log_win_probability(mean: Tensor, std: Tensor) -> Tensor:
    """Return log P(X_k is the largest), shape (K,), for independent X_k ~ N(mean_k, std_k^2)."""
    return NormalLaw(mean, std**-2.0).log_win_probability()
