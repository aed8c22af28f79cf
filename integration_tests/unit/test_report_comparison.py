"""Reports of several runs: what is averaged, what is told apart."""

from __future__ import annotations

import statistics

import pytest

from balenas_plugin.errors import OptionError
from balenas_plugin.report import write_report
from balenas_plugin.report.comparison import comparison_table, groups_of
from balenas_plugin.report.reading import read_run

from .report_folders import make_run
from .report_page import draw_nothing, page_of


@pytest.fixture(autouse=True)
def _not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)


def test_seeds_are_averaged_and_settings_told_apart(tmp_path):
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
