"""Reports: what is on the page, that it needs nothing but itself, and that no folder can make it do anything."""

from __future__ import annotations

import hashlib
import itertools
import json
import os

import numpy as np
import pytest
from PIL import Image

from balenas_plugin.cli import main
from balenas_plugin.errors import FileFormatError
from balenas_plugin.report import drawings, write_report
from balenas_plugin.report.plots import _STYLES, Line, Picture, line_chart, mean_and_deviation, strip_chart
from balenas_plugin.report.reading import Series, number, read_run
from balenas_plugin.report.run_pictures import quantile, run_pictures

from .report_folders import LABELS, OPERATIONS, make_run
from .report_page import draw_nothing, page_of


@pytest.fixture
def drawn() -> None:
    """Draw the pictures, which takes most of a report's time; other tests look at what stands around them."""


@pytest.fixture(autouse=True)
def _not_drawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "drawn" not in request.fixturenames:
        draw_nothing(monkeypatch)


def test_a_page_shows_the_search(tmp_path):
    page, _ = page_of(make_run(tmp_path / "mine"))
    for text in ("mine", "BaLeNAS", "finished", "93.00", "rank 7", "50% are skip connections.", "in 6 epochs"):
        assert text in page.text, text
    titles = ("Accuracy of the supernet", "which the search never sees", "How open", "Width of the posterior")
    more = ("Effective sample", "largest eigenvalue", "Skip connections", "Depth and width", "Winning probabilities")
    for title in (*titles, *more):
        assert title in page.text, title
    assert len(page.all("img")) == 1 + 9 + 6 + 6  # the cell, the epochs, probabilities, logits
    assert "strategy.name" in page.text
    assert "more than 3 of 6" in page.text  # the rule of NAS-Bench-201


def test_a_page_needs_nothing_but_itself(tmp_path):
    page, source = page_of(make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1))
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:image/svg+xml;base64,")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in source
    assert "@import" not in source
    policies = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_a_page_is_accessible(tmp_path):
    page, _ = page_of(make_run(tmp_path / "a"), make_run(tmp_path / "b", strategy="DARTS"))
    assert page.all("html")[0]["lang"] == "en"
    assert any("width=device-width" in meta.get("content", "") for meta in page.all("meta"))
    assert len(page.all("h1")) == 1
    assert all(len(image["alt"]) > 20 for image in page.all("img"))
    assert all("scope" in head for head in page.all("th"))
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    anchors = [link["href"].removeprefix("#") for link in page.all("a")]
    assert set(anchors) <= set(identifiers)
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_the_alternative_texts_say_the_numbers(tmp_path):
    run = read_run(make_run(tmp_path / "a"))
    alts = {picture.name: picture.alt for picture in run_pictures(run)}
    assert "validation: 0.0 % in epoch 0, 45.0 % in epoch 5" in alts["accuracy"]
    assert "draws: 85.00 % in epoch 0" in alts["ground_truth"]  # the median of 80 .. 90
    assert "1.000 in epoch 0, 0.408 in epoch 5" in alts["sigma"]


def test_ground_truth_can_be_hidden(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "a")
    assert "unseen" in page_of(folder)[1]
    monkeypatch.setenv("BALENAS_GROUND_TRUTH", "off")
    assert "unseen" not in page_of(folder)[1]
    assert "ground_truth" not in {picture.name for picture in run_pictures(read_run(folder))}


def test_the_same_folders_give_the_same_page(drawn, tmp_path):
    folders = [make_run(tmp_path / "a", labels={"cell/0_1": OPERATIONS})]
    pages = [page_of(*folders)[0].all("img") for _ in range(2)]
    assert pages[0] == pages[1]


def test_lines_differ_without_colour():
    assert len({(str(style), marker) for style, marker, _ in _STYLES}) == len(_STYLES)
    assert len({str(style) for style, _, _ in _STYLES}) == len(_STYLES)
    assert len({marker for _, marker, _ in _STYLES}) == len(_STYLES)

    def luminance(color: str) -> float:
        parts = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for _, _, color in _STYLES:  # WCAG 2.1 asks for 4.5 to 1 on text, and the labels have these colours
        assert 1.05 / (luminance(color) + 0.05) >= 4.5, color


def test_pictures_are_written_as_png_too(drawn, tmp_path):
    folder = make_run(tmp_path / "a", labels={"../../up": OPERATIONS, "a/b c": OPERATIONS})
    written = write_report([folder], tmp_path / "page.html", pictures=tmp_path / "pictures")
    pictures = written[1:]
    assert len(pictures) == len(set(pictures)) >= 10
    for path in pictures:
        assert path.parent == tmp_path / "pictures"
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert len(image.convert("L").getcolors(256) or range(257)) > 2  # there is something on it


