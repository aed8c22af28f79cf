"""Probabilities as users read them: by name, with exact logarithms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class Probability(float):
    """A probability whose logarithm is exact, also where the probability itself rounds to 0 or 1."""

    _log: float | None = None

    @classmethod
    def of_log(cls, log_probability: float) -> Probability:
        """Return the probability of a logarithm in nats."""
        probability = cls(math.exp(log_probability))
        probability._log = log_probability
        return probability

    def log(self) -> float:
        """Return its logarithm in nats."""
        return math.log(self) if self._log is None else self._log


class ByName(dict[str, Probability]):
    """Name of a choice -> its probability; a whole number is taken as a position among the choices."""

    def __missing__(self, position: object) -> Probability:
        if not isinstance(position, int):
            raise KeyError(position)
        return list(self.values())[position]


class ProbableArchitecture(dict[str, Any]):
    """An architecture, label -> what was chosen, as the space's `freeze` takes it.

    Args:
        choices: the architecture.
        log_probability: under the posterior, in nats.
    """

    def __init__(self, choices: Mapping[str, Any], log_probability: float) -> None:
        super().__init__(choices)
        self.log_probability = log_probability

    @property
    def outcomes(self) -> dict[str, Any]:
        """The architecture as a plain dict."""
        return dict(self)
