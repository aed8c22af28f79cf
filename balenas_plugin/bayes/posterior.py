"""What a search has learned: the law of the scores by which each label's candidates are chosen.

BaLeNAS learns Gaussian logits, q(alpha) = N(mu, diag sigma^2); a distribution of another kind gives another law.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from balenas_plugin.bayes.architectures import Architectures
from balenas_plugin.bayes.decisions import Decision, OneOf
from balenas_plugin.bayes.laws import Law, NormalLaw, law_named
from balenas_plugin.bayes.noise import SeededNoise
from balenas_plugin.bayes.probabilities import ByName, Probability, ProbableArchitecture
from balenas_plugin.errors import FileFormatError, SpaceError, nearest
from balenas_plugin.files import read_text, write_text_atomically

FORMAT = "balenas-posterior"
VERSIONS = (1, 2)
"""Of files: 1 holds Gaussians, which says less where it was written before there were others; 2 any law."""

_SHOWN = 6  # labels that `repr` shows


def _sha256(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


class Posterior:
    """What a search has learned, a Gaussian over the logits if nothing else is said (`of`); labels are in sorted order.

    Args:
        mean: label -> mu, shape (K,), in logits.
        precision: label -> 1/sigma^2, shape (K,), positive, in 1/logit^2.
        choices: label -> the K names of what is chosen from.
        decisions: how the space makes an architecture of scores; one choice per label, if not given. A file does not
            keep them.

    Attributes:
        kind: name of the distribution that it comes from.
        laws: label -> law of the random scores, of which the largest wins.
        scores: label -> shape (K,): what discretisation ranks by without drawing; -inf for what was dropped.

    Raises:
        SpaceError: the mappings do not fit together, or a number is not finite, or a precision not positive.

    Source: Zhang et al. 2022, Eq. (5).
    """

    kind: str
    laws: dict[str, Law]
    scores: dict[str, Tensor]
    choices: dict[str, tuple[str, ...]]
    decisions: tuple[Decision, ...]

    def __init__(
        self,
        mean: Mapping[str, Tensor],
        precision: Mapping[str, Tensor],
        choices: Mapping[str, Sequence[str]] | None = None,
        decisions: Sequence[Decision] | None = None,
    ) -> None:
        if not mean or set(mean) != set(precision) or set(mean) != set(choices or mean):
            raise SpaceError("mean, precision and choices must have the same labels, at least one")
        laws = {k: NormalLaw(mu.detach().clone(), precision[k].detach().clone()) for k, mu in mean.items()}
        self._set("gaussian", laws, {}, choices, decisions)
        self._require_valid()

    @classmethod
    def of(
        cls,
        laws: Mapping[str, Law],
        *,
        kind: str,
        scores: Mapping[str, Tensor] | None = None,
        choices: Mapping[str, Sequence[str]] | None = None,
        decisions: Sequence[Decision] | None = None,
    ) -> Posterior:
        """Return what a search with any distribution has learned.

        Args:
            laws: label -> law of the scores; nobody may change their tensors.
            kind: name of the distribution.
            scores: label -> what discretisation ranks by, shape (K,); the locations of the laws by default.
            choices: as above.
            decisions: as above.
        """
        found = cls.__new__(cls)
        found._set(kind, laws, scores or {}, choices, decisions)
        return found

    def _set(
        self,
        kind: str,
        laws: Mapping[str, Law],
        scores: Mapping[str, Tensor],
        choices: Mapping[str, Sequence[str]] | None,
        decisions: Sequence[Decision] | None,
    ) -> None:
        self.kind = kind
        self.laws = {label: laws[label] for label in sorted(laws)}
        self.scores = {label: scores.get(label, law.location) for label, law in self.laws.items()}
        given = choices or {label: [str(k) for k in range(len(law))] for label, law in laws.items()}
        self.choices = {label: tuple(given[label]) for label in self.laws}
        named = [OneOf(label, names) for label, names in self.choices.items()]
        self.decisions = tuple(named if decisions is None else decisions)

    def _require_valid(self) -> None:
        for label, law in self.laws.items():
            parameters, count = law.parameters(), len(self.choices[label])
            shapes = {name: tuple(value.shape) for name, value in (*parameters.items(), ("scores", self.scores[label]))}
            if set(shapes.values()) != {(count,)} or not count:
                listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
                raise SpaceError(
                    f"label {label!r}: {listed} and {count} choices must be vectors of one length, at least 1"
                )
            if not (law.is_valid() and law.kept.any() and (self.scores[label] < torch.inf).all()):
                raise SpaceError(f"label {label!r}: {law.requirement}")

    def __repr__(self) -> str:
        """Return a line: how many choices there are, the entropy, and what discretisation takes."""
        most = [f"{label}={self.choices[label][int(s.argmax())]}" for label, s in list(self.scores.items())[:_SHOWN]]
        more = ", ..." if len(self.laws) > _SHOWN else ""
        count = sum(map(len, self.choices.values()))
        kind = "" if self.kind == "gaussian" else f"{self.kind}, "
        return (
            f"Posterior({kind}{len(self.laws)} labels, {count} choices, entropy {self.entropy():.4g} nats, "
            f"largest {'means' if self._is_normal else 'scores'}: {', '.join(most)}{more})"
        )

    def blind(self) -> Posterior:
        """Return that of the same choices while nothing is known: all scores are alike."""
        alike = {label: torch.ones(len(law)) for label, law in self.laws.items()}
        return Posterior(alike, alike, self.choices, self.decisions)

    def decided_by(self, decisions: Sequence[Decision]) -> Posterior:
        """Return the same with the decisions of a space."""
        return Posterior.of(self.laws, kind=self.kind, scores=self.scores, choices=self.choices, decisions=decisions)

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in sorted order, the order of every draw."""
        return tuple(self.laws)

    @property
    def mean(self) -> dict[str, Tensor]:
        """Label -> mu of Gaussian logits, shape (K,); other kinds have none, but `scores`."""
        return {label: law.mean for label, law in self._normal("mean").items()}

    @property
    def precision(self) -> dict[str, Tensor]:
        """Label -> 1/sigma^2 of Gaussian logits, shape (K,), in 1/logit^2."""
        return {label: law.precision for label, law in self._normal("precision").items()}

    @property
    def std(self) -> dict[str, Tensor]:
        """Label -> sigma of Gaussian logits, shape (K,), in logits."""
        return {label: law.std for label, law in self._normal("std").items()}

    @property
    def _is_normal(self) -> bool:
        return all(isinstance(law, NormalLaw) for law in self.laws.values())

    def _normal(self, what: str) -> dict[str, NormalLaw]:
        found = {label: law for label, law in self.laws.items() if isinstance(law, NormalLaw)}
        if len(found) < len(self.laws):
            raise AttributeError(f"a posterior of the kind {self.kind!r} has no {what}; `scores` ranks its candidates")
        return found

    def sample(self, noise: Callable[[Tensor], Tensor] = torch.randn_like) -> dict[str, Tensor]:
        """Return one draw of the scores per label, shape (K,) each; the largest of them win.

        Args:
            noise: returns standard normal noise of a tensor's shape; called once per label, in label order.
        """
        return {label: law.at_noise(noise(law.location)) for label, law in self.laws.items()}

    def draws(self, labels: Sequence[str], count: int) -> dict[str, Tensor]:
        """Return the scores of some labels in many draws, shape (count, K) each: the same every time."""
        noise = SeededNoise(0)
        locations = {label: self.laws[label].location for label in labels}
        return {k: self.laws[k].at_noise(noise(at.new_empty(count, len(at)))) for k, at in locations.items()}

    def entropy(self) -> float:
        """Return the entropy in nats, summed over the labels.

        That of Gaussian logits (the sum of log(2 pi e sigma^2) / 2) and of Dirichlet weights is differential, any other
        is that of the choices.
        """
        return sum(law.entropy() for law in self.laws.values())

    def metrics(self) -> dict[str, float]:
        """Return the entropy, and the mean of whatever else the law shows (sigma), over all and per label."""
        found = {"entropy": self.entropy()}
        for name, by_label in self.spread().items():
            means = torch.stack([values.mean() for values in by_label.values()]).tolist()
            found[name] = sum(means) / len(means)
            found |= {f"{name}/{label}": mean for label, mean in zip(by_label, means, strict=True)}
        return found

    def spread(self) -> dict[str, dict[str, Tensor]]:
        """Return what reports show besides probabilities: name -> label -> shape (K,); of Gaussians sigma (logits)."""
        found: dict[str, dict[str, Tensor]] = {}
        for label, law in self.laws.items():
            for name, values in law.spread().items():
                found.setdefault(name, {})[label] = values
        return found

    def log_win_probability(self) -> dict[str, Tensor]:
        """Return label -> log P(each choice has the largest score), shape (K,), float64 (exact, by quadrature)."""
        return {label: law.log_win_probability() for label, law in self.laws.items()}

    def win_probability(self) -> dict[str, ByName]:
        """Return label -> name of each choice -> P(it has the largest score), adding up to 1.

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
        """Return log P(every label's largest score is the given choice), in nats: the sum over labels.

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
        """Return the posterior as plain values for JSON; floats are exact, -inf is None.

        Raises:
            SpaceError: a number is not finite.
        """
        self._require_valid()
        laws = list(self.laws.values())
        labels = {}
        for label, law in self.laws.items():
            ranked = {} if torch.equal(self.scores[label], law.location) else {"scores": self.scores[label]}
            columns = {name: _listed(values) for name, values in (law.parameters() | ranked).items()}
            labels[label] = {"choices": list(self.choices[label]), **columns}
        return {
            "format": FORMAT,
            "version": 1 if self._is_normal else 2,
            "kind": self.kind,
            "law": laws[0].name,
            "dtype": str(laws[0].location.dtype).removeprefix("torch."),
            "labels": labels,
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
        if document.get("version") not in VERSIONS:
            raise FileFormatError(
                f"{path} has posterior version {document.get('version')!r}; this package reads up to {VERSIONS[-1]}"
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
        dtype, law = dtypes[document["dtype"]], law_named(document.get("law", NormalLaw.name))
        laws: dict[str, Law] = {}
        scores: dict[str, Tensor] = {}
        choices: dict[str, list[str]] = {}
        for label, entry in document["labels"].items():
            tensors = {name: _tensor(values, dtype) for name, values in entry.items() if name != "choices"}
            choices[label] = [str(choice) for choice in entry["choices"]]
            scores |= {label: tensors.pop("scores")} if "scores" in tensors else {}
            laws[label] = law(**tensors)
        if not laws:
            raise ValueError("it has no labels")
        found = cls.of(laws, kind=str(document.get("kind", "gaussian")), scores=scores, choices=choices)
        found._require_valid()
        return found


def _listed(values: Tensor) -> list[float | None]:
    return [None if value == -math.inf else value for value in values.tolist()]


def _tensor(values: Sequence[float | None], dtype: torch.dtype) -> Tensor:
    return torch.tensor([-math.inf if value is None else value for value in values], dtype=dtype)