def test_every_picture_has_a_file_of_its_own(tmp_path):
    labels = dict.fromkeys(("a/b", "a_b", "a b", "x" * 120 + "/1", "x" * 120 + "/2"), OPERATIONS)
    folder = make_run(tmp_path / ("n" * 120), labels=labels)
    page, _ = page_of(folder, pictures=tmp_path / "pictures")
    written = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert len(written) == len(page.all("img"))
    start = f"01_{'n' * 40}_probability_a_b"
    assert {f"{start}.png", f"{start}-2.png", f"{start}-3.png"} <= written


# -- searches of other kinds, and unfinished ones ---------------------------------------------------------------------


def test_a_run_without_diagnostics(tmp_path):
    page, _ = page_of(make_run(tmp_path / "old", diagnostics=False))
    assert "Accuracy of the supernet" in page.text  # from the history
    assert "Winning probabilities" not in page.text


def test_a_run_that_is_still_going(tmp_path):
    folder = make_run(tmp_path / "going", finished=False)
    with (folder / "diagnostics.jsonl").open("a") as file:
        file.write('{"epoch": 6, "val')  # being written
    page, _ = page_of(folder)
    assert "running" in page.text
    assert "Architectures found" not in page.text


def test_a_run_that_has_only_begun(tmp_path):
    folder = make_run(tmp_path / "new", finished=False, diagnostics=False, epochs=0)
    page, _ = page_of(folder)
    assert "no diagnostics" in page.text


def test_a_strategy_without_a_posterior(tmp_path):
    page, _ = page_of(make_run(tmp_path / "darts", strategy="DARTS"))
    assert "Width of the posterior" not in page.text
    assert {"Probability", "Scores"} <= {image["alt"].split(" ")[0] for image in page.all("img")}


def test_choices_that_are_no_cell_are_bars(tmp_path):
    page, _ = page_of(make_run(tmp_path / "a", labels={"width": ["16", "32"], "layer": ["conv", "skip"]}))
    assert any("One bar a choice" in image["alt"] for image in page.all("img"))


def test_many_choices_and_candidates_are_cut_and_said(tmp_path):
    labels = {f"layer{k}": [f"op{n}" for n in range(12)] for k in range(40)}
    page, _ = page_of(make_run(tmp_path / "a", labels=labels))
    assert "Of 40 choices the first 32 are drawn" in page.text
    (first,) = [image for image in page.all("img") if image["alt"].startswith("Logits of layer0,")]
    assert "op11" in first["alt"]
    assert "op0:" not in first["alt"]


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_statistics_against_numpy_and_the_standard_library():
    values = [3.0, 1.5, 2.25, 9.0, 4.0]
    mean, deviation = mean_and_deviation(values)
    assert (mean, deviation) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert mean_and_deviation([2.0]) == (2.0, None)
    for share in (0.0, 0.1, 0.5, 0.77, 1.0):
        assert quantile(sorted(values), share) == pytest.approx(np.quantile(values, share))


@pytest.mark.parametrize("value", [None, True, "x", [], {}, float("nan"), float("inf"), "nan", 10**400, 1e101])
def test_what_is_no_number_is_left_out(value):
    assert number(value) is None


# -- folders that somebody else has written ---------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; background: url(//evil.example/x)",
    "{{ 7919 * 7907 }} {% for x in y %}",
    r"$\frac{1}{$ \textbf{x} & % # _ ^",
    "</style></title></svg>",
    "\u202eright to left\u0000\u0007",
    "x" * 5000,
]


