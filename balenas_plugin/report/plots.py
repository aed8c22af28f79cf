"""Line charts that can be read in black and white and on a phone: every line has its own style, marker and label.

The same data gives the same bytes, whatever the user's matplotlib settings are.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from balenas_plugin.report.reading import Series, shortened

SIZE = (4.8, 3.1)
"""Inches; as wide as a phone shows it, so that the letters are not scaled down much there."""

_STYLES: tuple[tuple[object, str, str], ...] = (
    ("-", "o", "#000000"),
    ("--", "s", "#1b5fa8"),
    ("-.", "^", "#a3411c"),
    (":", "D", "#3f7d20"),
    ((0, (5, 1, 1, 1, 1, 1)), "v", "#7a3f98"),
    ((0, (1, 1)), "P", "#5c5c5c"),
    ((0, (8, 2)), "X", "#00707a"),
    ((0, (3, 2, 1, 2)), "*", "#8c6d00"),
)
"""Line, marker, colour; the first two distinguish lines without the third."""

_LABELS = 1.3
"""Inches at the right for the labels of lines, unless one is longer."""

_LETTER = 0.073
"""Inches that a letter of a label is wide, at most on average."""

_LABEL_PLACE = 1.1
"""Where labels begin, as a share of the axes' width; their markers stand before them."""

_LEFT = 0.78
"""Inches at the left for the numbers of the axis and its unit."""

_LABEL_LENGTH = 22
"""Letters of a label that are shown."""

