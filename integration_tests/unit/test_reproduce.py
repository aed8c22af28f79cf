"""Tables of a reproduction: what they need, how they are counted, what they say."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from scipy import stats

from balenas_plugin import machine
from balenas_plugin.errors import OptionError, SearchFailedError
from balenas_plugin.reproduce import units
from balenas_plugin.reproduce.experiments import DATASETS, Experiment, Pick, Row
from balenas_plugin.reproduce.family import EXPERIMENTS, METHODS
from balenas_plugin.reproduce.figures import FIGURES
from balenas_plugin.reproduce.picks import COLUMNS
from balenas_plugin.reproduce.run import experiment_of, seeds_of
from balenas_plugin.reproduce.scales import SCALES, load_scale, merged
from balenas_plugin.reproduce.searches import searches_of
from balenas_plugin.reproduce.tables import Table, compare
from balenas_plugin.reproduce.units import run_units

WARNED = "balenas: epoch 7: 67% of the chosen operations are skip connections: the search is collapsing.\n"
TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n    f(\n    ^^\n'


def accuracies(value: float) -> dict[str, float]:
    return dict.fromkeys(COLUMNS, value)


ONE = {0: accuracies(93.0), 1: accuracies(94.0), 2: accuracies(93.5)}
OTHER = {0: accuracies(91.0), 1: accuracies(91.5), 2: accuracies(92.5), 3: accuracies(10.0)}


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_has_a_valid_config_for_every_search(scale: str) -> None:
    loaded = load_scale(scale)
    drawn = [*EXPERIMENTS.values(), *FIGURES.values()]
    needed = {row.search for experiment in drawn for row in experiment.rows if row.search}
    assert needed == set(loaded.searches)
    for search in needed:
        config = loaded.config(search, seed=7)
        assert (config.name, config.seed) == (search, 7)


@pytest.mark.parametrize("scale", SCALES)
def test_methods_get_equal_budgets(scale: str) -> None:
    """The same data, network and training for all of a space; only the run that is longer on purpose differs."""
    configs = {name: load_scale(scale).config(name, 0) for name in load_scale(scale).searches}
    long = configs.pop("darts-long")
    first = configs["darts"]
    for name, config in configs.items():
        space = next((space for space in ("1shot1", "cells") if name.endswith(f"-{space}")), None)
        same = first if space is None else configs[f"darts-{space}"]
        assert (config.space, config.data, config.evaluator) == (same.space, same.data, same.evaluator)
    assert configs["darts-1shot1"].space["name"] == "nasbench1shot1-3"
    assert long.evaluator.epochs >= 2 * first.evaluator.epochs
    assert long.strategy == first.strategy
    assert (first.data.name == "cifar10_parquet", first.data.download) == (scale == "small", scale != "small")
    draws = [configs[name].strategy["num_mc_samples"] for name in ("balenas-m1", "balenas-m2", "balenas", "balenas-m4")]
    assert draws == [1, 2, 3, 4]
    assert configs["balenas-2nd"].strategy["order"] == "second"


def test_a_scale_of_the_users_own(tmp_path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text("common: {data: {name: digits}}\nsearches: {darts: {strategy: DARTS, evaluator: {epochs: 2}}}\n")
    scale = load_scale(str(path))
    assert (scale.name, scale.config("darts", 1).evaluator.epochs) == ("mine", 2)
    with pytest.raises(OptionError, match="has no search 'dart'; did you mean 'darts'"):
        scale.config("dart", 0)
    with pytest.raises(OptionError, match="did you mean 'small'"):
        load_scale("smal")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("", "must hold a mapping with the keys name, common, searches, proxy_networks"),
        ("commen: {}", "did you mean 'common'"),
        ("common: [1]", r"common must be a mapping of options, got \[1\]"),
        ("searches: null", "has no searches: name at least one"),
        ("searches: {}", "has no searches: name at least one"),
        ("common: {}", "needs the option searches"),
        ("searches: {balenas: null}", "balenas must be a mapping of options, got None"),
        ("{searches: {darts: {}}, proxy_networks: null}", "proxy_networks must be a mapping"),
        ("{searches: {darts: {}}, proxy_networks: {channels: abc}}", "channels must be a whole number of at least 1"),
    ],
)
def test_a_malformed_scale_is_refused(tmp_path, document: str, message: str) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(document)
    with pytest.raises(OptionError, match=message):
        load_scale(str(path))


@pytest.mark.parametrize(
    ("threads", "cores", "gibibytes", "accelerator", "jobs"),
    [
        (1, 2, 16, False, 2),
        (1, 8, 5, False, 2),
        (4, 9, 64, False, 2),
        (4, 2, 64, False, 1),
        (1, 2, 1, False, 1),
        (1, 8, 64, True, 1),
        ("null", 8, 64, False, 1),
    ],
    ids=["cores", "memory", "threads", "few cores", "little memory", "GPU", "the scale does not say"],
)
def test_as_many_searches_at_a_time_as_the_machine_has_room_for(
    tmp_path, monkeypatch, threads, cores, gibibytes, accelerator, jobs
) -> None:
    pages = {"SC_PHYS_PAGES": gibibytes << 18, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(machine, "cores", lambda: cores)
    monkeypatch.setattr(machine.os, "sysconf", pages.__getitem__, raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
    path = tmp_path / "mine.yml"
    path.write_text(f"common: {{threads: {threads}}}\nsearches: {{darts: {{strategy: DARTS}}}}\n")
    assert load_scale(str(path)).jobs == jobs


def test_mappings_are_merged_at_every_depth() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merged(base, {"a": {"c": 4}, "e": 5}) == {"a": {"b": 1, "c": 4}, "d": 3, "e": 5}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}
    named = {"space": {"name": "one", "its": 1}}
    assert merged(named, {"space": {"name": "one", "own": 2}}) == {"space": {"name": "one", "its": 1, "own": 2}}
    assert merged(named, {"space": {"name": "other", "own": 2}}) == {"space": {"name": "other", "own": 2}}


def test_seeds() -> None:
    assert seeds_of("0-3") == [0, 1, 2, 3]
    assert seeds_of("5") == [5]
    assert seeds_of("0,2, 7-9,2") == [0, 2, 7, 8, 9]
    for bad in ("", "a", "3-1", "1-", "-2", "\N{SUPERSCRIPT TWO}"):
        with pytest.raises(OptionError, match="--seeds expects"):
            seeds_of(bad)


def test_methods_choose_rows_and_the_pairs_among_them() -> None:
    some = experiment_of("table1", ["darts", "balenas"])
    assert {row.method for row in some.rows} == {"darts", "balenas"}
    assert ("BaLeNAS 1st", "DARTS 1st") in some.pairs
    assert not any("GumbelDARTS" in pair for pair in some.pairs)
    with pytest.raises(OptionError, match="has no method 'balnas'; did you mean 'balenas'"):
        experiment_of("table1", ["balnas"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("balenas-tf", r"'balenas-tf': it is .*BaLeNAS-TF \(100\).*, which come with --methods balenas\."),
        ("BaLeNAS-TF (1,000)", r"which come with --methods balenas\. Its methods: darts, "),
        ("zero-cost-nas", r"which come with --methods zero-cost\."),
        ("DARTS 2nd", "did you mean 'darts-2nd'"),
        ("DARTS", "did you mean 'darts'"),
    ],
)
def test_the_name_of_a_row_in_the_place_of_its_method(given: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        experiment_of("table1", [given])


def test_tuning_shows_the_validation_accuracy_of_each_trial_alone() -> None:
    scale = load_scale("small")
    assert {name: len(tried) for name, tried in scale.trials.items()} == {name: 2 for name in METHODS if name != "rsps"}
    table = experiment_of("tuning", ["darts", "gdas"], scale)
    assert {row.method for row in table.rows} == {"darts", "gdas"}
    last = scale.config(table.rows[1].search, seed=1)
    assert (last.name, last.strategy["name"], last.strategy["arc_learning_rate"]) == ("darts-trial-2", "DARTS", 6e-3)
    found = {table.rows[0].title: {0: {"cifar10": 93.0, "cifar10-valid": 91.25}}}
    shown = Table(table, found, {})
    assert "91.25" in shown.markdown()
    for text in (shown.markdown(), shown.csv(), json.dumps(shown.to_dict())):
        assert "93.0" not in text
    with pytest.raises(OptionError, match="the scale has no trials"):
        experiment_of("tuning", None, load_scale("paper"))


def test_a_trial_of_settings_that_a_method_has_already_is_its_own_search() -> None:
    scale = load_scale("small")
    own = dict(scale.searches["darts"]["strategy"])
    tried = replace(scale, trials={"darts": [{"strategy": own}, {"strategy": {**own, "arc_learning_rate": 1.0}}]})
    assert [search for search, _ in tried.tried("darts")] == ["darts", "darts-trial-2"]
    assert [row.search for row in experiment_of("tuning", None, tried).rows] == ["darts", "darts-trial-2"]


def test_pairs_name_rows() -> None:
    for experiment in EXPERIMENTS.values():
        titles = [row.title for row in experiment.rows]
        assert len(set(titles)) == len(titles)
        assert {title for pair in experiment.pairs for title in pair} <= set(titles)


def test_the_paired_test_uses_common_seeds() -> None:
    found = compare("one", "other", "cifar10", ONE, OTHER)
    differences = [2.0, 2.5, 1.0]
    assert found.seeds == 3
    assert found.difference == pytest.approx(sum(differences) / 3)
    assert found.standard_error == pytest.approx(stats.sem(differences))
    assert found.p_value == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)


def test_one_seed_or_no_variation_has_no_p_value() -> None:
    single = compare("one", "other", "cifar10", {0: accuracies(93.0)}, OTHER)
    assert (single.standard_error, single.p_value, single.seeds) == (None, None, 1)
    same = compare("one", "one", "cifar10", ONE, ONE)
    assert (same.difference, same.standard_error, same.p_value) == (0.0, 0.0, None)


@pytest.fixture
def table() -> Table:
    rows = [
        Row("one", "one", Pick(), "one", {"cifar10": (94.0, 0.1)}),
        Row("other", "other", Pick(), "other"),
        Row("absent", "absent", Pick(), "absent"),
    ]
    experiment = Experiment("example", "An example", rows, [("one", "other"), ("one", "absent")])
    return Table(experiment, {"one": ONE, "other": OTHER, "absent": {}}, {"scale": "tiny"})


def test_markdown_has_means_deviations_and_the_paper(table: Table) -> None:
    lines = table.markdown().splitlines()
    row = next(line for line in lines if line.startswith("| one |"))
    assert "| 3 | 93.50_±_0.50 |".replace("_", "\N{NO-BREAK SPACE}") in row
    assert row.endswith("| 94.00_±_0.10 |".replace("_", "\N{NO-BREAK SPACE}"))
    assert "not run" in next(line for line in lines if line.startswith("| absent |"))
    assert sum(line.startswith("| one - other |") for line in lines) == len(DATASETS)
    assert not any(line.startswith("| one - absent |") for line in lines)
    assert "- scale: tiny" in lines


def test_csv_and_json_hold_every_seed(table: Table, tmp_path) -> None:
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert [(row["row"], row["seed"]) for row in rows] == [
        *(("one", str(seed)) for seed in range(3)),
        *(("other", str(seed)) for seed in range(4)),
    ]
    assert float(rows[0]["cifar10"]) == 93.0
    names = {path.name for path in table.write(tmp_path)}
    assert names == {"example.md", "example.csv", "example.json"}
    assert [path.name for path in replace(table, name="mine").write(tmp_path)] == ["mine.md", "mine.csv", "mine.json"]
    document = json.loads((tmp_path / "example.json").read_text())
    assert document["rows"][0]["seeds"]["1"]["cifar100"] == 94.0
    assert document["comparisons"][0]["seeds"] == 3
    assert math.isclose(document["comparisons"][0]["difference"], 5.5 / 3)


def test_a_failure_is_reported_by_what_the_last_attempt_logged(tmp_path, monkeypatch) -> None:
    """A double of the search's process, which is killed before it can say anything of its own."""
    (search,) = searches_of(tmp_path, [load_scale("small").config("darts", 0)])
    search.log.parent.mkdir(parents=True)
    search.log.write_text("balenas: cannot write x: disk full\n")
    script = f"open({str(search.log)!r}, 'a').write('Out of memory'); raise SystemExit(137)"
    monkeypatch.setattr(units, "_start", lambda _: subprocess.Popen([sys.executable, "-c", script]))
    with pytest.raises(SearchFailedError, match="darts seed 0 failed and said: Out of memory"):
        run_units([search], jobs=1)


