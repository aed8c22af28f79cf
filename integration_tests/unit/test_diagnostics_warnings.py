"""When a warning is raised, when a search is stopped, and what is read back from the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from balenas_plugin.diagnostics import DiagnosticsOptions, eigenvalue_growth, read_log, stop_reason, warnings_of
from balenas_plugin.diagnostics.log_file import append_record, plain, write_log
from balenas_plugin.errors import FileFormatError, OptionError
from balenas_plugin.search_spaces import SearchSpace, get_space

OPTIONS = DiagnosticsOptions()


def records(**columns: list[Any]) -> list[dict[str, Any]]:
    """Return one record an epoch, with the given columns; None leaves a key out."""
    length = max(map(len, columns.values()))
    return [
        {"epoch": k, **{name: values[k] for name, values in columns.items() if values[k] is not None}}
        for k in range(length)
    ]


def kinds(given: list[dict[str, Any]], **options: Any) -> list[str]:
    return [warning.kind for warning in warnings_of(given, OPTIONS, **options)]


def test_growth_is_the_ratio_of_two_windows():
    flat = [1.0] * 10
    assert eigenvalue_growth(records(eigenvalue=flat), 5) == 1.0
    assert eigenvalue_growth(records(eigenvalue=[1.0] * 5 + [2.0] * 5), 5) == 2.0
    assert eigenvalue_growth(records(eigenvalue=[9.0, 1.0, 1.0, 3.0, 3.0]), 2) == 3.0
    assert eigenvalue_growth(records(eigenvalue=[1.0] * 9), 5) is None  # not two windows yet
    assert eigenvalue_growth(records(eigenvalue=[-1.0] * 5 + [2.0] * 5), 5) is None  # no ratio
    every_second = [1.0, None] * 5 + [2.0, None] * 5
    assert eigenvalue_growth(records(eigenvalue=every_second), 5) == 2.0  # measurements, not epochs


def test_a_rising_eigenvalue_rings_and_stops_only_if_asked():
    rising = records(eigenvalue=[1.0] * 5 + [1.4] * 5)
    steady = records(eigenvalue=[1.0] * 5 + [1.29] * 5)
    assert kinds(rising) == ["eigenvalue"]
    assert kinds(steady) == []
    by_eigenvalue = DiagnosticsOptions(stop_by="eigenvalue")
    assert stop_reason(rising, OPTIONS) is None
    assert "factor of 1.40" in (stop_reason(rising, by_eigenvalue) or "")
    assert stop_reason(steady, by_eigenvalue) is None


def test_the_eigenvalue_of_the_warm_up_does_not_count():
    """The logits stand still in it; that the loss becomes sharp is the weights' doing."""
    rising = records(eigenvalue=[1.0] * 5 + [2.0] * 5)
    by_eigenvalue = DiagnosticsOptions(stop_by="eigenvalue")
    assert kinds(rising, warmup_epochs=1) == []
    assert stop_reason(rising, by_eigenvalue, warmup_epochs=1) is None
    later = records(eigenvalue=[9.0] * 3 + [1.0] * 5 + [2.0] * 5)
    assert kinds(later, warmup_epochs=3) == ["eigenvalue"]
    assert "factor of 2.00" in (stop_reason(later, by_eigenvalue, warmup_epochs=3) or "")


def test_no_rule_stops_the_warm_up():
    decided = records(choice_entropy=[0.09, 0.09])
    by_entropy = DiagnosticsOptions(stop_by="entropy")
    assert stop_reason(decided, by_entropy, warmup_epochs=2) is None
    assert stop_reason(decided, by_entropy, warmup_epochs=1) is not None


def test_decided_choices_stop_a_search_only_if_asked():
    decided = records(choice_entropy=[0.5, 0.09])
    assert stop_reason(decided, OPTIONS) is None
    assert "9.0%" in (stop_reason(decided, DiagnosticsOptions(stop_by="entropy")) or "")
    assert stop_reason(decided, DiagnosticsOptions(stop_by="entropy", entropy_threshold=0.05)) is None


def test_skips_ring_when_they_stay_and_not_in_the_warm_up():
    assert kinds(records(skip_ratio=[0.6, 0.6])) == ["skips"]
    assert kinds(records(skip_ratio=[0.0, 0.6])) == []  # one epoch may be chance
    assert kinds(records(skip_ratio=[0.6, 0.6]), warmup_epochs=1) == []
    assert kinds(records(skip_ratio=[None, None], x=[1, 1])) == []


def test_a_space_says_how_many_skips_are_too_many():
    most = {"": 1 / 2, "nasbench201": 3 / 6, "darts-reference": 3 / 8, "darts-s2": 3 / 8}
    for name, share in most.items():
        rule = get_space(name).skip_rule if name else SearchSpace().skip_rule
        assert kinds(records(skip_ratio=[share, share]), skip_rule=rule) == []
        (warning,) = warnings_of(records(skip_ratio=[0.6, 0.6]), OPTIONS, skip_rule=rule)
        assert warning.message.endswith(rule.reason)
        assert ("3 in the 8" in warning.message) == name.startswith("darts")


