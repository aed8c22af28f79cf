"""Reports that compare: runs with each other, candidates by worth and cost."""

from __future__ import annotations

import json
import statistics

import pytest

from balenas_plugin.errors import OptionError
from balenas_plugin.report import write_report
from balenas_plugin.report.comparison import TRUTHS, comparison_table, groups_of
from balenas_plugin.report.page import MAX_DETAILED
from balenas_plugin.report.pareto import Front, undominated
from balenas_plugin.report.reading import read_run

from .report_folders import make_run
from .report_page import draw_nothing, page_of


@pytest.fixture(autouse=True)
def _not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)


def test_seeds_are_averaged_and_settings_reported_apart(tmp_path):
    accuracies = [93.0, 94.0, 92.5]
    runs = [make_run(tmp_path / f"b{k}", seed=k, accuracy=value) for k, value in enumerate(accuracies)]
    runs += [make_run(tmp_path / "d", strategy="DARTS", accuracy=54.3)]
    runs += [make_run(tmp_path / "m", num_mc_samples=1, accuracy=90.0)]
    groups = groups_of([read_run(run) for run in runs])
    assert [(group.label, group.details, len(group.runs)) for group in groups] == [
        ("BaLeNAS 1", "", 3),
        ("DARTS", "", 1),
        ("BaLeNAS 2", "num_mc_samples 1", 1),
    ]
    heads, rows = comparison_table(groups)
    column = heads.index("CIFAR-10, test (unseen), %")
    expected = f"{statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f}"
    assert [row[column] for row in rows] == [expected, "54.30", "90.00"]
    page, _ = page_of(*runs)
    assert expected in page.text
    assert any("93.00, 94.00, 92.50" in image["alt"] for image in page.all("img"))


def test_ground_truth_is_what_a_benchmark_ranks_by(tmp_path):
    folder = make_run(tmp_path / "a")
    known = {"values": {"cifar10": {"valid_accuracy": 91.25}}, "ranked_by": {"cifar10": "valid_accuracy"}}
    known |= {"rank": {"cifar10": 3}, "num_ranked": {"cifar10": 153}, "num_architectures": 2127}
    found = json.loads((folder / "architectures.json").read_text())
    (folder / "architectures.json").write_text(json.dumps([record | {"ground_truth": known} for record in found]))
    page, _ = page_of(folder)
    assert "91.25 %, rank 3 of 153 (unseen by the search)" in page.text
    assert "CIFAR-10, validation, % (unseen)" in page.text
    assert [measure.of(read_run(folder)) for measure in TRUTHS[:3]] == [None, 91.25, None]


def test_what_does_not_change_a_search_does_not_split_a_group(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1)]
    config = runs[1] / "config.yml"
    config.write_text(config.read_text() + "diagnostics: {draws: 3}\ntop_k: 1\n")
    assert len(groups_of([read_run(run) for run in runs])) == 1
    config.write_text(config.read_text().replace("draws: 3", "stop_by: entropy"))
    assert len(groups_of([read_run(run) for run in runs])) == 2


def test_curves_are_means_over_the_epochs_that_all_runs_have(tmp_path):
    runs = [make_run(tmp_path / "a", epochs=6), make_run(tmp_path / "b", seed=1, epochs=4, accuracy=95.0)]
    page, _ = page_of(*runs)
    (alt,) = [i["alt"] for i in page.all("img") if i["alt"].startswith("BaLeNAS: 89 in epoch 0")]
    assert "92 in epoch 3" in alt


def test_a_run_twice_is_refused(tmp_path):
    folder = make_run(tmp_path / "a")
    with pytest.raises(OptionError, match="given twice"):
        write_report([folder, tmp_path / "." / "a"], tmp_path / "page.html")


def test_runs_of_one_folder_name_are_distinguished_by_the_folders_above(tmp_path):
    runs = [make_run(tmp_path / name / "seed-0") for name in ("balenas", "darts", "old/darts")]
    page, _ = page_of(*runs, make_run(tmp_path / "alone"))
    names = ["balenas/seed-0", f"{tmp_path.name}/darts/seed-0", "old/darts/seed-0", "alone"]
    assert [name for name in names if page.text.count(name) >= 2] == names  # in the list of runs, and above each


