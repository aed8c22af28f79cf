"""Draw an architecture: a cell as a graph, anything else as one bar for each choice.

Pictures are black and white in meaning: probability is the width and the shade of a line, and stands beside it as a
number; an edge that is no connection is dashed. The same input gives the same SVG, byte for byte, whatever the user's
matplotlib settings are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextToPath

from balenas_plugin.errors import OptionError, SpaceError
from balenas_plugin.export.cell_layout import NODE_HEIGHT, Box, CellLayout, DrawnEdge, Route, lay_out_cell
from balenas_plugin.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Choice", "DrawnEdge", "draw_architecture", "draw_choices"]

_POINTS = 72.0
_SIZE, _TITLE_SIZE, _NOTE_SIZE = 9.0, 11.0, 7.5
_MARGIN = 0.3
_DPI = 150
_CORNER = 0.12
_NARROWEST = 4.0
_ROW, _BAR = 0.3, 3.0
_ROUNDING = 1e-6
"""How far a probability that was computed numerically may lie outside 0 to 1."""


@dataclass(frozen=True)
class Choice:
    """A choice that a search has made: its label, the value that won, and the probability that it wins."""

    label: str
    value: str
    probability: float


def draw_architecture(path: Path, edges: Sequence[DrawnEdge], *, title: str, searched: bool = True) -> Path:
    """Draw a cell: one arrow an edge with its operation and the probability that the operation wins.

    Args:
        path: the picture, ``.svg`` or ``.png``; folders are made, a picture that is there is replaced.
        edges: of the cell, in any order.
        title: stands above; it is broken into lines where it is long.
        searched: whether probabilities are written: without a search there are none.

    Returns:
        `path`.

    Raises:
        OptionError: the suffix of `path` is another one.
        SpaceError: there is no edge, they form a circle, or a probability is not from 0 to 1.
        StorageError: the file could not be written.
    """
    _check(path, [(f"edge {edge.source} -> {edge.target}", edge.probability) for edge in edges])
    with _settings():
        layout = lay_out_cell(edges, text_width=_text_width)
        note = "Width and shade of a line: the probability that its operation wins (the number). " if searched else ""
        if any(edge.operation == "none" for edge in edges):
            note += "Dashed: no connection."
        width = layout.boxes[-1].right
        figure, axes = _page(title, note, width=width, top=layout.top + 0.25, bottom=layout.bottom - 0.25)
        _draw_cell(axes, layout, searched=searched)
        return _save(figure, path)


def draw_choices(path: Path, choices: Sequence[Choice], *, title: str) -> Path:
    """Draw an architecture that is not a cell: one bar a choice, as long as its value is probable.

    Args:
        path: the picture, ``.svg`` or ``.png``; folders are made, a picture that is there is replaced.
        choices: from top to bottom.
        title: stands above; it is broken into lines where it is long.

    Returns:
        `path`.

    Raises:
        OptionError: the suffix of `path` is another one.
        SpaceError: there is no choice, or a probability is not from 0 to 1.
        StorageError: the file could not be written.
    """
    _check(path, [(f"choice {choice.label}", choice.probability) for choice in choices])
    if not choices:
        raise SpaceError("an architecture without a choice was given; there is nothing to draw")
    with _settings():
        left = max(_text_width(choice.label) for choice in choices) + 0.12
        right = max(_text_width(choice.value) for choice in choices) + 0.12
        note = "Length of a bar: the probability that the value beside it wins (the number)."
        width = left + _BAR + right + _text_width(" 0.00")
        figure, axes = _page(title, note, width=width, top=_ROW / 2, bottom=-_ROW * (len(choices) - 0.5))
        for row, choice in enumerate(choices):
            _draw_choice(axes, choice, left=left, height=-_ROW * row)
        return _save(figure, path)


def _check(path: Path, probabilities: Sequence[tuple[str, float | None]]) -> None:
    if path.suffix.lower() not in _CANVASES:
        raise OptionError(
            f"a picture cannot be written to {path.name!r}: its name must end in {' or '.join(_CANVASES)}"
        )
    for what, probability in probabilities:
        if probability is not None and not -_ROUNDING <= probability <= 1 + _ROUNDING:
            raise SpaceError(f"the probability of {what} is {probability!r}; it must be from 0 to 1")


@contextmanager
def _settings() -> Iterator[None]:
    """Use matplotlib's own defaults, not the user's, and names in SVG that do not depend on chance."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams["svg.hashsalt"] = "balenas-plugin"
        yield


def _text_width(text: str, size: float = _SIZE, *, bold: bool = False) -> float:
    """Return the width of `text` in inches."""
    font = FontProperties(size=size, weight="bold" if bold else "normal")
    width, _, _ = TextToPath().get_text_width_height_descent(text, font, ismath=False)
    return float(width) / _POINTS


