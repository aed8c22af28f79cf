"""Tables of a reproduction: what they need, how they are counted, what they say."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
from scipy import stats

from balenas_plugin.errors import OptionError
from balenas_plugin.reproduce.experiments import DATASETS, EXPERIMENTS, Experiment, Pick, Row
from balenas_plugin.reproduce.picks import COLUMNS
from balenas_plugin.reproduce.run import experiment_of, seeds_of
from balenas_plugin.reproduce.scales import SCALES, load_scale, merged
from balenas_plugin.reproduce.tables import Table, compare


def accuracies(value: float) -> dict[str, float]:
    return dict.fromkeys(COLUMNS, value)


ONE = {0: accuracies(93.0), 1: accuracies(94.0), 2: accuracies(93.5)}
OTHER = {0: accuracies(91.0), 1: accuracies(91.5), 2: accuracies(92.5), 3: accuracies(10.0)}


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_has_a_valid_config_for_every_search(scale: str) -> None:
    loaded = load_scale(scale)
    needed = {row.search for experiment in EXPERIMENTS.values() for row in experiment.rows if row.search}
    assert needed == set(loaded.searches)
    for search in needed:
        config = loaded.config(search, seed=7)
        assert (config.name, config.seed) == (search, 7)


@pytest.mark.parametrize("scale", SCALES)
def test_methods_get_equal_budgets(scale: str) -> None:
    """The same data, network and training for all; only the run that is longer on purpose differs."""
    configs = {name: load_scale(scale).config(name, 0) for name in load_scale(scale).searches}
    long = configs.pop("darts-long")
    first = configs["darts"]
    for config in configs.values():
        assert (config.space, config.data, config.evaluator) == (first.space, first.data, first.evaluator)
    assert long.evaluator.epochs >= 2 * first.evaluator.epochs
    assert long.strategy == first.strategy
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
    path.write_text("commen: {}\n")
    with pytest.raises(OptionError, match="did you mean 'common'"):
        load_scale(str(path))


def test_mappings_are_merged_at_every_depth() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merged(base, {"a": {"c": 4}, "e": 5}) == {"a": {"b": 1, "c": 4}, "d": 3, "e": 5}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}


def test_seeds() -> None:
    assert seeds_of("0-3") == [0, 1, 2, 3]
    assert seeds_of("5") == [5]
    assert seeds_of("0,2, 7-9,2") == [0, 2, 7, 8, 9]
    for bad in ("", "a", "3-1", "1-", "-2"):
        with pytest.raises(OptionError, match="--seeds wants"):
            seeds_of(bad)


def test_methods_choose_rows_and_the_pairs_among_them() -> None:
    some = experiment_of("table1", ["darts", "balenas"])
    assert {row.method for row in some.rows} == {"darts", "balenas"}
    assert ("BaLeNAS 1st", "DARTS 1st") in some.pairs
    assert not any("GDAS" in pair for pair in some.pairs)
    with pytest.raises(OptionError, match="has no method 'balnas'; did you mean 'balenas'"):
        experiment_of("table1", ["balnas"])


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
    assert "| 3 | 93.50 +- 0.50 |" in row
    assert row.endswith("| 94.00 +- 0.10 |")
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
    document = json.loads((tmp_path / "example.json").read_text())
    assert document["rows"][0]["seeds"]["1"]["cifar100"] == 94.0
    assert document["comparisons"][0]["seeds"] == 3
    assert math.isclose(document["comparisons"][0]["difference"], 5.5 / 3)