def test_logits_that_stand_still_ring():
    still = [{"a": [0.001 * k, 0.0]} for k in range(6)]
    moving = [{"a": [0.01 * k, 0.0]} for k in range(6)]
    assert kinds(records(logits=still)) == ["standstill"]
    assert kinds(records(logits=moving)) == []
    assert kinds(records(logits=still[:5])) == []  # not a window yet
    assert kinds(records(logits=still), warmup_epochs=1) == []
    assert kinds(records(logits=[{"a": [-3.0, 0.0]}, *still])) == []  # it has decided, and stays with that


def test_chance_is_not_warned_of_where_nothing_else_is_asked_for():
    chance = records(skip_ratio=[1.0] * 10, logits=[{"a": [0.0]}] * 10, not_finite=[None] * 9 + [["weights"]])
    assert kinds(chance, learns=False) == ["nan"]
    assert kinds(chance) == ["nan", "skips", "standstill"]


def test_every_warning_says_what_to_do():
    bad = records(
        eigenvalue=[1.0] * 5 + [2.0] * 5,
        skip_ratio=[1.0] * 10,
        logits=[{"a": [0.0]}] * 10,
        not_finite=[None] * 9 + [["weights"]],
    )
    warnings = warnings_of(bad, OPTIONS)
    assert {warning.kind for warning in warnings} == {"nan", "skips", "eigenvalue", "standstill"}
    for warning in warnings:
        assert len(warning.message) > 30
        assert any(word in warning.cure for word in ("learning_rate", "stop_by", "epochs"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"curvature": "exactly"}, "did you mean 'exact'"),
        ({"stop_by": "hessian"}, "never, eigenvalue, entropy"),
        ({"draws": -1}, "at least 0"),
        ({"window": 0}, "at least 1"),
        ({"factor": 0}, "positive"),
        ({"enabled": "yes"}, "true or false"),
        ({"stop_by": "eigenvalue", "curvature": "off"}, "must be measured"),
        ({"stop_by": "entropy", "enabled": False}, "enabled must be true"),
        ({"drawz": 3}, "did you mean 'draws'"),
        ("often", "mapping of options"),
    ],
)
def test_bad_options_are_refused_clearly(options, message):
    with pytest.raises(OptionError, match=message):
        DiagnosticsOptions.of(options)


def test_shorthands_of_the_options():
    assert DiagnosticsOptions.of(False) == DiagnosticsOptions(enabled=False)
    assert DiagnosticsOptions.of({"curvature": False}).curvature == "off"  # YAML's `off`


# -- the file ---------------------------------------------------------------------------------------------------------


def test_a_file_is_read_back_while_it_grows_and_after_a_crash(tmp_path: Path):
    path = tmp_path / "diagnostics.jsonl"
    write_log(path, {"strategy": "BaLeNAS"}, [{"epoch": 0, "entropy": 1.5}])
    append_record(path, {"epoch": 1, "entropy": 1.25})
    log = read_log(path)
    assert log.header["strategy"] == "BaLeNAS"
    assert [r["entropy"] for r in log.records] == [1.5, 1.25]
    whole = path.read_bytes()
    for cut in (1, 5, len(whole.splitlines(keepends=True)[-1]) - 1):  # the last line was not written to its end
        path.write_bytes(whole[:-cut])
        assert [r["epoch"] for r in read_log(path).records] == [0]


def test_numbers_that_are_not_finite_become_null_and_stay_json(tmp_path: Path):
    value = plain({"a": [float("nan"), float("inf"), 1.23456789012345], "b": (1, True, "x", None)})
    assert value == {"a": [None, None, 1.23456789], "b": [1, True, "x", None]}
    path = tmp_path / "d.jsonl"
    write_log(path, {}, [{"epoch": 0, **value}])
    json.loads(path.read_text().splitlines()[1], parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "first line"),
        (b'{"format": "something"}\n', "first line"),
        (b'{"format": "balenas-diagnostics", "version": 9}\n', "version 9"),
        (b"[1]\n", "not a JSON object"),
        (b"\xff\xfe\n", "cannot read"),
        (b"[" * 100_000 + b"\n", "not JSON"),
        (b'{"format": "balenas-diagnostics", "version": 1}\n{"epoch": "x"}\n', "line 2"),
        (b'{"format": "balenas-diagnostics", "version": 1}\n{"epoch": -1}\n', "line 2"),
        (b'{"format": "balenas-diagnostics", "version": 1}\n{"epoch": true}\n', "line 2"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path: Path):
    path = tmp_path / "d.jsonl"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=message):
        read_log(path)


def test_a_missing_file_is_reported(tmp_path: Path):
    with pytest.raises(FileFormatError, match="cannot read"):
        read_log(tmp_path / "none.jsonl")
