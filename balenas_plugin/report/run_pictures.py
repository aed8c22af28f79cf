"""The pictures of one run: accuracy or perplexity, ground truth, uncertainty, probabilities, logits, shape."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from balenas_plugin.report.plots import Line, Picture, line_chart, strip_chart
from balenas_plugin.report.reading import RunData, Series, at, metric_of, numbers, shortened
from balenas_plugin.search_spaces import PARAMETER_FREE, SKIP

MAX_LABELS = 32
"""Choices whose probabilities and logits are drawn; a report of a space with more says so."""

MAX_CANDIDATES = 8
"""Candidates of a choice that are drawn: those that end highest."""

_SMALL = (4.4, 2.6)


def run_pictures(run: RunData) -> Iterator[Picture]:
    """Yield the pictures that there are data for, in the order of the page."""
    makers = (_accuracy, _perplexity, _ground_truth, _uncertainty, _sigma, _eigenvalue, _trace, _operations, _cells)
    for make in makers:
        picture = make(run)
        if picture is not None:
            yield picture
    yield from _own(run)


def probability_pictures(run: RunData) -> Iterator[Picture]:
    """Yield one picture a choice: the probability that each candidate wins."""
    for label, names in choices_of(run):
        lines = _foremost(_lines(names, [_of_label(run, "probabilities", label, k) for k in range(len(names))]))
        if lines:
            yield Picture(
                name=f"probability {label}",
                title=label,
                caption="",
                alt=f"Probability that each candidate of {label} wins. {_described(lines, '{:.2f}')}",
                draw=line_chart(lines, unit="probability", limits=(0, 1)),
                size=_SMALL,
            )


def logit_pictures(run: RunData) -> Iterator[Picture]:
    """Yield one picture a choice: what its candidates rank by, within one sigma where it is the mean of a Gaussian."""
    for label, names in choices_of(run):
        lines: list[Line] = []
        for k, name in enumerate(names):
            series = _of_label(run, "logits", label, k)
            precision = _of_label(run, "precision", label, k)
            sigma = [1 / math.sqrt(p) if p > 0 else 0.0 for p in precision.values]
            low = high = None
            if series and precision.epochs == series.epochs:
                low = [m - s for m, s in zip(series.values, sigma, strict=True)]
                high = [m + s for m, s in zip(series.values, sigma, strict=True)]
            if series:
                lines.append(Line(label=name, series=series, low=low, high=high))
        lines, gaussian = _foremost(lines), any(line.low is not None for line in lines)
        if lines:
            yield Picture(
                name=f"logits {label}",
                title=label,
                caption="",
                alt=f"{'Logits' if gaussian else 'Scores'} of {label}{', mean and sigma' if gaussian else ''}. "
                f"{_described(lines, '{:.2f}')}",
                draw=strip_chart(lines, unit="logit" if gaussian else "score"),
                size=(_SMALL[0], 0.9 + 0.55 * len(lines)),
            )


def choices_of(run: RunData) -> list[tuple[str, list[str]]]:
    """Return (label, names of its candidates) of the first choices of a run."""
    given = run.log.header.get("choices")
    if not isinstance(given, dict):
        return []
    named = [(shortened(str(k), 60), k, v) for k, v in given.items() if isinstance(v, list)]
    return [(label, [str(name) for name in names]) for _, label, names in named[:MAX_LABELS]]


def _of_label(run: RunData, key: str, label: str, k: int) -> Series:
    pairs = []
    for record in run.records:
        values = numbers(at(record, (key, label)))
        value = values[k] if k < len(values) else None
        if value is not None:
            pairs.append((record["epoch"], value))
    return Series([epoch for epoch, _ in pairs], [value for _, value in pairs])


def _lines(names: Sequence[str], series: Sequence[Series]) -> list[Line]:
    return [Line(label=name, series=values) for name, values in zip(names, series, strict=True) if values]


def _foremost(lines: list[Line]) -> list[Line]:
    """Return the lines that end highest, as many as can be distinguished, in the order given."""
    last = sorted(lines, key=lambda line: -line.series.values[-1])[:MAX_CANDIDATES]
    return [line for line in lines if line in last]


def _described(lines: Sequence[Line], form: str) -> str:
    """Return what lines show, for those who do not see them."""
    parts = []
    for line in lines:
        values = line.series.values
        parts.append(
            f"{shortened(line.label, 40)}: {form.format(values[0])} in epoch {line.series.epochs[0]}, "
            f"{form.format(values[-1])} in epoch {line.series.epochs[-1]}, between {form.format(min(values))} and "
            f"{form.format(max(values))}."
        )
    return " ".join(parts)


def _percent(series: Series) -> Series:
    return Series(series.epochs, [100 * value for value in series.values])


def _accuracy(run: RunData) -> Picture | None:
    lines = _lines(["validation", "training"], [_percent(run.series("val_acc")), _percent(run.series("train_acc"))])
    if not lines:
        return None
    return Picture(
        name="accuracy",
        title="Accuracy of the supernet",
        caption="All candidates together, by their mean weights. It says how well the supernet is trained, not how "
        "good the architecture is.",
        alt=_described(lines, "{:.1f} %"),
        draw=line_chart(lines, unit="percent"),
    )


def _perplexity(run: RunData) -> Picture | None:
    lines = _lines(["validation", "training"], [run.series("val_perplexity"), run.series("train_perplexity")])
    if not lines:
        return None
    return Picture(
        name="perplexity",
        title="Perplexity of the supernet",
        caption="How many words it hesitates between, the fewer the better: all candidates together, by their mean "
        "weights. It says how well the supernet is trained, not how good the architecture is.",
        alt=_described(lines, "{:.1f}"),
        draw=line_chart(lines, unit="perplexity"),
    )


def _ground_truth(run: RunData) -> Picture | None:
    argmax = run.series("ground_truth", "accuracy", "cifar10")
    metric = metric_of(run.records[-1] if run.records else {}, "cifar10")
    quantiles: list[tuple[int, float, float, float]] = []
    for record in run.records:
        found = sorted(
            v for v in numbers(at(record, ("draws", "ground_truth", "accuracy", "cifar10"))) if v is not None
        )
        if found:
            quantiles.append((record["epoch"], *(quantile(found, q) for q in (0.5, 0.1, 0.9))))
    lines = _lines(["current"], [argmax]) if argmax else []
    if quantiles:
        epochs, middle, low, high = (list(column) for column in zip(*quantiles, strict=True))
        lines.append(Line(label="draws", series=Series([int(e) for e in epochs], middle), low=low, high=high))
    if not lines:
        return None
    return Picture(
        name="ground_truth",
        title="Ground truth, which the search never sees",
        caption=f"The {metric} accuracy on CIFAR-10 in the benchmark's table. Current: the architecture of this epoch. "
        "Draws: the median of the architectures drawn from what is learned, and the band from 10 to 90 percent.",
        alt=_described(lines, "{:.2f} %"),
        draw=line_chart(lines, unit=f"percent, {metric}"),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile of sorted values, interpolated linearly."""
    place = share * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def _uncertainty(run: RunData) -> Picture | None:
    lines = _lines(["choices"], [_percent(run.series("choice_entropy"))])
    if not lines:
        return None
    return Picture(
        name="choice_entropy",
        title="How open the choices are",
        caption="Entropy of the winning probabilities as a share of its maximum: 100 undecided, 0 decided.",
        alt=_described(lines, "{:.1f} %"),
        draw=line_chart(lines, unit="percent of the maximum", limits=(0, 103)),
    )


