"""The architecture of a run as pictures: its cells with winning probabilities, or one bar a choice."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balenas_plugin.errors import SpaceError
from balenas_plugin.export.drawing import Choice, DrawnEdge, draw_architecture, draw_choices
from balenas_plugin.report.reading import NOT_KNOWN, RunData, at, in_one_line, number, numbers, shortened
from balenas_plugin.search_spaces import JOINED, CellEdge, SearchSpace, cells_of, space_of_notation
from balenas_plugin.selection import RankedArchitecture

Cells = Mapping[str, Sequence[CellEdge]]

_MAX_CHOICES = 60

_MAX_CELLS, _MAX_EDGES = 20, 100
"""Cells that are drawn as graphs, and edges of each; what is more becomes bars, as choices outside cells do."""


@dataclass(frozen=True)
class Drawing:
    """A drawn cell or architecture.

    Args:
        name: for its file.
        title: what it is.
        alt: what is on it.
        svg: the picture.
        png: draws the same.
    """

    name: str
    title: str
    alt: str
    svg: bytes
    png: Callable[[], bytes]


def drawings_of(run: RunData) -> list[Drawing]:
    """Return the drawings of a run's first architecture; none if it has none that can be drawn."""
    architecture, all_cells, probabilities = _architecture(run)
    if not architecture:
        return []
    found = []
    try:
        small = [(name, edges) for name, edges in all_cells.items() if len(edges) <= _MAX_EDGES]
        cells = dict(small[:_MAX_CELLS])
        for name, edges in cells.items():
            found.append(_draw_cell(shortened(name, 40), edges, probabilities))
        drawn = {edge.label for edges in cells.values() for edge in edges}
        inputs = {_input_label(edge) for edges in cells.values() for edge in edges}
        others = {label: value for label, value in architecture.items() if label not in drawn | inputs}
        if others:
            found.append(_draw_choices(others, probabilities))
    except SpaceError:  # a file that somebody else has written may hold a circle, or a probability of 7
        return found
    return found


def _architecture(run: RunData) -> tuple[dict[str, Any], Cells, dict[str, float]]:
    """Return the architecture, its cells, and label -> probability that what it chooses wins."""
    if run.architectures:
        record: Mapping[str, Any] = run.architectures[0]
        architecture = record["choices"]
        known = record.get("winning_probability")
    else:
        record = run.records[-1] if run.records else {}
        architecture, known = record.get("architecture"), None
    if not isinstance(architecture, dict):
        return {}, {}, {}
    notation = record.get("notation")
    cells = space_of_notation(notation if isinstance(notation, dict) else ()).cells(architecture)
    edges = {edge.label: edge for cell in cells.values() for edge in cell}
    probabilities = {}
    for label, chosen in architecture.items():
        value = _learned(run, label, chosen)
        if value is None and label in edges:  # an operation of NNI's cells: how sure it is of its edge
            edge = edges[label]
            value = _learned(run, f"{label.rpartition('/')[0]}/{edge.target}_{edge.source}", edge.operation)
        if value is None and isinstance(known, dict):
            value = _winning(known, label)
        if value is not None and 0 <= value <= 1 + 1e-6:
            probabilities[label] = min(value, 1.0)
    return architecture, cells, probabilities


def _winning(by_decision: Mapping[str, object], label: str) -> float | None:
    """Return the probability of the decision that a label belongs to: its own, or its cell node's."""
    if label in by_decision:
        return number(by_decision[label])
    cell, _, entry = label.rpartition("/")  # <cell>/op_<node>_<k> or <cell>/input_<node>_<k>
    parts = entry.split("_")
    if len(parts) < 3:
        return None
    node = f"{cell}/{parts[1]}_0"
    return next((number(value) for key, value in by_decision.items() if key.split("+")[0] == node), None)


def _learned(run: RunData, label: str, chosen: object) -> float | None:
    """Return the last probability of a choice that the diagnostics know."""
    names, record = at(run.log.header, ("choices", label)), run.records[-1] if run.records else {}
    values = numbers(at(record, ("probabilities", label)))
    if isinstance(names, list) and str(chosen) in names and names.index(str(chosen)) < len(values):
        return values[names.index(str(chosen))]
    return None


def _input_label(edge: CellEdge) -> str:
    cell, _, entry = edge.label.rpartition("/")
    return f"{cell}/{entry.replace('op_', 'input_', 1)}"


