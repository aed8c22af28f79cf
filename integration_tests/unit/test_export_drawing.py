"""Pictures of architectures: complete, readable without colour, and the same for the same input."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import combinations
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balenas_plugin.errors import OptionError, SpaceError
from balenas_plugin.export.cell_layout import LANE, NODE_HEIGHT, CellLayout, lay_out_cell, order_nodes
from balenas_plugin.export.drawing import Choice, DrawnEdge, draw_architecture, draw_choices

NASBENCH201 = (
    DrawnEdge(0, 1, "nor_conv_3x3", 0.97),
    DrawnEdge(0, 2, "none", 0.34),
    DrawnEdge(1, 2, "skip_connect", 0.61),
    DrawnEdge(0, 3, "nor_conv_3x3", 0.88),
    DrawnEdge(1, 3, "avg_pool_3x3", 0.27),
    DrawnEdge(2, 3, "nor_conv_1x1", 1.0),
)
DARTS = (
    DrawnEdge("c_{k-2}", 0, "sep_conv_3x3", 0.91),
    DrawnEdge("c_{k-1}", 0, "sep_conv_3x3", 0.83),
    DrawnEdge("c_{k-2}", 1, "skip_connect", 0.55),
    DrawnEdge("c_{k-1}", 1, "sep_conv_5x5", 0.42),
    DrawnEdge("c_{k-1}", 2, "dil_conv_3x3", 0.31),
    DrawnEdge(0, 2, "sep_conv_3x3", 0.66),
    DrawnEdge(0, 3, "max_pool_3x3", 0.29),
    DrawnEdge("c_{k-2}", 3, "skip_connect", 0.74),
    *(DrawnEdge(node, "c_k", "concat", None) for node in range(4)),
)
CHOICES = (Choice("layer0/kernel", "conv_3x3", 0.98), Choice("depth", "2", 0.5), Choice("width", "none", 0.0))
SVG = "{http://www.w3.org/2000/svg}"


def width(text: str) -> float:
    """A text width that is easy to compute with."""
    return 0.08 * len(text)


def label_boxes(layout: CellLayout) -> list[tuple[float, float, float, float]]:
    """Left, right, bottom and top of every label with the number under it."""
    boxes = []
    for route in layout.routes:
        if route.label is not None:
            x, y = route.label
            half = max(width(route.edge.operation), width("0.00")) / 2
            boxes.append((x - half, x + half, y - 0.21, y + 0.21))
    return boxes


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


def check_readable(layout: CellLayout) -> None:
    labels = label_boxes(layout)
    assert not [pair for pair in combinations(labels, 2) if overlap(*pair)]
    nodes = [(box.left, box.right, -NODE_HEIGHT / 2, NODE_HEIGHT / 2) for box in layout.boxes]
    assert not [(label, node) for label in labels for node in nodes if overlap(label, node)]
    verticals = [
        (a[0], b[0], min(a[1], b[1]), max(a[1], b[1]))
        for route in layout.routes
        for a, b in zip(route.points, route.points[1:], strict=False)
        if a[0] == b[0]
    ]
    assert not [(label, line) for label in labels for line in verticals if overlap(label, line)]
    runs = [
        (route.points[1][0], route.points[2][0], route.points[1][1])
        for route in layout.routes
        if len(route.points) == 4 and route.edge.probability is not None
    ]
    same_lane = [(a, b) for a, b in combinations(runs, 2) if abs(a[2] - b[2]) < LANE / 2]
    assert not [(a, b) for a, b in same_lane if a[0] < b[1] and b[0] < a[1]]


@st.composite
def cells(draw: st.DrawFn) -> list[DrawnEdge]:
    """Any acyclic graph on up to seven nodes, with parallel edges and wires to the last node."""
    pairs = st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(lambda pair: pair[0] < pair[1])
    operations = st.sampled_from(["none", "skip", "separable_convolution_7x7", ""])
    edges = [
        DrawnEdge(source, target, draw(operations), draw(st.floats(0, 1)))
        for source, target in draw(st.lists(pairs, min_size=1, max_size=14))
    ]
    return [*edges, *(DrawnEdge(node, "out", "concat", None) for node in draw(st.sets(st.integers(0, 5))))]


@settings(max_examples=200, deadline=None)
@given(cells())
def test_no_label_lies_on_another_a_node_or_a_turning_edge(edges):
    layout = lay_out_cell(edges, text_width=width)
    check_readable(layout)
    assert sorted(map(repr, (route.edge for route in layout.routes))) == sorted(map(repr, edges))
    boxes = {box.name: box for box in layout.boxes}
    for route in layout.routes:
        source, target = boxes[route.edge.source], boxes[route.edge.target]
        assert source.left <= route.points[0][0] <= source.right < target.left
        assert target.left <= route.points[-1][0] <= target.right
        assert all(end[1] * inner[1] >= 0 for end, inner in (route.points[:2], route.points[:-3:-1]))


@pytest.mark.parametrize("edges", [NASBENCH201, DARTS], ids=["nasbench201", "darts"])
def test_the_known_cells_are_readable_and_every_decision_has_a_label(edges):
    layout = lay_out_cell(edges, text_width=width)
    check_readable(layout)
    labelled = [route.edge for route in layout.routes if route.label is not None]
    assert [edge for edge in edges if edge.probability is not None and edge not in labelled] == []
    assert sum(edge.operation == "concat" for edge in labelled) == (1 if edges is DARTS else 0)


def test_nodes_stand_in_the_order_of_the_computation():
    assert order_nodes(NASBENCH201) == [0, 1, 2, 3]
    assert order_nodes(DARTS) == ["c_{k-2}", "c_{k-1}", 0, 1, 2, 3, "c_k"]
    assert order_nodes([DrawnEdge(3, 10, "a", 1.0), DrawnEdge("in", 3, "a", 1.0), DrawnEdge("in", 2, "a", 1.0)]) == [
        "in",
        2,
        3,
        10,
    ]


@pytest.mark.parametrize("edges", [NASBENCH201, DARTS], ids=["nasbench201", "darts"])
def test_svg_holds_every_operation_with_its_probability(edges, tmp_path):
    text = draw_architecture(tmp_path / "new" / "cell.svg", edges, title="A <cell> & its $posterior$").read_text()
    ElementTree.fromstring(text)
    drawn = re.findall(r"<!-- (.*?) -->", text)
    for edge in edges:
        if edge.probability is not None:
            assert drawn.count(edge.operation) == sum(other.operation == edge.operation for other in edges)
            assert f"{edge.probability:.2f}" in drawn
    assert {str(edge.source) for edge in edges} <= set(drawn)
    assert "A &lt;cell&gt; &amp; its $posterior$" in drawn


def line_styles(text: str) -> list[dict[str, str]]:
    """The style of every grey line (edges, without the white ones under them) in an SVG."""
    root = ElementTree.fromstring(text)
    styles = [
        dict(item.split(": ") for item in element.get("style").split("; "))
        for element in root.iter(f"{SVG}path")
        if "fill: none" in element.get("style", "")
    ]
    return [style for style in styles if style.get("stroke") not in (None, "#ffffff")]


def test_probability_is_width_and_shade_and_no_connection_is_dashed(tmp_path):
    edges = [DrawnEdge(0, 1, "a", 0.2), DrawnEdge(0, 2, "b", 0.9), DrawnEdge(1, 2, "none", 0.9)]
    styles = line_styles(draw_architecture(tmp_path / "cell.svg", edges, title="").read_text())
    solid = [style for style in styles if "stroke-dasharray" not in style]
    dashed = [style for style in styles if "stroke-dasharray" in style]
    assert (len(solid), len(dashed)) == (2, 1)
    weak, strong = sorted(solid, key=lambda style: float(style.get("stroke-width", 1)))
    assert float(strong["stroke-width"]) > 2 * float(weak["stroke-width"])
    assert int(strong["stroke"][1:3], 16) < int(weak["stroke"][1:3], 16)
    assert all(len(set(re.findall("..", style["stroke"][1:]))) == 1 for style in styles)  # grey


def test_bars_say_what_was_chosen_and_how_probable_it_was(tmp_path):
    text = draw_choices(tmp_path / "bars.svg", CHOICES, title="Rank 1").read_text()
    drawn = re.findall(r"<!-- (.*?) -->", text)
    for choice in CHOICES:
        assert choice.label in drawn
        assert f"{choice.probability:.2f}  {choice.value}" in drawn


def write_all(folder, suffix: str) -> list[bytes]:
    return [
        draw_architecture(folder / f"cell{suffix}", NASBENCH201, title="A cell").read_bytes(),
        draw_choices(folder / f"bars{suffix}", CHOICES, title="Bars").read_bytes(),
    ]


@pytest.mark.parametrize("suffix", [".svg", ".png", ".SVG"])
def test_same_bytes_whatever_the_settings_and_these_stay(suffix, tmp_path):
    first = write_all(tmp_path / "first", suffix)
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.hashsalt": "other", "figure.facecolor": "red"}):
        assert write_all(tmp_path / "second", suffix) == first
        assert mpl.rcParams["font.size"] == 30
        assert mpl.rcParams["svg.hashsalt"] == "other"
    assert all(content.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml") for content in first)
    assert not [word for content in first for word in (b"dc:date", b"Matplotlib v", b"Software") if word in content]


def test_same_bytes_in_another_process_and_pyplot_is_left_alone(tmp_path):
    code = (
        "import sys; from pathlib import Path; from balenas_plugin.export.drawing import *; "
        f"draw_architecture(Path(sys.argv[1]), [{', '.join(map(repr, NASBENCH201))}], title='A cell'); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there.svg")], check=True)
    here = draw_architecture(tmp_path / "here.svg", NASBENCH201, title="A cell")
    assert (tmp_path / "there.svg").read_bytes() == here.read_bytes()


def test_a_long_title_is_broken_into_lines(tmp_path):
    words = [f"word{number}" for number in range(60)]
    text = draw_architecture(tmp_path / "cell.svg", NASBENCH201, title=" ".join(words)).read_text()
    lines = [line for line in re.findall(r"<!-- (.*?) -->", text) if line.startswith("word")]
    assert len(lines) > 3
    assert " ".join(lines).split() == words


def test_a_notation_is_broken_between_its_operations(tmp_path):
    notation = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_3x3~0|avg_pool_3x3~1|nor_conv_1x1~2|"
    text = draw_architecture(tmp_path / "cell.svg", NASBENCH201, title=notation).read_text()
    lines = [line for line in re.findall(r"<!-- (.*?) -->", text) if "~" in line]
    assert len(lines) > 1
    assert "".join(lines) == notation
    assert all(line.endswith("|") for line in lines)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([], "without an edge"),
        ([DrawnEdge(0, 1, "a", 1.0), DrawnEdge(1, 2, "a", 1.0), DrawnEdge(2, 1, "a", 1.0)], "circle.*: 1, 2$"),
        ([DrawnEdge(1, 1, "a", 1.0)], "circle.*: 1$"),
        ([DrawnEdge(0, 1, "a", 1.2)], r"edge 0 -> 1 is 1.2; it must be from 0 to 1"),
        ([DrawnEdge(0, 1, "a", float("nan"))], r"edge 0 -> 1 is nan"),
    ],
)
def test_a_cell_that_cannot_be_drawn_is_refused(edges, message, tmp_path):
    with pytest.raises(SpaceError, match=message):
        draw_architecture(tmp_path / "cell.png", edges, title="")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("probability", "text"), [(1 + 1e-9, "1.00"), (-1e-9, "0.00")])
def test_a_probability_that_is_off_by_rounding_is_drawn(probability, text, tmp_path):
    cell = draw_architecture(tmp_path / "cell.svg", [DrawnEdge(0, 1, "a", probability)], title="").read_text()
    bars = draw_choices(tmp_path / "bars.svg", [Choice("a", "b", probability)], title="").read_text()
    assert f"<!-- {text} -->" in cell
    assert f"<!-- {text}  b -->" in bars


def test_bars_of_nothing_or_of_impossible_numbers_are_refused(tmp_path):
    with pytest.raises(SpaceError, match="without a choice"):
        draw_choices(tmp_path / "bars.png", [], title="")
    with pytest.raises(SpaceError, match=r"choice depth is -0\.1"):
        draw_choices(tmp_path / "bars.png", [Choice("depth", "2", -0.1)], title="")


@pytest.mark.parametrize("name", ["cell", "cell.pdf", ".svg"])
def test_another_kind_of_picture_is_refused(name, tmp_path):
    with pytest.raises(OptionError, match=r"must end in \.svg or \.png"):
        draw_architecture(tmp_path / name, NASBENCH201, title="")
    with pytest.raises(OptionError, match=r"must end in \.svg or \.png"):
        draw_choices(tmp_path / name, CHOICES, title="")