def test_any_text_can_be_drawn(drawn, tmp_path):
    series = Series([0, 1], [0.0, 1.0])
    lines = [Line(label=text, series=series) for text in HOSTILE]
    for draw in (line_chart(lines, unit=HOSTILE[4]), strip_chart(lines, unit="u")):
        Picture(name="x", title="x", caption="", alt="x", draw=draw).render("svg")
    labels = {f"cell/0_{k}": [text] for k, text in enumerate(HOSTILE, start=1)}
    run = read_run(make_run(tmp_path / "run", labels={**labels, **{text: ["a"] for text in HOSTILE}}))
    cell, choices = drawings.drawings_of(run)
    for svg in (cell.svg, choices.svg):
        assert b"<script" not in svg


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_nothing_in_a_folder_becomes_markup(text, tmp_path):
    folder = make_run(tmp_path / "run", labels={text: [text, "b"], "plain": [text + "1", text + "2"]})
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.update(status=text, seed=text)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    architectures = json.loads((folder / "architectures.json").read_text())
    for entry in architectures:
        entry.update(chosen_by=text, notation={text: text}, scores={text: 1.0})
    (folder / "architectures.json").write_text(json.dumps(architectures))
    lines = (folder / "diagnostics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    last.update(warnings=[{"kind": text, "message": text, "cure": text}], stopped=text, cells={text: {"depth": 1}})
    (folder / "diagnostics.jsonl").write_text("\n".join([*lines[:-1], json.dumps(last)]) + "\n")
    harmless, _ = page_of(make_run(tmp_path / "same", labels={"label": ["a", "b"], "plain": ["c", "d"]}))
    page, source = page_of(folder)
    allowed = {tag for tag, _ in harmless.elements}
    assert {tag for tag, _ in page.elements} <= allowed
    names = {name for _, attributes in harmless.elements for name in attributes}
    assert {name for _, attributes in page.elements for name in attributes} <= names
    assert str(7919 * 7907) not in page.text
    assert len(source) < 3_000_000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", "{"),
        ("manifest.json", "[]"),
        ("config.yml", "!!python/object/apply:os.system ['true']"),
        ("config.yml", "- a list"),
        ("config.yml", "seed: " + "9" * 5000),
        ("config.yml", "day: 2026-99-99"),
        ("manifest.json", '{"sessions": [], "seed": ' + "9" * 5000 + "}"),
        ("diagnostics.jsonl", '{"format": "balenas-diagnostics", "version": 1}\n{"epoch": 1' + "0" * 300 + "}\n"),
        ("config.yml", "a: [" * 3000),
        ("manifest.json", "[" * 200_000),
        ("architectures.json", "[" * 200_000),
        ("architectures.json", '[{"rank": 1}]'),
        ("diagnostics.jsonl", '{"format": "x"}\n'),
        ("diagnostics.jsonl", "[" * 100_000 + "\n"),
        ("history.csv", b"\xff\xfe\x00"),
    ],
)
def test_damaged_files_give_one_clear_message(name, content, tmp_path, capsys):
    folder = make_run(tmp_path / "run")
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["report", str(folder)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("balenas: ")
    assert name in errors
    assert "Traceback" not in errors
    assert not (folder / "report.html").exists()


def test_a_row_that_a_kill_cut_short_is_left_out(tmp_path):
    folder = make_run(tmp_path / "run", diagnostics=False, finished=False)
    whole = read_run(folder).series("val_acc")
    with (folder / "history.csv").open("a", newline="") as file:
        file.write("6,0.6,0.5")  # of 0.54
    assert read_run(folder).series("val_acc") == whole


@pytest.mark.parametrize("target", [None, "/dev/zero"], ids=["pipe", "device"])
def test_what_is_no_file_is_not_waited_for(target, tmp_path, capsys):
    folder = make_run(tmp_path / "run")
    for name in ("history.csv", "diagnostics.jsonl", "architectures.json", "config.yml", "manifest.json"):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name) if target is None else (folder / name).symlink_to(target)
        assert main(["report", str(folder)]) == 2
        assert "not a regular file" in capsys.readouterr().err


def test_a_file_that_is_not_what_the_search_wrote_is_refused(tmp_path, capsys):
    folder = make_run(tmp_path / "run")
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("history.csv", "diagnostics.jsonl", "architectures.json"):
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        (folder / "manifest.json").write_text(json.dumps({**manifest, "sha256": {name: digest}}))
        read_run(folder)
        (folder / "manifest.json").write_text(json.dumps({**manifest, "sha256": {name: digest[::-1]}}))
        assert main(["report", str(folder)]) == 2
        assert f"{name} is not what the search wrote" in capsys.readouterr().err


def test_another_folder_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "the folder of a run?" in capsys.readouterr().err
    with pytest.raises(FileFormatError):
        read_run(tmp_path / "nothing")


def test_values_of_wrong_types_are_left_out(tmp_path):
    folder = make_run(tmp_path / "run")
    lines = (folder / "diagnostics.jsonl").read_text().splitlines()
    for broken in ([], "text", {"cell/0_1": "text"}, {"cell/0_1": [None, "x", {}]}, 7, 1e308, True):
        entry = dict.fromkeys(("val_acc", "sigma", "logits", "precision", "probabilities", "cells", "draws"), broken)
        entry.update(dict.fromkeys(("ground_truth", "alarms", "eigenvalue", "architecture", "own"), broken))
        lines.append(json.dumps({"epoch": len(lines), **entry}))
    (folder / "diagnostics.jsonl").write_text("\n".join(lines) + "\n")
    architectures = json.loads((folder / "architectures.json").read_text())
    architectures += [{"rank": "x", "choices": [], "notation": [], "scores": 3, "probability": {}}]
    architectures[0].update(winning_probability=dict.fromkeys(LABELS, 7.0), ground_truth=[])
    (folder / "architectures.json").write_text(json.dumps(architectures))
    page, _ = page_of(folder)
    assert "Accuracy of the supernet" in page.text