_LABEL_GAP = 0.075
"""Least distance of two labels, as a share of the height."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a chart.

    Args:
        label: stands at its end.
        series: its values over epochs.
        low: lower edge of its band, one value an epoch; None for no band.
        high: upper edge.
    """

    label: str
    series: Series
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of a report.

    Args:
        name: for its file.
        title: stands above it.
        caption: says how to read it.
        alt: says what is on it.
        draw: into an empty figure.
        size: width and height in inches.
    """

    name: str
    title: str
    caption: str
    alt: str
    draw: Callable[[Figure], None]
    size: tuple[float, float] = SIZE

    def render(self, kind: str) -> bytes:
        """Return the picture as "svg" or "png"."""
        with _settings():
            figure = Figure(figsize=self.size, dpi=160, facecolor="white")
            (FigureCanvasSVG if kind == "svg" else FigureCanvasAgg)(figure)
            self.draw(figure)
            file = io.BytesIO()
            metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
            figure.savefig(file, format=kind, metadata=metadata)
        return _compact(file.getvalue()) if kind == "svg" else file.getvalue()


def _compact(svg: bytes) -> bytes:
    """Return an SVG whose paths have two decimals, a fiftieth of a pixel at most, instead of six."""
    return re.sub(rb' d="[^"]*"', lambda path: re.sub(rb"(\.\d\d)\d+", rb"\1", path[0]), svg)


@contextmanager
def _settings() -> Iterator[None]:
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name may hold letters that the font lacks
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                "svg.hashsalt": "balenas-plugin",
                "text.parse_math": False,  # names come from files: `$` is a dollar
                "font.size": 9.5,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.linewidth": 0.8,
                "axes.edgecolor": "0.25",
                "axes.grid": True,
                "axes.axisbelow": True,
                "axes.formatter.useoffset": False,
                "grid.color": "0.88",
                "grid.linewidth": 0.6,
                "lines.linewidth": 1.5,
                "lines.markersize": 4,
            }
        )
        yield


def line_chart(
    lines: Sequence[Line],
    *,
    unit: str,
    limits: tuple[float, float] | None = None,
    rule: tuple[float, str] | None = None,
    heading: Sequence[str] = (),
) -> Callable[[Figure], None]:
    """Return what draws lines over epochs, each labelled at its end.

    Args:
        lines: at least one with values.
        unit: of the values, beside the axis.
        limits: of the axis.
        rule: a value to be marked by a thin line, and what it is.
        heading: lines of text above the axes, the first a title, for a picture that stands alone.
    """

    def draw(figure: Figure) -> None:
        axes = _axes(figure, right=_room(figure, lines), top=0.1 + 0.2 * len(heading))
        _write_heading(figure, heading)
        for number, line in enumerate(lines):
            _draw_line(axes, line, number)
        if rule is not None:
            axes.axhline(rule[0], color="0.45", linewidth=0.9, linestyle=(0, (2, 2)))
            axes.text(
                0.01, rule[0], rule[1], transform=axes.get_yaxis_transform(), va="bottom", fontsize=8, color="0.2"
            )
        axes.set_xlabel("epoch")
        axes.set_ylabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if limits is not None:
            axes.set_ylim(*limits)
        if len(lines) > 1:
            _label_ends(axes, lines)

    return draw


def _room(figure: Figure, lines: Sequence[Line]) -> float:
    """Return the inches that labels need at the right of the axes; one line has none."""
    if len(lines) < 2:
        return 0.12
    text = _LETTER * max(len(shortened(line.label, _LABEL_LENGTH)) for line in lines)
    offset = _LABEL_PLACE - 1
    width = float(figure.get_size_inches()[0])
    return max(_LABELS, (text + offset * (width - _LEFT)) / _LABEL_PLACE)


def _axes(figure: Figure, *, left: float = _LEFT, right: float = 0.12, bottom: float = 0.48, top: float = 0.1) -> Axes:
    """Return axes with margins in inches, the same in every chart, so that charts beside each other line up."""
    width, height = figure.get_size_inches()
    return figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height))


def _write_heading(figure: Figure, heading: Sequence[str]) -> None:
    width, height = figure.get_size_inches()
    for number, text in enumerate(heading):
        weight, size = ("bold", 9.5) if number == 0 else ("normal", 8)
        figure.text(0.1 / width, 1 - (0.1 + 0.2 * number) / height, text, va="top", weight=weight, fontsize=size)


def strip_chart(lines: Sequence[Line], *, unit: str) -> Callable[[Figure], None]:
    """Return what draws every line with its band in a strip of its own, all of one scale, so that bands do not mix."""

    def draw(figure: Figure) -> None:
        axes = _axes(figure, right=_LABELS)
        edges = [v for line in lines for v in (*line.series.values, *(line.low or ()), *(line.high or ()))]
        low, high = min(edges), max(edges)
        margin = 0.08 * (high - low) or 0.5
        height = high - low + 2 * margin
        ticks = [t for t in MaxNLocator(nbins=3).tick_values(low, high) if low - margin < t < high + margin]
        for number, line in enumerate(lines):
            shift = -number * height
            _draw_line(axes, _shifted(line, shift), number)
            axes.axhline(shift + high + margin, color="0.35", linewidth=0.8)
            color = _STYLES[number % len(_STYLES)][2]
            ours: dict[str, Any] = {
                "transform": axes.get_yaxis_transform(),
                "va": "center",
                "fontsize": 8.5,
                "color": color,
            }
            axes.text(1.03, shift + line.series.values[-1], shortened(line.label, _LABEL_LENGTH), **ours)
        places = [t - number * height for number in range(len(lines)) for t in ticks]
        axes.set_yticks(places, [f"{t:g}" for _ in lines for t in ticks], fontsize=7.5)
        axes.set_ylim(high + margin - len(lines) * height, high + margin)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel(unit)

    return draw


def _shifted(line: Line, shift: float) -> Line:
    def moved(values: Sequence[float] | None) -> list[float] | None:
        return None if values is None else [value + shift for value in values]

    series = Series(line.series.epochs, moved(line.series.values) or [])
    return Line(label=line.label, series=series, low=moved(line.low), high=moved(line.high))


def _draw_line(axes: Axes, line: Line, number: int) -> None:
    style, marker, color = _STYLES[number % len(_STYLES)]
    epochs, values = line.series.epochs, line.series.values
    every = max(1, len(epochs) // 8)
    axes.plot(epochs, values, linestyle=style, marker=marker, markevery=(number % every, every), color=color, zorder=3)
    if line.low is not None and line.high is not None:
        axes.fill_between(epochs, line.low, line.high, color=color, alpha=0.12, linewidth=0, zorder=1)
        for edge in (line.low, line.high):
            axes.plot(epochs, edge, color=color, linewidth=0.5, linestyle=style, alpha=0.6, zorder=2)


def _label_ends(axes: Axes, lines: Sequence[Line]) -> None:
    """Write each label right of its line's end, moved apart where they would touch."""
    low, high = axes.get_ylim()
    left, edge = axes.get_xlim()
    last = max(line.series.epochs[-1] for line in lines if line.series)
    ends = [
        (min(max((line.series.values[-1] - low) / (high - low), 0), 1), number)
        for number, line in enumerate(lines)
        if line.series
    ]
    places: list[float] = []
    for place, _ in sorted(ends):
        places.append(max(place, places[-1] + _LABEL_GAP) if places else place)
    excess = max(places[-1] - 1, 0) if places else 0
    for k in range(len(places) - 1, -1, -1):
        limit = places[k + 1] - _LABEL_GAP if k + 1 < len(places) else places[k] - excess
        places[k] = min(places[k], limit)
    axes.set_xlim(left, edge)  # which the thin lines to the edge would move
    for (end, number), place in zip(sorted(ends), places, strict=True):
        _, marker, color = _STYLES[number % len(_STYLES)]
        line = lines[number].series
        if line.epochs[-1] < last:
            axes.plot([line.epochs[-1], edge], [line.values[-1]] * 2, ":", color=color, linewidth=0.7, alpha=0.7)
        ours: dict[str, Any] = {"color": color, "transform": axes.transAxes, "clip_on": False}
        axes.plot([1.005, 1.045], [end, place], linewidth=0.6, **ours)
        axes.plot([1.07], [place], marker=marker, markersize=4.5, **ours)
        axes.text(_LABEL_PLACE, place, shortened(lines[number].label, _LABEL_LENGTH), va="center", fontsize=8.5, **ours)


