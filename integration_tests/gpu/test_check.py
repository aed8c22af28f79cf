"""The check of a GPU, tried on a CPU: parts that fail or take too long leave the others, and say so."""

from __future__ import annotations

import importlib.util
import json

import pytest

from . import check

ON_CPU = ("--device", "cpu", "--tiny")


@pytest.fixture
def tests(tmp_path, monkeypatch):
    """A test file in the place of those that need a GPU."""
    path = tmp_path / "test_it.py"
    path.write_text("def test_good(): pass\ndef test_bad(): assert False\n")
    path.with_name("pytest.ini").write_text("[pytest]\n")
    monkeypatch.setattr(check, "gpu_test_files", lambda: ["-m", "", path])
    return path


def test_what_fails_or_takes_too_long_leaves_the_others(tmp_path, monkeypatch, capsys, tests):
    parts = [
        check.Part(check.BASELINE),
        check.Part("wrong", options={"num_mc_samples": 0}),
        check.Part("slow", options={}, limit=0.0),
        check.Part("BaLeNAS M=3, not fused", options={"num_mc_samples": 3, "fused": False}),
    ]
    monkeypatch.setattr(check, "all_parts", lambda: parts)
    assert check.main([*ON_CPU, "--output", str(tmp_path / "found")]) == 1
    record = json.loads((tmp_path / "found" / "gpu_check.json").read_text())
    first, wrong, slow, last = record["parts"]
    assert wrong["problem"].startswith("OptionError: strategy.num_mc_samples")
    assert slow["problem"] == "took longer than 0 s"
    for part in (first, last):
        assert part["problem"] is None
        assert len(part["seconds"]) == check.TINY["iterations"]
        assert part["hours"] == pytest.approx(50 * 6250 * part["milliseconds"] / 3.6e6)
    assert "FAILED" in record["tests"]["problem"]
    assert "1 failed, 1 passed" in record["tests"]["summary"]
    table = (tmp_path / "found" / "gpu_check.md").read_text()
    assert "| NNI DARTS | 32-true | " in table
    assert "| slow | 32-true | took longer than 0 s |" in table
    reported = capsys.readouterr().out
    assert "] BaLeNAS M=3, not fused, 32-true" in reported
    assert "ms an iteration" in reported


def test_everything_is_measured_once():
    names = [f"{part.name}, {part.precision}" for part in check.all_parts()]
    assert len(set(names)) == len(names) == 20
    for draws in (1, 3):
        for how in ("", ", not fused", ", compiled", ", CUDA graphs"):
            for precision in ("32-true", "bf16-mixed"):
                assert f"BaLeNAS M={draws}{how}, {precision}" in names
    assert any(path.name == "test_proxies.py" for path in check.gpu_test_files())


def test_no_time_is_a_problem_of_each_part(tmp_path):
    options = check.argparse.Namespace(tiny=True, device="cpu", only=["NNI"], minutes=0.0, output=tmp_path)
    found = check.Check(options)
    found._measure(found.parts[0])
    assert found.parts[0].problem == "the 0 minutes were over"


def test_without_nni_there_is_one_message(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nni" else find(name))
    assert check.main([]) == 2
    reported = capsys.readouterr().err
    assert reported.startswith("check.py needs nni, not installed for")
    assert reported.count("\n") == 1