def test_a_cell_with_a_circle_is_not_drawn(tmp_path):
    folder = make_run(tmp_path / "run")
    architectures = json.loads((folder / "architectures.json").read_text())
    circle = {"c/op_2_0": "conv", "c/input_2_0": [3], "c/op_3_0": "conv", "c/input_3_0": [2]}
    architectures[0]["choices"] = circle
    (folder / "architectures.json").write_text(json.dumps(architectures))
    page_of(folder)


def test_cells_that_are_too_large_to_draw_are_bars(tmp_path):
    folder = make_run(tmp_path / "run")
    architectures = json.loads((folder / "architectures.json").read_text())
    large = {f"large/{source}_{target}": "conv" for target in range(80) for source in range(target)}
    digits = {f"cell/{'9' * 5000}_1": "conv", f"cell/op_{'9' * 5000}_0": "conv"}
    architectures[0]["choices"] = {"small/0_1": "conv", **digits, **large}
    (folder / "architectures.json").write_text(json.dumps(architectures))
    assert [drawing.name for drawing in drawings.drawings_of(read_run(folder))] == ["cell small", "choices"]
    page_of(folder)
    architectures[0]["choices"] = {f"{number}/0_1": "conv" for number in range(3000)}
    (folder / "architectures.json").write_text(json.dumps(architectures))
    assert len(drawings.drawings_of(read_run(folder))) == 20 + 1


def test_a_file_of_many_aliases_takes_no_time(tmp_path):
    """The billion laughs, of lists and of mappings, and lists and mappings that hold themselves."""
    lines = ["a0: &a0 [lol, lol]", "b0: &b0 {x: lol}", "c: &c [*c]", "d: &d {x: *d, y: *d}"]
    for k in range(1, 11):
        lines.append(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]")
        lines.append(f"b{k}: &b{k} {{{', '.join(f'k{n}: *b{k - 1}' for n in range(10))}}}")
    folder = make_run(tmp_path / "run")
    (folder / "config.yml").write_text("\n".join(lines))
    with pytest.raises(FileFormatError, match=r"config\.yml: line \d+, column \d+: aliases"):
        read_run(folder)


def test_charts_take_one_point_and_wide_ranges(drawn):
    for values in ([0.5], [1e-9, 1e9], [0.0, 0.0], [-1e100, 1e100], [1e-300, 2e-300]):
        line = Line(label="x", series=Series(list(range(len(values))), values))
        for draw in (line_chart([line, line], unit="u"), strip_chart([line, line], unit="u")):
            picture = Picture(name="x", title="x", caption="", alt="x", draw=draw)
            assert picture.render("svg").startswith(b"<?xml")


def test_the_command_writes_beside_the_run_or_where_reported(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, other = make_run(tmp_path / "one"), make_run(tmp_path / "other", seed=1)
    assert main(["report", str(one)]) == 0
    assert (one / "report.html").exists()
    assert main(["report", str(one), str(other), "--png", "pictures"]) == 0
    assert (tmp_path / "report.html").exists()
    assert "pictures to pictures" in capsys.readouterr().out
    assert main(["report", str(one), "--output", str(tmp_path / "deep" / "page.html")]) == 0
    assert (tmp_path / "deep" / "page.html").exists()


def test_cells_of_nni_are_written_and_drawn_with_the_probability_of_each_edge(drawn, tmp_path):
    folder = make_run(tmp_path / "run", labels={"normal/2_0": ["conv", "skip"], "normal/2_1": ["conv", "skip"]})
    architectures = json.loads((folder / "architectures.json").read_text())
    skip = {"normal/op_2_0": "skip", "normal/input_2_0": [1]}
    architecture = {**skip, "normal/op_2_1": "conv", "normal/input_2_1": [0], "depth": 3}
    architectures[0].update(choices=architecture, winning_probability={"normal/2_0+normal/2_1": 0.125})
    (folder / "architectures.json").write_text(json.dumps(architectures))
    page, _ = page_of(folder)
    assert "normal |conv~0|skip~1|, depth=3" in page.text
    assert "they win everywhere" in page.text  # of a space that is not known
    cell, choices = (image["alt"] for image in page.all("img")[:2])
    assert "0 to 2: conv, probability 0.50" in cell  # of the edge, not 0.12 of the node
    assert "depth: 3" in choices
