"""Tables of accuracies: mean and standard deviation over seeds, paired tests, the paper's numbers beside them."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scipy.stats import ttest_rel

from balenas_plugin.files import write_text_atomically
from balenas_plugin.reproduce.experiments import COSTS, DATASETS, VALIDATION, Experiment
from balenas_plugin.reproduce.picks import Accuracies

PerSeed = Mapping[int, Accuracies]
"""Seed -> accuracies of what was chosen."""


@dataclass(frozen=True)
class Comparison:
    """A paired test of two rows on one data set.

    Args:
        better: the row that should be better.
        worse: the other one.
        dataset: whose test accuracies are compared.
        difference: mean of the differences over the seeds that both have, in percentage points.
        standard_error: of that mean; None with fewer than two seeds.
        p_value: of Student's paired t-test, two-sided; None with fewer than two seeds or no variation.
        seeds: how many.
    """

    better: str
    worse: str
    dataset: str
    difference: float
    standard_error: float | None
    p_value: float | None
    seeds: int


@dataclass(frozen=True)
class Table:
    """The results of an experiment.

    Args:
        experiment: what was compared.
        results: title of a row -> seed -> accuracies; a row without any was not searched.
        about: what else a reader must know: scale, command, versions.
        name: of its files; None: the experiment's.
    """

    experiment: Experiment
    results: Mapping[str, PerSeed]
    about: Mapping[str, Any]
    name: str | None = None

    def comparisons(self) -> list[Comparison]:
        """Return the paired tests of the experiment."""
        return [
            compare(better, worse, dataset, self.results[better], self.results[worse])
            for better, worse in self.experiment.pairs
            for dataset in DATASETS
            if set(self.results.get(better, ())) & set(self.results.get(worse, ()))
        ]

    def markdown(self) -> str:
        """Return the table for a page."""
        columns = self.experiment.columns
        tested = [dataset for dataset in DATASETS if dataset in columns]
        named = {VALIDATION: "CIFAR-10 validation", **COSTS}
        heads = [named.get(column, f"{column} test") for column in columns]
        head = ["", "seeds", *heads, *(["paper (test)"] if tested else [])]
        lines = [f"## {self.experiment.title}", "", markdown_line(head), markdown_line(["---"] * len(head))]
        for row in self.experiment.rows:
            found = self.results.get(row.title, {})
            ours = [_spread(found, column) for column in columns]
            paper = " / ".join(with_deviation(*row.paper[dataset]) for dataset in tested if dataset in row.paper)
            lines.append(markdown_line([row.title, str(len(found)), *ours, *([paper] if tested else [])]))
        comparisons = self.comparisons()
        if comparisons:
            lines += ["", *comparison_lines(comparisons, "test accuracies")]
        lines += ["", *(f"- {key}: {value}" for key, value in self.about.items()), ""]
        return "\n".join(lines)

    def csv(self) -> str:
        """Return one line per row and seed."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        columns = self.experiment.columns
        writer.writerow(["row", "seed", *columns])
        for row in self.experiment.rows:
            for seed, found in sorted(self.results.get(row.title, {}).items()):
                writer.writerow([row.title, seed, *(f"{found[c]:.4f}" if c in found else "" for c in columns)])
        return text.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "experiment": self.experiment.name,
            "about": dict(self.about),
            "rows": [
                {
                    "title": row.title,
                    "pick": asdict(row.pick),
                    "paper": {dataset: list(numbers) for dataset, numbers in row.paper.items()},
                    "seeds": {
                        str(seed): {column: found.get(column) for column in self.experiment.columns}
                        for seed, found in sorted(self.results.get(row.title, {}).items())
                    },
                }
                for row in self.experiment.rows
            ],
            "comparisons": [asdict(comparison) for comparison in self.comparisons()],
        }

    def write(self, folder: Path) -> list[Path]:
        """Write the table as Markdown, CSV and JSON; return the files."""
        texts = {"md": self.markdown(), "csv": self.csv(), "json": json.dumps(self.to_dict(), indent=1) + "\n"}
        return write_texts(folder / (self.name or self.experiment.name), texts)


def write_texts(path: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write each text to `path`.<suffix>; return the files."""
    paths = {suffix: path.with_name(f"{path.name}.{suffix}") for suffix in texts}
    for suffix, text in texts.items():
        write_text_atomically(paths[suffix], text)
    return list(paths.values())


def compare(better: str, worse: str, dataset: str, one: PerSeed, other: PerSeed) -> Comparison:
    """Compare two rows on the seeds that both have: the same seed gives both the same data and initial weights."""
    seeds = sorted(set(one) & set(other))
    a, b = ([found[seed][dataset] for seed in seeds] for found in (one, other))
    differences = [x - y for x, y in zip(a, b, strict=True)]
    error = p = None
    if len(seeds) > 1:
        error = statistics.stdev(differences) / math.sqrt(len(seeds))
        p = float(ttest_rel(a, b).pvalue) if error > 0 else None
    return Comparison(better, worse, dataset, statistics.mean(differences), error, p, len(seeds))


def comparison_lines(comparisons: Sequence[Comparison], what: str) -> list[str]:
    """Return a Markdown table of paired tests.

    Args:
        comparisons: the tests.
        what: is compared, e.g. "test accuracies".
    """
    lines = [markdown_line([f"difference of {what}", "data set", "mean", "p (paired t)", "seeds"])]
    lines.append(markdown_line(["---"] * 5))
    for c in comparisons:
        mean = with_deviation(c.difference, c.standard_error, "+.2f")
        p = "" if c.p_value is None else f"{c.p_value:.3f}"
        lines.append(markdown_line([f"{c.better} - {c.worse}", c.dataset, mean, p, str(c.seeds)]))
    return lines


def _spread(found: PerSeed, column: str) -> str:
    values = [accuracies[column] for accuracies in found.values() if column in accuracies]
    text = mean_and_deviation(values, ".0f" if column in COSTS else ".2f")
    return text or ("not recorded" if found else "not run")


def mean_and_deviation(values: Sequence[float], digits: str = ".2f") -> str:
    """Return "mean ± standard deviation", the mean alone of a single value, and nothing of none."""
    if not values:
        return ""
    return with_deviation(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, digits)


def with_deviation(mean: float, deviation: float | None, digits: str = ".2f") -> str:
    """Return "mean ± deviation", which no page breaks into two lines.

    Args:
        mean: the number.
        deviation: its standard deviation or error; None if there is none.
        digits: format of the mean; the deviation has as many digits.
    """
    text = f"{mean:{digits}}"
    return text if deviation is None else f"{text}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{deviation:{digits.lstrip('+')}}"


def markdown_line(cells: Sequence[str]) -> str:
    """Return a line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"
