"""Several runs side by side: runs that differ in their seed alone are one group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from balenas_plugin.report.plots import Line, Picture, dot_chart, line_chart, mean_and_deviation
from balenas_plugin.report.reading import (
    DATASETS,
    NOT_KNOWN,
    RunData,
    Series,
    flattened,
    metric_of,
    shortened,
    truth_of,
)

_NOT_SETTINGS = ("name", "seed", "top_k", "evaluator.logger", "evaluator.enable_progress_bar")
"""What two runs of one search may differ in."""

_MAX_CURVES = 8
"""Groups whose curves are drawn: more lines cannot be distinguished."""


@dataclass(frozen=True)
class Group:
    """Runs with the same settings.

    Args:
        label: its strategy, numbered where several groups share it.
        details: the settings that the others with this strategy have otherwise.
        runs: one a seed.
    """

    label: str
    details: str
    runs: list[RunData]


@dataclass(frozen=True)
class Measure:
    """One figure of a finished run: its name, unit, how many digits, and where it is."""

    name: str
    unit: str
    digits: int
    of: Callable[[RunData], float | None]


def _truth(dataset: str, metric: str) -> Callable[[RunData], float | None]:
    def of(run: RunData) -> float | None:
        record = (run.architectures or run.records or [{}])[0 if run.architectures else -1]
        if metric_of(record, dataset) != metric:
            return None
        return truth_of(record, dataset) if run.architectures else _last(("ground_truth", "accuracy", dataset))(run)

    return of


def _last(keys: Sequence[str], factor: float = 1.0) -> Callable[[RunData], float | None]:
    def of(run: RunData) -> float | None:
        series = run.series(*keys)
        return factor * series.values[-1] if series else None

    return of


TRUTHS = tuple(
    Measure(f"{name}, {metric} (unseen)", "%", 2, _truth(dataset, metric))
    for dataset, name in DATASETS.items()
    for metric in ("test", "validation", "predicted validation")
)

MEASURES = (
    *TRUTHS,
    Measure("supernet, validation", "%", 2, _last(("val_acc",), 100)),
    Measure("supernet, validation perplexity", "", 2, _last(("val_perplexity",))),
    Measure("openness of the choices", "%", 1, _last(("choice_entropy",), 100)),
    Measure("skip connections", "%", 1, _last(("skip_ratio",), 100)),
    Measure("largest eigenvalue", "1/logit²", 4, _last(("eigenvalue",))),
    Measure("epochs", "", 0, lambda run: float(len(run.records) or len(run.history)) or None),
)

_CURVES = (
    ("ground_truth", "Ground truth of the current architecture, CIFAR-10", "percent", 1.0),
    ("val_acc", "Validation accuracy of the supernet", "percent", 100.0),
    ("val_perplexity", "Validation perplexity of the supernet", "perplexity", 1.0),
    ("choice_entropy", "How open the choices are", "percent of the maximum", 100.0),
    ("skip_ratio", "Skip connections", "percent of operations", 100.0),
    ("eigenvalue", "Largest eigenvalue", "1 / logit²", 1.0),
)


def groups_of(runs: Sequence[RunData]) -> list[Group]:
    """Return the runs grouped by their settings, but for those that do not change a search."""
    found: dict[tuple[tuple[str, str], ...], list[RunData]] = {}
    for run in runs:
        found.setdefault(tuple(sorted(_compared(run).items())), []).append(run)
    strategies = [members[0].strategy for members in found.values()]
    groups = []
    for place, (settings, members) in enumerate(found.items(), start=1):
        strategy = members[0].strategy
        alike = [dict(other) for other, name in zip(found, strategies, strict=True) if name == strategy]
        differing = [key for key, value in settings if any(other.get(key) != value for other in alike)]
        own = dict(settings)
        details = ", ".join(f"{key.rpartition('.')[2]} {own[key]}" for key in differing)
        label = shortened(strategy, 40)
        if len(alike) > 1:
            label = f"{label} {strategies[:place].count(strategy)}"
        groups.append(Group(label, shortened(details, 160), members))
    return groups


def _compared(run: RunData) -> dict[str, str]:
    return {
        key: value
        for key, value in flattened(run.settings).items()
        if key not in _NOT_SETTINGS and (not key.startswith("diagnostics.") or key == "diagnostics.stop_by")
    }


def comparison_table(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """Return the heads of the columns and one row a group: mean and standard deviation over its runs."""
    measures = [m for m in MEASURES if any(m.of(run) is not None for group in groups for run in group.runs)]
    heads = ["settings", "runs", *(f"{m.name}{', ' + m.unit if m.unit else ''}" for m in measures)]
    rows = []
    for group in groups:
        name = f"{group.label}: {group.details}" if group.details else group.label
        cells = [name, str(len(group.runs))]
        for measure in measures:
            values = [value for run in group.runs if (value := measure.of(run)) is not None]
            cells.append(_mean(values, measure.digits))
        rows.append(cells)
    return heads, rows


def _mean(values: Sequence[float], digits: int) -> str:
    if not values:
        return NOT_KNOWN
    mean, deviation = mean_and_deviation(values)
    return f"{mean:.{digits}f}" if deviation is None else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def comparison_pictures(groups: Sequence[Group]) -> Iterator[Picture]:
    """Yield charts of all groups: a dot a seed for what they end with, mean curves with bands for the way there."""
    for measure in MEASURES[: len(TRUTHS) + 3]:
        rows = [(g.label, [v for run in g.runs if (v := measure.of(run)) is not None]) for g in groups]
        rows = [(label, values) for label, values in rows if values]
        if rows:
            described = [
                f"{label}: {_mean(values, measure.digits)} over {len(values)} runs ("
                + ", ".join(f"{value:.{measure.digits}f}" for value in values)
                + ")."
                for label, values in rows
            ]
            yield Picture(
                name=f"compared {measure.name}",
                title=measure.name,
                caption="A dot is a run, the black bar the mean, the grey one a standard deviation to each side.",
                alt=" ".join(described),
                draw=dot_chart(rows, unit=measure.unit),
                size=(4.8, 1.3 + 0.42 * len(rows)),
            )
    for key, title, unit, factor in _CURVES:
        lines = [line for group in groups[:_MAX_CURVES] if (line := _mean_line(group, key, factor)) is not None]
        if lines:
            yield Picture(
                name=f"curve {key}",
                title=title,
                caption="The mean over runs, with a standard deviation to each side."
                + (f" The first {_MAX_CURVES} rows of the table." if len(groups) > _MAX_CURVES else ""),
                alt=" ".join(
                    f"{line.label}: {line.series.values[0]:.3g} in epoch {line.series.epochs[0]}, "
                    f"{line.series.values[-1]:.3g} in epoch {line.series.epochs[-1]}."
                    for line in lines
                ),
                draw=line_chart(lines, unit=unit),
            )


def _mean_line(group: Group, key: str, factor: float) -> Line | None:
    """Return the mean over the runs of a group, in the epochs that all of them have."""
    keys = ("ground_truth", "accuracy", "cifar10") if key == "ground_truth" else (key,)
    each = [dict(zip(s.epochs, s.values, strict=True)) for run in group.runs if (s := run.series(*keys))]
    epochs = sorted(set(each[0]).intersection(*each[1:])) if each else []
    if not epochs:
        return None
    found = [mean_and_deviation([factor * values[epoch] for values in each]) for epoch in epochs]
    means = [mean for mean, _ in found]
    low = [mean - (spread or 0.0) for mean, spread in found] if len(each) > 1 else None
    high = [mean + (spread or 0.0) for mean, spread in found] if len(each) > 1 else None
    return Line(label=group.label, series=Series(epochs, means), low=low, high=high)


def settings_that_differ(runs: Sequence[RunData]) -> dict[str, Any]:
    """Return dotted name -> one text a run, of the settings that are not the same in all runs."""
    settings = [flattened(run.settings) for run in runs]
    keys = dict.fromkeys(key for own in settings for key in own)
    return {
        key: [own.get(key, NOT_KNOWN) for own in settings]
        for key in keys
        if len({own.get(key) for own in settings}) > 1
    }