def draw_found(folder: Path, name: str, found: RankedArchitecture, *, title: str) -> list[Path]:
    """Draw the cells of an architecture, each in a file; one bar a choice where the space has no notation or no cell.

    Returns:
        The files in `folder`: `name`.svg, or `name`-CELL.svg where there are several cells.
    """
    known = {label: _winning(found.winning_probability, label) for label in found.choices}
    path = folder / f"{name}.svg"
    if found.notation:
        drawn = draw_cells(path, space_of_notation(found.notation), found.choices, known, title=title)
        if drawn:
            return drawn
    choices = [Choice(label, str(found.choices[label]), p) for label, p in known.items() if p is not None]
    return [draw_choices(path, choices, title=title)]


def draw_cells(
    path: Path,
    space: SearchSpace,
    architecture: Mapping[str, Any],
    probabilities: Mapping[str, float | None] | None = None,
    *,
    title: str,
) -> list[Path]:
    """Draw the cells of an architecture, each in a file.

    Args:
        path: of the picture, ``.svg`` or ``.png``; where there are several cells, their names are put into its own.
        space: of the architecture.
        architecture: label -> choice.
        probabilities: label -> how probable the choice is; None without a search.
        title: stands above each.

    Returns:
        The files; none if the architecture has no cell.
    """
    files, cells = [], space.cells(architecture)
    searched = probabilities is not None
    for cell, edges in cells.items():
        known = probabilities or {edge.label: 1.0 for edge in edges if edge.operation != JOINED}
        part = "-" + re.sub("[^A-Za-z0-9]+", "-", cell) if len(cells) > 1 else ""
        file = path.with_name(f"{path.stem}{part}{path.suffix}")
        drawn = [
            DrawnEdge(e.source, e.target, space.drawn_names.get(e.operation, e.operation), known.get(e.label))
            for e in edges
        ]
        files.append(draw_architecture(file, drawn, title=title, searched=searched))
    return files


def _draw_cell(name: str, cell: Sequence[CellEdge], probabilities: Mapping[str, float]) -> Drawing:
    edges = [
        DrawnEdge(
            source=edge.source,
            target=edge.target,
            operation=shortened(edge.operation, 30),
            probability=probabilities.get(edge.label),
        )
        for edge in cell
    ]
    parts = [
        f"{edge.source} to {edge.target}: {edge.operation}"
        + (f", probability {edge.probability:.2f}" if edge.probability is not None else "")
        for edge in edges
    ]
    svg, png = _rendered(lambda path: draw_architecture(path, edges, title=name))
    return Drawing(f"cell {name}", name, f"Graph of the cell {name}. {'; '.join(parts)}.", svg, png)


def _draw_choices(architecture: Mapping[str, Any], probabilities: Mapping[str, float]) -> Drawing:
    choices = [
        Choice(
            label=shortened(label, 40), value=shortened(in_one_line(value), 40), probability=probabilities.get(label, 0)
        )
        for label, value in list(architecture.items())[:_MAX_CHOICES]
    ]
    parts = [f"{choice.label}: {choice.value}, probability {choice.probability:.2f}" for choice in choices]
    svg, png = _rendered(lambda path: draw_choices(path, choices, title="choices"))
    return Drawing("choices", "choices", f"One bar a choice. {'; '.join(parts)}.", svg, png)


def _rendered(draw: Callable[[Path], Path]) -> tuple[bytes, Callable[[], bytes]]:
    def rendered(kind: str) -> bytes:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # a name may hold letters that the font lacks
            return draw(Path(folder, f"drawing.{kind}")).read_bytes()

    return rendered("svg"), lambda: rendered("png")


def notation_of(record: Mapping[str, Any]) -> str:
    """Return an architecture in one line: the space's own notation, or its choices."""
    notation, architecture = record.get("notation"), record.get("choices", record.get("architecture"))
    texts: Iterator[object] = iter(notation.values() if isinstance(notation, dict) else ())
    name = next(texts, None)
    if name is None and isinstance(architecture, dict):
        name = _written(architecture)
    return shortened(str(name if name is not None else NOT_KNOWN), 600)


def _written(architecture: Mapping[str, Any]) -> str:
    """Return a sample of a space without notation: cells as |operation~input|, a plus sign between nodes."""
    cells, parts = cells_of(architecture), []
    labels = {label for cell in cells.values() for edge in cell for label in (edge.label, _input_label(edge))}
    for name, cell in cells.items():
        nodes = {edge.target: "" for edge in cell}
        for edge in cell:
            nodes[edge.target] += f"{edge.operation}~{edge.source}|"
        parts.append(f"{name} {'+'.join(f'|{text}' for text in nodes.values())}")
    parts += [f"{label}={in_one_line(value)}" for label, value in architecture.items() if label not in labels]
    return ", ".join(parts)
