"""Figures of a reproduction: which numbers they read of diagnostics, how they average them, what they write."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import statistics
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from balenas_plugin.benchmarks import open_benchmark
from balenas_plugin.benchmarks.measures import COLUMN
from balenas_plugin.benchmarks.table_benchmark import TableBenchmark
from balenas_plugin.cli import build_parser
from balenas_plugin.diagnostics import read_log
from balenas_plugin.diagnostics.log_file import append_record, write_log
from balenas_plugin.errors import DataError, FileFormatError, OptionError, SpaceError
from balenas_plugin.report.plots import Line, Picture, line_chart
from balenas_plugin.report.reading import Series
from balenas_plugin.reproduce.charts import Chart, mean_curve
from balenas_plugin.reproduce.family import EXPERIMENTS
from balenas_plugin.reproduce.figures import EIGENVALUE, FIGURES, SKIP_RATIO, TEST_ERROR, values_of
from balenas_plugin.reproduce.run import experiment_of, reproduce
from balenas_plugin.reproduce.scales import SCALES, Scale, load_scale
from balenas_plugin.reproduce.searches import searches_of
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.search_spaces.nasbench1shot1 import SPACES
from balenas_plugin.search_spaces.nasbench1shot1.nasbench101_files import Trained, write_modules
from balenas_plugin.selection.supernet_accuracy import Supernet

GOOD, POOR = (f"|{name}~0|+|{name}~0|{name}~1|+|{name}~0|{name}~1|{name}~2|" for name in ("nor_conv_3x3", "none"))
PER_SEED = {0: {0: 10.0, 1: 20.0, 2: 30.0}, 1: {0: 20.0, 1: 40.0, 2: 30.0}, 2: {0: 30.0, 1: 60.0, 2: 33.0}}
SCALE = """
common:
  data: {name: digits}
  evaluator: {epochs: 4}
  diagnostics: {curvature_every_n_epochs: 2}
searches:
  darts: {strategy: DARTS}
  darts-long: {strategy: DARTS, evaluator: {epochs: 8}}
  gumbel-darts: {strategy: GumbelDARTS}
  balenas-m1: {strategy: {name: BaLeNAS, num_mc_samples: 1}}
  balenas: {strategy: {name: BaLeNAS, num_mc_samples: 3}}