def _sigma(run: RunData) -> Picture | None:
    mean, low, high = (run.series("sigma", name) for name in ("mean", "least", "most"))
    if not mean:
        mean = run.series("sigma")
    if not mean:
        return None
    banded = low.epochs == mean.epochs == high.epochs
    line = Line(label="sigma", series=mean, low=low.values if banded else None, high=high.values if banded else None)
    return Picture(
        name="sigma",
        title="Width of the posterior",
        caption="Sigma of the logits: the mean over all of them, and the band from the narrowest to the widest.",
        alt=_described([line], "{:.3f}"),
        draw=line_chart([line], unit="sigma, logits"),
    )


def _eigenvalue(run: RunData) -> Picture | None:
    lines = _lines(["largest eigenvalue"], [run.series("eigenvalue")])
    if not lines:
        return None
    return Picture(
        name="eigenvalue",
        title="Sharpness: the largest eigenvalue",
        caption="Of the second derivative of the validation loss in the architecture's parameters (logits, in most "
        "methods). When it grows, the discrete architecture may be much worse than the supernet.",
        alt=_described(lines, "{:.3g}"),
        draw=line_chart(lines, unit="1 / logit²"),
    )


def _trace(run: RunData) -> Picture | None:
    lines = _lines(["trace"], [run.series("trace")])
    if not lines:
        return None
    return Picture(
        name="trace",
        title="Sharpness: the trace",
        caption="The sum of all eigenvalues of the same second derivative.",
        alt=_described(lines, "{:.3g}"),
        draw=line_chart(lines, unit="1 / logit²"),
    )


