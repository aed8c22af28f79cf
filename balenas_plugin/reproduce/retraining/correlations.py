"""How well scores that are known before a training rank what it gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

_FEWEST = 3  # of two, every ranking agrees or disagrees


@dataclass(frozen=True)
class Correlation:
    """Rank correlations of one score with an accuracy.

    Args:
        score: what it is.
        accuracy: what it should rank.
        seed: of the search that gives the score; None where no search does.
        spearman: rho; None where one of the two is constant, or there are fewer than three architectures.
        kendall: tau-b; likewise.
        architectures: how many.
    """

    score: str
    accuracy: str
    seed: int | None
    spearman: float | None
    kendall: float | None
    architectures: int

    @classmethod
    def of(
        cls, score: str, accuracy: str, seed: int | None, scores: Sequence[float], accuracies: Sequence[float]
    ) -> Correlation:
        """Correlate two numbers of the same architectures; a score may be infinite."""
        spearman = kendall = math.nan
        if len(scores) >= _FEWEST and len(set(scores)) > 1 and len(set(accuracies)) > 1:
            ranks = stats.rankdata(scores)  # of infinite scores too
            spearman = float(stats.spearmanr(ranks, accuracies).statistic)
            kendall = float(stats.kendalltau(ranks, accuracies).statistic)
        rho, tau = (value if math.isfinite(value) else None for value in (spearman, kendall))
        return cls(score, accuracy, seed, rho, tau, len(scores))