"""

SHOT_SCALE = """
common: {data: {name: digits}, evaluator: {epochs: 4}, space: {name: NasBench201, stem_out_channels: 4}}
searches: {darts-1shot1: {strategy: DARTS, space: {name: nasbench1shot1-3, channels: 2}}}
"""


@pytest.fixture
def benchmark() -> TableBenchmark:
    """Two architectures."""
    columns = {COLUMN["cifar10", "test_accuracy"]: np.array([94.0, 10.0])}
    return TableBenchmark(name="two", architectures=[GOOD, POOR], columns=columns)


def record(epoch: int, **numbers: Any) -> dict[str, Any]:
    return {"epoch": epoch, **numbers}


def figure(name: str, results: Mapping[str, Any], methods: Sequence[str] | None = None) -> Chart:
    return Chart(FIGURES[name].with_methods(methods), results, {"scale": "tiny"})


# -- the values of one search -----------------------------------------------------------------------------------------


def test_the_test_error_is_looked_up_whatever_the_file_says_of_it(benchmark: TableBenchmark) -> None:
    reported = {"unseen_by_search": True, "accuracy": {"cifar10": 50.0}}
    records = [
        record(0, notation={"nasbench201": POOR}),
        record(1, notation={"nasbench201": GOOD}, ground_truth=reported),
        record(2, notation={}),
    ]
    assert values_of(TEST_ERROR, records, benchmark) == {0: 90.0, 1: 6.0}


def test_an_architecture_that_is_none_is_refused(benchmark: TableBenchmark) -> None:
    with pytest.raises(SpaceError):
        values_of(TEST_ERROR, [record(0, notation={"nasbench201": "|none~0|"})], benchmark)
    unknown = GOOD.replace("nor_conv_3x3~2", "skip_connect~2")
    with pytest.raises(DataError, match="two"):
        values_of(TEST_ERROR, [record(0, notation={"nasbench201": unknown})], benchmark)


def test_skips_are_percent_and_what_is_no_number_is_left_out() -> None:
    records = [record(0, skip_ratio=0.5), record(1, skip_ratio=None), record(2), record(3, skip_ratio="much")]
    assert values_of(SKIP_RATIO, records, None) == {0: 50.0}


def test_eigenvalues_are_of_the_epochs_that_measured_them() -> None:
    records = [record(e, **({"eigenvalue": -0.1 * e} if e % 2 else {})) for e in range(6)]
    assert values_of(EIGENVALUE, records, None) == pytest.approx({1: -0.1, 3: -0.3, 5: -0.5})


def test_a_resumed_file_with_an_epoch_twice_and_a_line_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "diagnostics.jsonl"
    write_log(path, {}, [record(0, skip_ratio=0.0), record(1, skip_ratio=0.5)])
    append_record(path, record(1, skip_ratio=0.25))
    append_record(path, record(2, skip_ratio=1.0))
    with path.open("a", encoding="utf-8") as file:
        file.write('{"epoch":3,"skip_ra')
    assert values_of(SKIP_RATIO, read_log(path).records, None) == {0: 0.0, 1: 25.0, 2: 100.0}


# -- the mean over seeds ----------------------------------------------------------------------------------------------


def test_means_and_deviations_are_over_seeds() -> None:
    curve = mean_curve(PER_SEED)
    assert (curve.epochs, curve.seeds) == ([0, 1, 2], 3)
    assert curve.means == pytest.approx([20.0, 40.0, 31.0])
    assert curve.deviations == pytest.approx([10.0, 20.0, statistics.stdev([30.0, 30.0, 33.0])])


def test_the_mean_is_of_epochs_that_all_seeds_have() -> None:
    curve = mean_curve({0: {0: 1.0, 1: 2.0, 2: 3.0}, 1: {0: 3.0, 2: 5.0}, 2: {}})
    assert (curve.epochs, curve.means, curve.seeds) == ([0, 2], [2.0, 4.0], 2)


def test_one_seed_has_no_band_and_none_has_no_curve() -> None:
    curve = mean_curve({5: {0: 1.0, 4: 2.0}})
    assert (curve.epochs, curve.means, curve.deviations, curve.seeds) == ([0, 4], [1.0, 2.0], [], 1)
    assert mean_curve({}).epochs == mean_curve({0: {}}).epochs == []


def test_the_band_is_one_deviation_to_each_side() -> None:
    (line,) = figure("fig2", {"DARTS 1st": PER_SEED})._lines()
    assert line.series.values == pytest.approx([20.0, 40.0, 31.0])
    assert line.low is not None
    assert line.high is not None
    assert (line.low[:2], line.high[:2]) == (pytest.approx([10.0, 20.0]), pytest.approx([30.0, 60.0]))


# -- what is written --------------------------------------------------------------------------------------------------


def test_markdown_has_a_few_epochs_and_says_what_was_not_run() -> None:
    shorter = {seed: {e: 10.0 * seed + e for e in range(15)} for seed in (0, 1)}
    longer = {0: {e: float(e) for e in range(40)}}
    text = figure("fig2", {"DARTS 1st": shorter, "DARTS 1st, longer": longer}).markdown()
    head = next(line for line in text.splitlines() if "seeds |" in line)
    assert re.findall(r"epoch (\d+)", head) == ["0", "4", "7", "11", "14", "27", "39"]
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert rows["DARTS 1st"].startswith("| DARTS 1st | 2 | 5.0_±_7.1 | 9.0_±_7.1 |".replace("_", "\N{NO-BREAK SPACE}"))
    assert rows["DARTS 1st"].endswith("| 19.0_±_7.1 | \N{EN DASH} | \N{EN DASH} |".replace("_", "\N{NO-BREAK SPACE}"))
    assert rows["DARTS 1st, longer"].endswith("| 14.0 | 27.0 | 39.0 |")
    assert rows["BaLeNAS, M = 1"] == "| BaLeNAS, M = 1 | 0 |" + " not run |" * 7
    assert "(fig2.svg)" in text
    assert "- scale: tiny" in text


def test_a_search_that_measured_nothing_is_no_search_that_was_not_run() -> None:
    text = figure("fig3", {"DARTS 1st": {0: {1: 0.5}}, "BaLeNAS 1st": {0: {}}}).markdown()
    assert "| DARTS 1st | 1 | 0.5000 |" in text
    assert "| BaLeNAS 1st | 0 | \N{EN DASH} |" in text


def test_the_first_figure_says_that_its_benchmark_is_another() -> None:
    chart = figure("fig1-nb201", {"GumbelDARTS": PER_SEED})
    head = chart.markdown().partition("| ")[0]
    assert "Anytime test error on NAS-Bench-201" in head
    assert "NAS-Bench-1Shot1" in head
    assert any("NAS-Bench-1Shot1" in note for note in chart.to_dict()["notes"])
    picture = chart.picture()
    assert picture is not None
    svg = picture.render("svg").decode()
    assert "<!-- Anytime test error on NAS-Bench-201 -->" in svg  # so matplotlib says what it drew as outlines
    assert "NAS-Bench-1Shot1. Mean of 3 seeds, band: 1 sd -->" in svg


def test_csv_and_json_hold_every_seed_and_epoch(tmp_path: Path) -> None:
    uneven = {**PER_SEED, 10: {0: 1.0}}
    chart = figure("fig1-nb201", {"GumbelDARTS": uneven, "DARTS 1st": {3: {0: 45.6789}}})
    assert {path.name for path in chart.write(tmp_path)} == {
        f"fig1-nb201.{kind}" for kind in ("md", "csv", "json", "svg", "png")
    }
    rows = list(csv.DictReader(io.StringIO((tmp_path / "fig1-nb201.csv").read_text())))
    assert list(rows[0].values()) == ["DARTS 1st", "3", "0", "45.6789"]
    assert {(int(r["seed"]), int(r["epoch"])): float(r["value"]) for r in rows if r["row"] == "GumbelDARTS"} == {
        (seed, epoch): value for seed, values in uneven.items() for epoch, value in values.items()
    }
    document = json.loads((tmp_path / "fig1-nb201.json").read_text())
    named = replace(chart, name="mine")
    assert {path.stem for path in named.write(tmp_path / "named")} == {"mine"}
    assert "](mine.svg)" in named.markdown()
    gdas = next(row for row in document["rows"] if row["title"] == "GumbelDARTS")
    assert gdas["seeds"]["2"] == {"epochs": [0, 1, 2], "values": [30.0, 60.0, 33.0]}
    assert gdas["mean"]["epochs"] == [0]
    assert gdas["mean"]["values"] == [pytest.approx(61 / 4)]
    assert document["rows"][-1]["seeds"] == {}
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        f"fig1-nb201.{kind}" for kind in ("md", "csv", "json", "svg", "png")
    }


def test_the_picture_is_the_same_every_time_and_goes_with_its_data(tmp_path: Path) -> None:
    chart = figure("fig2", {"DARTS 1st": PER_SEED, "BaLeNAS, M = 3": {0: {0: 0.0, 1: 0.0}}})
    for path in (tmp_path / "one", tmp_path / "other"):
        chart.write(path)
    for kind in ("svg", "png"):
        assert (tmp_path / "one" / f"fig2.{kind}").read_bytes() == (tmp_path / "other" / f"fig2.{kind}").read_bytes()
    with Image.open(tmp_path / "one" / "fig2.png") as image:
        assert image.size == (896, 576)
    assert figure("fig2", {}).write(tmp_path / "one")[-1].name == "fig2.json"
    assert not list((tmp_path / "one").glob("fig2.[sp]*g"))


def test_long_labels_and_headings_have_room() -> None:
    """Nothing that is written sticks out of the picture."""
    outside = []

    def measured(draw: Any) -> Any:
        def measuring(drawn: Any) -> None:
            draw(drawn)
            drawn.canvas.draw()  # which puts the labels of axes in their places
            width, height = drawn.get_size_inches() * drawn.dpi
            (axes,) = drawn.axes
            for text in (*drawn.texts, *axes.texts, axes.xaxis.label, axes.yaxis.label):
                box = text.get_window_extent()
                if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height:
                    outside.append(text.get_text())

        return measuring

    for name, entry in FIGURES.items():
        picture = figure(
            name, {row.title: {s: {0: 10.0 * s, 5: 20.0} for s in range(12)} for row in entry.rows}
        ).picture()
        assert picture is not None
        Picture(name=name, title="", caption="", alt="", draw=measured(picture.draw), size=picture.size).render("png")
    lines = [Line(label="BaLeNAS, M = 3, longer than can be shown", series=Series([0, k], [1.0, 2.0])) for k in (3, 9)]
    Picture(name="x", title="", caption="", alt="", draw=measured(line_chart(lines, unit="1"))).render("png")
    assert outside == []


# -- which searches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
def test_figures_draw_searches_of_the_tables(scale: str) -> None:
    of_tables = {row.search for experiment in EXPERIMENTS.values() for row in experiment.rows}
    loaded = load_scale(scale)
    for entry in FIGURES.values():
        assert {row.search for row in entry.rows} <= of_tables or entry.beside is not None
        entry.require_measured([loaded.config(row.search, 0) for row in entry.rows])
    options = loaded.config("darts", 0).diagnostics
    assert loaded.config("darts", 0).evaluator.epochs // options.curvature_every_n_epochs >= 3


def test_the_command_line_offers_all_of_them() -> None:
    for name in (*EXPERIMENTS, *FIGURES):
        assert build_parser().parse_args(["reproduce", name]).experiment == name


def test_methods_choose_curves() -> None:
    some = experiment_of("fig2", ["darts", "balenas-m1"])
    assert [row.title for row in some.rows] == ["DARTS 1st", "BaLeNAS, M = 1"]
    with pytest.raises(OptionError, match=r"fig3 has no method 'gumbel-darts'.* Its methods: darts, balenas"):
        experiment_of("fig3", ["gumbel-darts"])


@pytest.mark.parametrize(
    ("name", "added", "message"),
    [
        ("fig1-nb201", "diagnostics: false", "search darts of the scale writes no diagnostics"),
        ("fig2", "diagnostics: {enabled: false}", "fig2 cannot be drawn"),
        ("fig3", "diagnostics: {curvature: off}", "does not measure the curvature"),
        ("fig3", "diagnostics: {curvature_every_n_epochs: 5}", "to 4 at most, got 5"),
        ("fig1-nb201", "space: DartsSpace", "searches the space DartsSpace"),
    ],
)
def test_searches_that_do_not_write_what_is_drawn_are_refused_before_they_run(
    name: str, added: str, message: str, tmp_path: Path
) -> None:
    scale = scale_of(tmp_path, SCALE.replace("  diagnostics: {curvature_every_n_epochs: 2}", f"  {added}"))
    with pytest.raises(OptionError, match=message):
        reproduce(FIGURES[name], scale, [0], tmp_path / "out", table=None, jobs=1, supernet_of=no_supernet)
    assert not (tmp_path / "out").exists()


def scale_of(folder: Path, text: str = SCALE) -> Scale:
    (folder / "tiny.yml").write_text(text)
    return load_scale(str(folder / "tiny.yml"))


def no_supernet(folder: RunFolder) -> Supernet:
    """A figure chooses nothing, so it opens no supernet."""
    raise AssertionError(folder)


@pytest.fixture
def searched(tmp_path: Path) -> tuple[Scale, Path]:
    """Finished searches of two seeds, as the tables' would be, with numbers that are functions of seed and epoch."""
    scale, output = scale_of(tmp_path), tmp_path / "out"
    configs = [scale.config(name, seed) for name in scale.searches for seed in (0, 1)]
    for search in searches_of(output, configs):
        search.folder.path.mkdir(parents=True)
        search.folder.config.write_text(search.config.to_yaml())
        search.folder.manifest.write_text(json.dumps({"status": "finished", "sessions": []}))
        records = [
            record(e, skip_ratio=(e + search.config.seed) / 10, **({"eigenvalue": 0.5 * e} if e % 2 else {}))
            for e in range(search.config.evaluator.epochs)
        ]
        write_log(search.folder.diagnostics, {}, records)
    return scale, output