def test_settings_that_differ_are_one_row_a_run(tmp_path):
    page, source = page_of(make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1, num_mc_samples=1))
    table = source[source.index('aria-label="Settings that differ"') :].split("</table>")[0]
    rows = [[cell.strip() for cell in row.split("<")] for row in table.split("<tr>")]
    assert "strategy.num_mc_samples" in table
    assert [">b" in " ".join(row) for row in rows if "row" in " ".join(row)].count(True) == 1
    assert page.text.count("strategy.num_mc_samples") == 2  # here, and among all settings of b


def test_of_many_runs_only_what_they_have_together_is_drawn(tmp_path):
    few = [make_run(tmp_path / f"run{k}", seed=k) for k in range(MAX_DETAILED)]
    detailed, _ = page_of(*few)
    many, source = page_of(*few, make_run(tmp_path / "one more", seed=MAX_DETAILED))
    compared = [i for i in detailed.all("img") if i["alt"].startswith("BaLeNAS: ")]
    assert len(detailed.all("img")) > len(compared) + 7 * MAX_DETAILED
    assert len(many.all("img")) == len(compared) > 5
    assert "make a report of one run, or of up to 8" in many.text
    assert "has no diagnostics" not in many.text
    assert len(source) < 40_000 * (MAX_DETAILED + 1)


def test_a_phone_needs_no_scrolling_to_the_side(tmp_path):
    """The style sheet stacks the cells of a row, each under the head of its column, and shrinks drawings."""
    page, source = page_of(make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1))
    rows = [cell for cell in page.all("th") if cell["scope"] == "row"]
    assert all(cell.get("data-head") for cell in [*page.all("td"), *rows])
    assert {cell["data-head"] for cell in rows} == {"settings", "run", "rank", "setting"}
    style = source[source.index("<style>") : source.index("</style>")]
    narrow = style[style.index("@media screen and (max-width: 40rem)") : style.index("@media print")]
    assert "display: block" in narrow
    assert "min-width" not in style.replace("min-width: 0", "").replace("min-width: 17rem", "")


def test_candidates_are_shown_by_worth_and_cost(tmp_path):
    run = make_run(tmp_path / "mine")
    records = json.loads((run / "architectures.json").read_text())
    for record, params, accuracy in zip(records, (90, 40), (0.75, 0.5), strict=True):
        record |= {"params": params, "trained": {"accuracy": accuracy, "epochs": 3}}
    (run / "architectures.json").write_text(json.dumps(records))
    page, source = page_of(run)
    assert "accuracy after training against parameters" in page.text
    assert "2 of 2 candidates are undominated, from 0.5 at 40 parameters to 0.75 at 90 parameters" in source
    merits, costs = [3, 2, 2, 1, 3, 0], [9, 5, 4, 4, 9, 1]
    assert undominated(merits, costs) == [True, False, True, False, True, True]
    given = {"rank": 1, "choices": {"a": 0}}
    ranked = [{**given, "scores": {"snip": m}, "latency": c} for m, c in zip(merits, costs, strict=True)]
    front = Front.of_records([*ranked, {**given, "scores": {"snip": None}, "latency": 2}], "latency")
    (run / "export").mkdir()
    (run / "export" / "pareto.json").write_text(json.dumps(front.to_dict()))
    page, source = page_of(run)
    assert "snip against milliseconds" in page.text
    assert "4 of 6 candidates are undominated, from 0 at 1 milliseconds to 3 at 9 milliseconds" in source
    assert [each[1:] for each in front.best] == [(0, 1), (2, 4), (3, 9), (3, 9)]
    (run / "export" / "pareto.json").write_text('{"cost": "<b>", "candidates": [7]}')
    assert "accuracy after training against parameters" in page_of(run)[0].text
