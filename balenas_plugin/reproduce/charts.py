"""Figures of a reproduction as files: every seed's values, the mean and its band over the epochs, a chart of them."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from balenas_plugin.files import write_atomically, write_text_atomically
from balenas_plugin.report.plots import Line, Picture, line_chart, mean_and_deviation
from balenas_plugin.report.reading import NOT_KNOWN, Series
from balenas_plugin.reproduce.figures import Curve, Figure
from balenas_plugin.reproduce.tables import markdown_line, with_deviation

PerSeed = Mapping[int, Mapping[int, float]]
"""Seed -> epoch -> value."""

_SIZE = (5.6, 3.6)
_FIRST_STRETCH, _FURTHER_STRETCH = 4, 2
"""Epochs that a table shows of the shortest curves after their first, and of what longer ones have beyond."""


@dataclass(frozen=True)
class MeanCurve:
    """The mean over seeds.

    Args:
        epochs: those that every seed has, so that the seeds in the mean are the same all along.
        means: one an epoch.
        deviations: standard deviations over seeds (n - 1); none with one seed.
        seeds: how many.
    """

    epochs: list[int]
    means: list[float]
    deviations: list[float]
    seeds: int


def mean_curve(found: PerSeed) -> MeanCurve:
    """Return the mean over the seeds that have values."""
    each = [values for values in found.values() if values]
    epochs = sorted(set(each[0]).intersection(*each[1:])) if each else []
    spreads = [mean_and_deviation([values[epoch] for values in each]) for epoch in epochs]
    deviations = [deviation for _, deviation in spreads if deviation is not None]
    return MeanCurve(epochs, [mean for mean, _ in spreads], deviations, len(each))


@dataclass(frozen=True)
class Chart:
    """The results of a figure.

    Args:
        figure: what is drawn.
        results: title of a row -> seed -> epoch -> value; a row without any was not searched.
        about: what else a reader must know: scale, command, versions.
        name: of its files; None: the figure's.
        beside: the chart of another quantity, written with it.
    """

    figure: Figure
    results: Mapping[str, PerSeed]
    about: Mapping[str, Any]
    name: str | None = None
    beside: Chart | None = None

    def curves(self) -> list[tuple[Curve, MeanCurve]]:
        """Return every row with its mean over seeds."""
        return [(row, mean_curve(self.results.get(row.title, {}))) for row in self.figure.rows]

    def markdown(self) -> str:
        """Return the chart, and the values at a few epochs, for a page."""
        curves, figure = self.curves(), self.figure
        epochs = _few_epochs([curve.epochs for _, curve in curves])
        head = ["", "seeds", *(f"epoch {epoch}" for epoch in epochs)]
        lines = [f"## {figure.title}", "", f"{figure.about}. {_capital(figure.quantity.name)},"]
        lines += ["mean ± standard deviation over seeds; epochs count from 0.", ""]
        if epochs:
            lines += [f"![{self._described()}]({self._file}.svg)", ""]
        lines += [markdown_line(head), markdown_line(["---"] * len(head))]
        for row, curve in curves:
            lines.append(markdown_line([row.title, str(curve.seeds), *self._cells(row, curve, epochs)]))
        lines += ["", *(f"- {note}" for note in figure.notes)]
        lines += [*(f"- {key}: {value}" for key, value in self.about.items()), ""]
        return "\n".join(lines if self.beside is None else [*lines, self._beside.markdown()])

    def csv(self) -> str:
        """Return one line per row, seed and epoch."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["row", "seed", "epoch", "value"])
        for row in self.figure.rows:
            for seed, values in sorted(self.results.get(row.title, {}).items()):
                writer.writerows([row.title, seed, epoch, f"{value:.6g}"] for epoch, value in values.items())
        return text.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        quantity = self.figure.quantity
        return {
            "experiment": self.figure.name,
            "title": self.figure.title,
            "quantity": {"name": quantity.name, "unit": quantity.unit},
            "notes": [f"{self.figure.about}.", *self.figure.notes],
            "about": dict(self.about),
            "rows": [
                {
                    "title": row.title,
                    "search": row.search,
                    "mean": {"epochs": curve.epochs, "values": curve.means, "deviations": curve.deviations},
                    "seeds": {
                        str(seed): {"epochs": list(values), "values": list(values.values())}
                        for seed, values in sorted(self.results.get(row.title, {}).items())
                    },
                }
                for row, curve in self.curves()
            ],
        }

    def picture(self) -> Picture | None:
        """Return the chart; None where nothing has been searched."""
        lines, figure = self._lines(), self.figure
        if not lines:
            return None
        return Picture(
            name=figure.name,
            title=figure.title,
            caption=figure.about,
            alt=self._described(),
            draw=line_chart(
                lines,
                unit=figure.quantity.unit,
                limits=_limits(figure, lines),
                rule=figure.rule,
                heading=[figure.title, f"{figure.about}. {self._band()}"],
            ),
            size=_SIZE,
        )

    def write(self, folder: Path) -> list[Path]:
        """Write the figure as Markdown, CSV, JSON, SVG and PNG; return the files."""
        texts = {"md": self.markdown(), "csv": self.csv(), "json": json.dumps(self.to_dict(), indent=1) + "\n"}
        paths = {suffix: folder / f"{self._file}.{suffix}" for suffix in (*texts, "svg", "png")}
        for suffix, text in texts.items():
            write_text_atomically(paths[suffix], text)
        picture = self.picture()
        for kind in ("svg", "png"):
            if picture is None:
                paths.pop(kind).unlink(missing_ok=True)  # of an earlier call with other methods
            else:
                write_atomically(paths[kind], partial(_write, picture.render(kind)))
        return [*paths.values(), *([] if self.beside is None else self._beside.write(folder))]

    @property
    def _beside(self) -> Chart:
        """The other chart, its files named after this one's."""
        assert self.beside is not None
        own = self.beside.figure.name.removeprefix(self.figure.name)
        return replace(self.beside, name=None if self.name is None else self.name + own)

    @property
    def _file(self) -> str:
        return self.name or self.figure.name

    def _cells(self, row: Curve, curve: MeanCurve, epochs: Sequence[int]) -> list[str]:
        if not self.results.get(row.title):
            return ["not run"] * len(epochs)
        places = {epoch: place for place, epoch in enumerate(curve.epochs)}
        return [
            _spread(curve, places[epoch], self.figure.quantity.digits) if epoch in places else NOT_KNOWN
            for epoch in epochs
        ]

    def _lines(self) -> list[Line]:
        """Return what is drawn: the rows that have epochs."""
        lines = []
        for row, curve in self.curves():
            if curve.epochs:
                low = [mean - deviation for mean, deviation in zip(curve.means, curve.deviations, strict=False)]
                high = [mean + deviation for mean, deviation in zip(curve.means, curve.deviations, strict=False)]
                series = Series(curve.epochs, curve.means)
                lines.append(Line(label=row.title, series=series, low=low or None, high=high or None))
        return lines

    def _band(self) -> str:
        seeds = {curve.seeds for _, curve in self.curves() if curve.epochs}
        if seeds == {1}:
            return "One seed"
        least, most = min(seeds), max(seeds)
        return f"Mean of {least if least == most else f'{least} to {most}'} seeds, band: 1 sd"

    def _described(self) -> str:
        """Return what the chart shows, for those who do not see it."""
        digits = self.figure.quantity.digits
        return " ".join(
            f"{row.title}: {_spread(curve, 0, digits)} in epoch {curve.epochs[0]}, "
            f"{_spread(curve, -1, digits)} in epoch {curve.epochs[-1]}."
            for row, curve in self.curves()
            if curve.epochs
        )


