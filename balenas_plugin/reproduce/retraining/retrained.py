"""The table of what was retrained: test errors, what each search gave, and rank correlations."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from balenas_plugin.reproduce.experiments import Experiment, Row
from balenas_plugin.reproduce.retraining.correlations import Correlation
from balenas_plugin.reproduce.retraining.stages import SHORT
from balenas_plugin.reproduce.tables import (
    Comparison,
    compare,
    comparison_lines,
    markdown_line,
    mean_and_deviation,
    with_deviation,
    write_texts,
)

BESIDES = "drawn besides"
"""Row of the architectures that are drawn for the rank correlations only."""


@dataclass(frozen=True, kw_only=True)
class Retrained:
    """One network that was trained and tested.

    Args:
        row: title of the row whose architecture it has.
        search_seed: that this was found with.
        stage: which training, "short" or a data set.
        seed: of the training.
        test_error: in percent.
        validation_error: in percent, after the last epoch, where the training has left images out for it.
        parameters: of the network.
        multiply_adds: for one image.
        channels: of the first cells.
        seconds: that the training took.
        architecture: in the space's notation.
    """

    row: str
    search_seed: int
    stage: str
    seed: int
    test_error: float
    validation_error: float | None
    parameters: int
    multiply_adds: int
    channels: int | None
    seconds: float
    architecture: str


@dataclass(frozen=True, kw_only=True)
class RetrainedTable:
    """The results of a retraining.

    Args:
        experiment: what was compared.
        stages: data sets of the retraining.
        trained: all networks.
        picks: title of a row -> seed of the search whose architecture was retrained.
        costs: title of a row -> mean CPU seconds of a search.
        correlations: of scores with the test accuracy.
        about: what else a reader must know.
        name: of its files; None: the experiment's.
    """

    experiment: Experiment
    stages: Sequence[str]
    trained: Sequence[Retrained]
    picks: Mapping[str, int]
    costs: Mapping[str, float]
    correlations: Sequence[Correlation]
    about: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None

    def of(self, row: str, stage: str) -> list[Retrained]:
        """Return the networks of a row in one training."""
        return [each for each in self.trained if (each.row, each.stage) == (row, stage)]

    def comparisons(self) -> list[Comparison]:
        """Return paired tests of rows over the seeds of the searches, in test error after the short training."""
        errors = {
            row.title: {found.search_seed: {SHORT: found.test_error} for found in self.of(row.title, SHORT)}
            for row in self.experiment.rows
        }
        return [
            compare(better, worse, SHORT, errors[better], errors[worse])
            for better, worse in self.experiment.pairs
            if set(errors[better]) & set(errors[worse])
        ]

    def markdown(self) -> str:
        """Return the tables for a page."""
        lines = [
            f"## {self.experiment.title}",
            "",
            "Of the searches of a method, the architecture with the best validation accuracy after a short training, "
            "retrained from scratch; mean and standard deviation over the seeds of the training.",
            "",
            *self._retrained(),
            "",
            "Every architecture found, after the short training: mean and standard deviation over the searches.",
            "",
            *self._searches(),
        ]
        comparisons = self.comparisons()
        if comparisons:
            lines += ["", *comparison_lines(comparisons, "errors after the short training")]
        lines += ["", "Rank correlation with test accuracies; mean and standard deviation over the searches.", ""]
        lines += [*self._correlated(), "", *(f"- {key}: {value}" for key, value in self.about.items()), ""]
        return "\n".join(lines)

    def _retrained(self) -> list[str]:
        heads = ["", "seed picked", *(f"{stage} test error" for stage in self.stages), "parameters", "multiply-adds"]
        heads += ["CPU seconds of a search", "paper: CIFAR-10 / CIFAR-100 / ImageNet", "paper, parameters"]
        lines = [markdown_line(heads), markdown_line(["---"] * len(heads))]
        for row in self.experiment.rows:
            first = self.of(row.title, self.stages[0])
            cells = [str(self.picks.get(row.title, "none"))]
            cells += [_spread(self.of(row.title, stage), lambda each: each.test_error) for stage in self.stages]
            cells += [f"{first[0].parameters:,}", f"{first[0].multiply_adds:,}"] if first else ["", ""]
            cells += [f"{self.costs[row.title]:,.0f}" if row.title in self.costs else ""]
            lines.append(markdown_line([row.title, *cells, *_paper(row)]))
        return lines

    def _searches(self) -> list[str]:
        heads = ["", "seeds", "validation error", "test error", "parameters"]
        lines = [markdown_line(heads), markdown_line(["---"] * len(heads))]
        for title in [*(row.title for row in self.experiment.rows), BESIDES]:
            found = self.of(title, SHORT)
            if title == BESIDES and not found:
                continue
            cells = [_spread(found, lambda each: each.validation_error or 0.0)]
            cells += [
                _spread(found, lambda each: each.test_error),
                _spread(found, lambda each: each.parameters, ",.0f"),
            ]
            lines.append(markdown_line([title, str(len(found)), *cells]))
        return lines

    def _correlated(self) -> list[str]:
        heads = ["score", "ranks", "Spearman's rho", "Kendall's tau", "searches", "architectures"]
        lines = [markdown_line(heads), markdown_line(["---"] * len(heads))]
        for key in dict.fromkeys((each.score, each.accuracy) for each in self.correlations):
            found = [each for each in self.correlations if (each.score, each.accuracy) == key]
            searches = [each for each in found if each.seed is not None]
            cells = [
                mean_and_deviation([value for each in found if (value := getattr(each, name)) is not None]) or "none"
                for name in ("spearman", "kendall")
            ]
            count = max(each.architectures for each in found)
            lines.append(markdown_line([*key, *cells, str(len(searches)) if searches else "", str(count)]))
        return lines

    def csv(self) -> str:
        """Return one line per network."""
        text = io.StringIO()
        names = [each.name for each in fields(Retrained)]
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(each) for each in self.trained)
        return text.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "experiment": self.experiment.name,
            "about": dict(self.about),
            "paper": {
                row.title: {key: list(value) for key, value in row.paper.items()} for row in self.experiment.rows
            },
            "picks": dict(self.picks),
            "cpu_seconds": dict(self.costs),
            "networks": [asdict(each) for each in self.trained],
            "comparisons": [asdict(comparison) for comparison in self.comparisons()],
            "correlations": [asdict(correlation) for correlation in self.correlations],
        }

    def write(self, folder: Path) -> list[Path]:
        """Write the table as Markdown, CSV and JSON; return the files."""
        texts = {"md": self.markdown(), "csv": self.csv(), "json": json.dumps(self.to_dict(), indent=1) + "\n"}
        return write_texts(folder / (self.name or self.experiment.name), texts)


def _paper(row: Row) -> list[str]:
    errors = [with_deviation(*numbers) for name, numbers in row.paper.items() if name != "parameters"]
    parameters = f"{row.paper['parameters'][0]} M" if "parameters" in row.paper else ""
    return [" / ".join(errors), parameters]


def _spread(found: Sequence[Retrained], number: Callable[[Retrained], float], digits: str = ".2f") -> str:
    return mean_and_deviation([number(each) for each in found], digits) or "not run"


def mean_error(found: Sequence[Retrained]) -> float:
    """Return the mean test error."""
    return statistics.fmean(each.test_error for each in found)