def _page(title: str, note: str, *, width: float, top: float, bottom: float) -> tuple[Figure, Axes]:
    """Return a figure whose axes measure inches, with `title` above and `note` below the given extent."""
    width = max(_NARROWEST, width, *(_text_width(piece, _TITLE_SIZE, bold=True) for piece in _pieces(title)))
    titles = _wrapped(title, width, _TITLE_SIZE, bold=True)
    notes = _wrapped(note, width, _NOTE_SIZE)
    title_line, note_line = 1.4 * _TITLE_SIZE / _POINTS, 1.4 * _NOTE_SIZE / _POINTS
    upper, lower = top + 0.15 + title_line * len(titles), bottom - 0.15 - note_line * len(notes)
    size = (width + 2 * _MARGIN, upper - lower + 2 * _MARGIN)
    figure = Figure(figsize=size, dpi=_DPI, facecolor="white")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(-_MARGIN, width + _MARGIN)
    axes.set_ylim(lower - _MARGIN, upper + _MARGIN)
    axes.set_axis_off()
    for row, line in enumerate(titles):
        _write(axes, 0, upper - title_line * (row + 0.5), line, size=_TITLE_SIZE, weight="bold", align="left")
    for row, line in enumerate(notes):
        _write(axes, 0, lower + note_line * (len(notes) - row - 0.5), line, size=_NOTE_SIZE, align="left")
    return figure, axes


def _pieces(text: str) -> list[str]:
    """Return `text` cut where a line may break: after spaces, and the signs of the notations of architectures."""
    return re.split(r"(?<=[\s|+,;/])(?=[^\s|+,;/])", " ".join(text.split()))


def _wrapped(text: str, width: float, size: float, *, bold: bool = False) -> list[str]:
    """Return `text` in lines of at most `width` inches; a piece that is wider has a line of its own."""
    lines = [""]
    for piece in _pieces(text):
        if lines[-1] and _text_width((lines[-1] + piece).rstrip(), size, bold=bold) > width:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines if line.strip()]


def _write(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    *,
    size: float = _SIZE,
    weight: str = "normal",
    align: str = "center",
    over: str = "center",
) -> None:
    axes.text(
        x,
        y,
        text,
        fontsize=size,
        fontweight=weight,
        horizontalalignment=align,
        verticalalignment=over,
        parse_math=False,
        zorder=4,
    )


def _draw_cell(axes: Axes, layout: CellLayout, *, searched: bool) -> None:
    for route in sorted(layout.routes, key=lambda route: route.edge.probability or 0):
        _draw_route(axes, route, searched)
    for box in layout.boxes:
        _draw_box(axes, box)


def _draw_box(axes: Axes, box: Box) -> None:
    patch = FancyBboxPatch(
        (box.left, -NODE_HEIGHT / 2),
        box.width,
        NODE_HEIGHT,
        boxstyle="round,pad=0,rounding_size=0.08",
        facecolor="0.9" if box.is_end else "white",
        edgecolor="black",
        linewidth=1.2,
        zorder=3,
    )
    axes.add_patch(patch)
    _write(axes, box.left + box.width / 2, 0, str(box.name), size=_SIZE + 1)


def _draw_route(axes: Axes, route: Route, searched: bool) -> None:
    edge, dead = route.edge, route.edge.operation == "none"
    probability = 0.15 if edge.probability is None else edge.probability
    width = 1.0 if dead else 0.8 + 2.6 * probability
    outline = _rounded(route.points)
    strokes = [(_shade(probability), width, "--" if dead else "-")]
    if edge.probability is not None:
        strokes.insert(0, ("white", width + 3, "-"))  # shows which of two crossing edges is whole
    for color, linewidth, style in strokes:
        arrow = FancyArrowPatch(
            path=outline,
            arrowstyle="-" if color == "white" else "-|>",
            mutation_scale=11,
            color=color,
            linewidth=linewidth,
            linestyle=style,
            capstyle="butt",
            joinstyle="miter",
            zorder=1 + probability,
        )
        axes.add_patch(arrow)
    if route.label is not None:
        x, y = route.label
        _write(axes, x, y + 0.05, edge.operation, over="bottom")
        if searched and edge.probability is not None:
            _write(axes, x, y - 0.05, f"{abs(edge.probability):.2f}", over="top")


def _rounded(points: Sequence[tuple[float, float]]) -> Outline:
    """Return the line through `points` with its corners rounded."""
    vertices, codes = [points[0]], [Outline.MOVETO]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        vertices += [_towards(corner, before), corner, _towards(corner, after)]
        codes += [Outline.LINETO, Outline.CURVE3, Outline.CURVE3]
    return Outline([*vertices, points[-1]], [*codes, Outline.LINETO])


def _towards(start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    share = min(_CORNER / math.dist(start, end), 0.5)
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])


def _shade(probability: float) -> str:
    """Return the grey of a probability, black for 1."""
    return f"{0.6 * max(1 - probability, 0):.3f}"


def _draw_choice(axes: Axes, choice: Choice, *, left: float, height: float) -> None:
    bottom, thick = height - 0.3 * _ROW, 0.6 * _ROW
    axes.add_patch(Rectangle((left, bottom), _BAR, thick, facecolor="white", edgecolor="0.5", linewidth=0.8))
    axes.add_patch(Rectangle((left, bottom), _BAR * choice.probability, thick, facecolor=_shade(choice.probability)))
    _write(axes, left - 0.12, height, choice.label, align="right")
    _write(axes, left + _BAR + 0.08, height, f"{abs(choice.probability):.2f}  {choice.value}", align="left")


_CANVASES = {".svg": FigureCanvasSVG, ".png": FigureCanvasAgg}


def _save(figure: Figure, path: Path) -> Path:
    kind = path.suffix.lower()
    _CANVASES[kind](figure)
    metadata = {"Date": None, "Creator": None} if kind == ".svg" else {"Software": None}
    write_atomically(path, lambda file: figure.savefig(file, format=kind[1:], dpi=_DPI, metadata=metadata))
    return path