def dot_chart(groups: Sequence[tuple[str, Sequence[float]]], *, unit: str) -> Callable[[Figure], None]:
    """Return what draws one row a group: a dot a seed, the mean as a bar, and one standard deviation to each side."""

    def draw(figure: Figure) -> None:
        axes = _axes(figure, left=1.75)
        for row, (_, values) in enumerate(groups):
            mean, spread = mean_and_deviation(values)
            if spread is not None:
                axes.plot([mean - spread, mean + spread], [row, row], color="0.6", linewidth=7, solid_capstyle="butt")
            axes.plot([mean, mean], [row - 0.24, row + 0.24], color="black", linewidth=1.6)
            axes.plot(values, [row] * len(values), "o", markerfacecolor="white", markeredgecolor="black", markersize=6)
        axes.set_yticks(range(len(groups)), [shortened(label, 28) for label, _ in groups])
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.set_xlabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.grid(axis="y", visible=False)

    return draw


def scatter_chart(
    dots: Sequence[tuple[float, float]], joined: Sequence[tuple[float, float]], *, across: str, up: str
) -> Callable[[Figure], None]:
    """Return what draws open dots, and filled ones joined by steps, from left to right.

    Args:
        dots: of both coordinates, across and up.
        joined: those that are filled, by the first coordinate.
        across: what the first coordinate is.
        up: what the second is.
    """

    def draw(figure: Figure) -> None:
        axes = _axes(figure)
        axes.plot(*zip(*dots, strict=True), "o", markerfacecolor="white", markeredgecolor="0.5", markersize=4)
        axes.step(*zip(*joined, strict=True), "-o", where="post", color="black", markersize=5.5)
        axes.set_xlabel(across)
        axes.set_ylabel(shortened(up, 40))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))

    return draw


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the standard deviation (of a sample: n - 1); None instead of the latter for one value."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