def test_a_figure_is_drawn_from_searches_that_have_ended_and_runs_none(
    searched: tuple[Scale, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BALENAS_DATA", raising=False)  # which fig2 and fig3 do not need
    scale, output = searched
    before = sorted((output / "searches").rglob("*"))
    found, files = reproduce(FIGURES["fig2"], scale, [0, 1], output, table=None, jobs=1, supernet_of=no_supernet)
    curves = {row.title: curve for row, curve in found.curves()}
    assert curves["DARTS 1st, longer"].epochs == list(range(8))
    assert curves["BaLeNAS, M = 1"].means == pytest.approx([5.0, 15.0, 25.0, 35.0])
    assert curves["BaLeNAS, M = 1"].deviations == pytest.approx([statistics.stdev([0.0, 10.0])] * 4)
    assert all(path.stat().st_size > 0 for path in files)
    found, _ = reproduce(FIGURES["fig3"], scale, [0, 1], output, table=None, jobs=1, supernet_of=no_supernet)
    assert {row.title: curve.means for row, curve in found.curves()} == {
        "DARTS 1st": [0.5, 1.5],
        "BaLeNAS 1st": [0.5, 1.5],
    }
    assert found.about["ground truth"] == "none: nothing is looked up"
    assert sorted((output / "searches").rglob("*")) == before


def test_the_first_figure_looks_up_what_ships(searched: tuple[Scale, Path]) -> None:
    scale, output = searched
    for name, architecture in (("darts", POOR), ("gumbel-darts", GOOD), ("balenas", GOOD)):
        log = output / "searches" / name / "seed-0" / "diagnostics.jsonl"
        write_log(log, {}, [record(e, notation={"nasbench201": architecture}) for e in range(4)])
    found, _ = reproduce(FIGURES["fig1-nb201"], scale, [0], output, table=None, jobs=1, supernet_of=no_supernet)
    truth = open_benchmark()
    errors = {row.title: set(curve.means) for row, curve in found.curves()}
    assert errors["DARTS 1st"] == {100 - truth.query(POOR, "cifar10", "test_accuracy")}
    assert errors["GumbelDARTS"] == errors["BaLeNAS 1st"] == {100 - truth.query(GOOD, "cifar10", "test_accuracy")}
    assert found.about["ground truth"] == truth.name
    with pytest.raises(DataError, match="there is no"):
        reproduce(FIGURES["fig1-nb201"], scale, [0], output, table=output / "nowhere", jobs=1, supernet_of=no_supernet)


def test_the_papers_own_figure_is_of_space_3_before_each_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = SPACES[3]
    wirings = [*itertools.islice(space.blocks.wirings(), 3)]
    texts = [space.notation(space.blocks.architecture(wiring)) for wiring in wirings]
    hashes = [wiring.spec().hash() for wiring in wirings[:2]]
    found = {
        h: Trained(w.spec(), array("d", [90.0 + k]), array("d", [80.0 + k]))
        for k, (h, w) in enumerate(zip(hashes, wirings, strict=False))
    }
    write_modules(tmp_path / "nb1shot1.parquet", found)
    scale = scale_of(tmp_path, SHOT_SCALE)
    (search,) = searches_of(tmp_path / "out", [scale.config("darts-1shot1", 0)])
    search.folder.path.mkdir(parents=True)
    search.folder.config.write_text(search.config.to_yaml())
    search.folder.manifest.write_text(json.dumps({"status": "finished", "sessions": []}))
    order = [0, 2, 1, 0]  # what the table lacks is in the second; the last is after all epochs
    write_log(search.folder.diagnostics, {}, [record(e, notation={space.name: texts[k]}) for e, k in enumerate(order)])
    asked = experiment_of("fig1", ["darts"])
    out = tmp_path / "out"
    chart, files = reproduce(asked, scale, [0], out, table=tmp_path, jobs=1, supernet_of=no_supernet)
    assert chart.results == {"DARTS 1st": {0: {1: 20.0, 3: 19.0}}}
    assert chart.beside.results == {"DARTS 1st": {0: {1: 10.0, 3: 9.0}}}
    assert "2 of 3 architectures; nb1shot1.parquet holds 2 of the 55,854 different networks" in chart.markdown()
    assert {"fig1.svg", "fig1.csv", "fig1-validation.svg", "fig1-validation.csv"} <= {path.name for path in files}
    untested = {h: replace(trained, test=array("d")) for h, trained in found.items()}
    write_modules(tmp_path / "valid.parquet", untested)
    chart, _ = reproduce(asked, scale, [0], out, table=tmp_path / "valid.parquet", jobs=1, supernet_of=no_supernet)
    assert (chart.results, chart.beside.results) == ({"DARTS 1st": {0: {}}}, {"DARTS 1st": {0: {1: 10.0, 3: 9.0}}})
    monkeypatch.delenv("BALENAS_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"nasbench_only108\.tfrecord.*google-research/nasbench"):
        reproduce(asked, scale, [0], out, table=None, jobs=1, supernet_of=no_supernet)


def test_lost_diagnostics_are_named(searched: tuple[Scale, Path]) -> None:
    scale, output = searched
    lost = output / "searches" / "balenas" / "seed-1" / "diagnostics.jsonl"
    lost.unlink()
    with pytest.raises(FileFormatError, match=re.escape(str(lost))):
        reproduce(FIGURES["fig3"], scale, [0, 1], output, table=None, jobs=1, supernet_of=no_supernet)
