"""The posterior over labelled architecture logits: q(alpha) = N(mu, diag sigma^2), one vector per choice."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from balenas_plugin.bayes.decisions import Architectures, Decision, OneOf
from balenas_plugin.bayes.order_statistics import log_win_probability
from balenas_plugin.errors import FileFormatError, SpaceError, nearest
from balenas_plugin.files import read_text, write_text_atomically

FORMAT = "balenas-posterior"
VERSION = 1

_SHOWN = 6  # labels that `repr` shows


def gaussian_entropy(precisions: Iterable[Tensor]) -> float:
    """Return the differential entropy in nats of independent Gaussians with these precisions (any shapes)."""
    return sum(float((0.5 * (math.log(2 * math.pi * math.e) - p.double().log())).sum()) for p in precisions)


def _sha256(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


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


@dataclass(frozen=True, repr=False)
class Posterior:
    """A diagonal Gaussian over one logit vector per label; labels are kept in sorted order.

    Args:
        mean: label -> mu, shape (K,), in logits.
        precision: label -> 1/sigma^2, shape (K,), positive, in 1/logit^2.
        choices: label -> the K names of what is chosen from.
        decisions: how the space makes an architecture of logits; one choice per label, if not given. A file does not
            keep them.

    Raises:
        SpaceError: the three mappings do not fit together, or a precision is not positive.

    Source: Zhang et al. 2022, Eq. (5).
    """

    mean: dict[str, Tensor]
    precision: dict[str, Tensor]
    choices: dict[str, tuple[str, ...]]
    decisions: tuple[Decision, ...] = field(compare=False)

    def __init__(
        self,
        mean: Mapping[str, Tensor],
        precision: Mapping[str, Tensor],
        choices: Mapping[str, Sequence[str]] | None = None,
        decisions: Sequence[Decision] | None = None,
    ) -> None:
        if choices is None:
            choices = {label: [str(k) for k in range(len(mu))] for label, mu in mean.items()}
        if not mean or set(mean) != set(precision) or set(mean) != set(choices):
            raise SpaceError("mean, precision and choices must have the same labels, at least one")
        labels = sorted(mean)
        object.__setattr__(self, "mean", {k: mean[k].detach().clone() for k in labels})
        object.__setattr__(self, "precision", {k: precision[k].detach().clone() for k in labels})
        object.__setattr__(self, "choices", {k: tuple(choices[k]) for k in labels})
        given = [OneOf(k, self.choices[k]) for k in labels] if decisions is None else decisions
        object.__setattr__(self, "decisions", tuple(given))
        for label in labels:
            mu, p = self.mean[label], self.precision[label]
            if mu.ndim != 1 or mu.shape != p.shape or len(mu) != len(self.choices[label]) or not len(mu):
                raise SpaceError(
                    f"label {label!r}: mean {tuple(mu.shape)}, precision {tuple(p.shape)} and "
                    f"{len(self.choices[label])} choices must be vectors of one length, at least 1"
                )
            if not (torch.isfinite(mu).all() and torch.isfinite(p).all() and (p > 0).all()):
                raise SpaceError(f"label {label!r}: mean and precision must be finite, and the precision positive")

    def __repr__(self) -> str:
        """Return a line: how many choices there are, the entropy, and the largest means."""
        most = [f"{label}={self.choices[label][int(mu.argmax())]}" for label, mu in list(self.mean.items())[:_SHOWN]]
        more = ", ..." if len(self.mean) > _SHOWN else ""
        count = sum(map(len, self.choices.values()))
        return (
            f"Posterior({len(self.mean)} labels, {count} choices, entropy {self.entropy():.4g} nats, "
            f"largest means: {', '.join(most)}{more})"
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in sorted order, the order of every draw."""
        return tuple(self.mean)

    @property
    def std(self) -> dict[str, Tensor]:
        """Label -> sigma, shape (K,), in logits."""
        return {label: p.rsqrt() for label, p in self.precision.items()}

    def sample(self, noise: Callable[[Tensor], Tensor] = torch.randn_like) -> dict[str, Tensor]:
        """Return one draw alpha ~ q per label, shape (K,) each; `noise` is called once per label, in label order."""
        return {label: mu + noise(mu) / self.precision[label].sqrt() for label, mu in self.mean.items()}

    def entropy(self) -> float:
        """Return the differential entropy of q in nats: the sum of log(2 pi e sigma^2) / 2."""
        return gaussian_entropy(self.precision.values())

    def log_win_probability(self) -> dict[str, Tensor]:
        """Return label -> log P(each choice has the largest logit), shape (K,), float64 (exact, by quadrature)."""
        return {label: log_win_probability(mu, self.precision[label].rsqrt()) for label, mu in self.mean.items()}

    def win_probability(self) -> dict[str, ByName]:
        """Return label -> name of each choice -> P(it has the largest logit), adding up to 1.

        As tensors: `log_win_probability`. Choices of one name count together.
        """
        found = {}
        for label, log_win in self.log_win_probability().items():
            logs: dict[str, list[Tensor]] = {}
            for name, value in zip(self.choices[label], log_win, strict=True):
                logs.setdefault(name, []).append(value)
            together = {name: torch.stack(values).logsumexp(0) for name, values in logs.items()}
            found[label] = ByName({name: Probability.of_log(float(value)) for name, value in together.items()})
        return found

    def log_probability(self, architecture: Mapping[str, str]) -> float:
        """Return log P(every label's largest logit is the given choice), in nats: the sum over labels.

        Raises:
            SpaceError: a label is missing or unknown, or a choice is not one of the label's.
        """
        for label in set(architecture) ^ set(self.labels):
            state = "unknown" if label in architecture else "missing"
            raise SpaceError(f"label {label!r} is {state}{nearest(label, self.labels)}")
        log_win = self.log_win_probability()
        total = 0.0
        for label, choice in architecture.items():
            if choice not in self.choices[label]:
                raise SpaceError(
                    f"label {label!r} has no choice {choice!r}; it chooses from {', '.join(self.choices[label])}"
                    f"{nearest(choice, self.choices[label])}"
                )
            total += float(log_win[label][self.choices[label].index(choice)])
        return total

    def most_probable(self, k: int) -> list[ProbableArchitecture]:
        """Return the k most probable architectures, all of them if there are fewer, with exact log-probabilities.

        Each can be given to the space's `freeze`, if the posterior comes from a strategy that has searched.
        """
        found = Architectures(self.decisions, self).iterate()
        return [ProbableArchitecture(each.sample, each.log_probability) for each in islice(found, k)]

    def to_document(self) -> dict[str, Any]:
        """Return the posterior as plain values for JSON; floats are exact."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "dtype": str(next(iter(self.mean.values())).dtype).removeprefix("torch."),
            "labels": {
                label: {
                    "choices": list(self.choices[label]),
                    "mean": self.mean[label].tolist(),
                    "precision": self.precision[label].tolist(),
                }
                for label in self.labels
            },
        }

    def save(self, path: str | Path) -> None:
        """Write the posterior as JSON with its SHA-256, whole or not at all; floats are exact.

        Raises:
            StorageError: the file could not be written.
        """
        document = self.to_document()
        write_text_atomically(Path(path), json.dumps({**document, "sha256": _sha256(document)}, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Posterior:
        """Read a posterior written by `save`, or by hand, on the CPU.

        The entry "sha256", which `save` writes, is checked where it is there; whoever edits a file takes it out.

        Raises:
            FileFormatError: the file is missing, corrupt, or something else.
        """
        try:
            document = json.loads(read_text(Path(path)))
        except (OSError, ValueError, RecursionError) as error:
            raise FileFormatError(f"cannot read the posterior {path}: {error}. Was its search finished?") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise FileFormatError(f"{path} is not a posterior of this package (no format {FORMAT!r} in it)")
        if document.get("version") != VERSION:
            raise FileFormatError(
                f"{path} has posterior version {document.get('version')!r}; this package reads {VERSION}"
            )
        try:
            if document.pop("sha256", None) not in (None, _sha256(document)):
                raise ValueError('its content differs from its "sha256". Take that entry out if you have edited it')
            return cls.from_document(document)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise FileFormatError(f"{path} is damaged: {str(error)[:300]}") from error

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Posterior:
        """Return the posterior that `to_document` gave, on the CPU.

        Raises:
            AttributeError, KeyError, TypeError, ValueError, OverflowError: the document is damaged.
        """
        dtypes = {
            "float32": torch.float32,
            "float64": torch.float64,
            "float16": torch.float16,
            "bfloat16": torch.bfloat16,
        }
        dtype, labels = dtypes[document["dtype"]], document["labels"]
        return cls(
            {label: torch.tensor(entry["mean"], dtype=dtype) for label, entry in labels.items()},
            {label: torch.tensor(entry["precision"], dtype=dtype) for label, entry in labels.items()},
            {label: [str(choice) for choice in entry["choices"]] for label, entry in labels.items()},
        )