def _few_epochs(curves: Sequence[Sequence[int]]) -> list[int]:
    """Return epochs for a table: spread over the shortest curve, then on to the end of each longer one."""
    known = sorted({epoch for epochs in curves for epoch in epochs})
    if not known:
        return []
    chosen = [known[0]]
    for end in sorted({epochs[-1] for epochs in curves if epochs}):
        stretch = [epoch for epoch in known if chosen[-1] < epoch <= end]
        count = min(len(stretch), _FIRST_STRETCH if len(chosen) == 1 else _FURTHER_STRETCH)
        chosen += [stretch[math.ceil(k * len(stretch) / count) - 1] for k in range(1, count + 1)]
    return chosen


def _limits(figure: Figure, lines: Sequence[Line]) -> tuple[float, float] | None:
    """Return the limits of the axis where the quantity has bounds, which a band may not leave."""
    if figure.quantity.bounds is None:
        return None
    least, most = figure.quantity.bounds
    edges = [value for line in lines for value in (*line.series.values, *(line.high or ()))]
    height = min(max([*edges, *([figure.rule[0]] if figure.rule else [])]), most) - least or 1.0
    return least - 0.02 * height, least + 1.04 * height


def _spread(curve: MeanCurve, place: int, digits: int) -> str:
    return with_deviation(curve.means[place], curve.deviations[place] if curve.deviations else None, f".{digits}f")


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