def _operations(run: RunData) -> Picture | None:
    names = ["skips", "without weights", "skips, draws"]
    keys = [("skip_ratio",), ("parameter_free_share",), ("draws", "skip_ratio")]
    lines = _lines(names, [_percent(run.series(*key)) for key in keys])
    known = _mapping(run.log.header.get("kinds")).values()
    kinds = {str(kind) for each in known if isinstance(each, list) for kind in each}
    if not lines or (kinds and not kinds & {SKIP, PARAMETER_FREE}):
        return None  # a space without such operations, as the recurrent cells'
    rule = run.space.skip_rule
    return Picture(
        name="operations",
        title="Skip connections",
        caption="Share of the chosen operations that are skip connections, and that have no weights (none, skip, "
        f"pooling); for the draws, the mean. Skip connections above the dashed line are suspicious. {rule.reason}",
        alt=_described(lines, "{:.0f} %"),
        draw=line_chart(
            lines, unit="percent of operations", limits=(-2, 102), rule=(100 * rule.most, f"{100 * rule.most:.3g} %")
        ),
    )


def _cells(run: RunData) -> Picture | None:
    found = sorted({str(name) for record in run.records for name in _mapping(record.get("cells"))})[:4]
    lines = []
    for name in found:
        for what in ("depth", "width"):
            series = run.series("cells", name, what)
            if series:
                lines.append(Line(label=what if len(found) == 1 else f"{name} {what}", series=series))
    if not lines:
        return None
    top = max(max(line.series.values) for line in lines)
    return Picture(
        name="cells",
        title="Depth and width of the cell",
        caption="Depth: operations on the longest path. Width: how many nodes the cell's inputs feed directly.",
        alt=_described(lines, "{:.2f}"),
        draw=line_chart(lines, unit="operations, nodes", limits=(0, top + 0.5)),
    )


def _own(run: RunData) -> Iterator[Picture]:
    """Yield a picture of each number that a method is watched by, such as PARSEC's effective sample size."""
    for name in sorted({str(name) for record in run.records for name in _mapping(record.get("own"))}):
        lines = _lines([name], [run.series("own", name)])
        if lines:
            title = shortened(name.replace("_", " ").capitalize(), 60)
            yield Picture(
                name=name,
                title=title,
                caption="What the method itself is watched by, at the end of each epoch.",
                alt=_described(lines, "{:.3g}"),
                draw=line_chart(lines, unit=shortened(name.replace("_", " "), 30)),
            )


def _mapping(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}