@pytest.mark.parametrize(
    ("log", "code", "said"),
    [
        (f"{WARNED}{TRACEBACK}RuntimeError: CUDA error: out of memory\nHint\n", 1, "CUDA error: out of memory ("),
        (f"{TRACEBACK}KeyError: 1\nballast\n{WARNED}search:  9%|# | 1/9\nbalenas: disk full\n", 2, "said: disk full ("),
        (f"balenas: hint\n{TRACEBACK}zipfile.BadZipFile: x\n{WARNED}", 1, "said: zipfile.BadZipFile: x ("),
        (f"{WARNED}search:  9%|# | 1/9\n", -9, "said: nothing (it was ended by SIGKILL, as a system does that is out"),
        ("Fatal Python error: Segmentation fault\n\nThread 0x1:\n", -11, "fault (it was ended by SIGSEGV; all"),
        (f"{WARNED}terminate called after throwing std::bad_alloc\n", -6, "bad_alloc (it was ended by SIGABRT; all"),
        (WARNED, 3, "said: nothing (all of it"),
    ],
    ids=["traceback", "message", "other exception", "killed", "crashed", "aborted", "silent"],
)
def test_a_warning_is_not_reported_as_the_reason(log: str, code: int, said: str, tmp_path) -> None:
    (search,) = searches_of(tmp_path, [load_scale("small").config("darts", 0)])
    search.log.parent.mkdir(parents=True)
    search.log.write_text("balenas: of an earlier attempt\n" + log)
    reported = units._failure(search, len("balenas: of an earlier attempt\n"), code)
    assert said in reported
    assert "collapsing" not in reported
