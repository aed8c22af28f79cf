"""A second search space is one folder: everything that NAS-Bench-201 has, a toy has too, and nothing else is edited."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import yaml

from balenas_plugin.diagnostics import read_log

from .commands import balenas
from .conftest import TINY

SCRIPT = Path(__file__).with_name("with_spaces.py")
TABLE = Path(__file__).parents[1] / "spaces" / "chain" / "table.csv"


def test_a_new_space_is_searched_exported_drawn_reported_and_looked_up(folder: Path) -> None:
    def run(*arguments: object) -> str:
        ended = balenas(*arguments, folder=folder, script=SCRIPT, BALENAS_DATA="")
        assert ended.code == 0, ended.errors
        return ended.output + ended.errors

    config = {**TINY, "space": {"name": "chain", "channels": 2}, "evaluator": {"epochs": 2}}
    (folder / "chain.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    printed = run("search", "chain.yml", "--output", "run", "--set", "strategy.selection=synflow")
    accuracy = {row["architecture"]: float(row["test_accuracy"]) for row in csv.DictReader(TABLE.open())}

    for record in json.loads((folder / "run" / "architectures.json").read_text()):
        text = "{first}>{second}/{bypass}".format(**record["choices"])
        assert record["notation"] == {"chain": text}
        assert text in printed
        truth = record["ground_truth"]
        assert truth["unseen_by_search"]
        assert truth["values"] == {"digits": {"test_accuracy": accuracy[text]}}
        assert truth["rank"]["digits"] == 1 + sum(other > accuracy[text] for other in accuracy.values())

    log = read_log(folder / "run" / "diagnostics.jsonl")
    assert log.header["kinds"] == {edge: ["parametric", "skip", "none"] for edge in ("first", "second", "bypass")}
    for record in log.records:
        assert set(record["cells"]) == {"chain"}
        text = "{first}>{second}/{bypass}".format(**record["architecture"])
        assert record["ground_truth"]["accuracy"] == {"digits": accuracy[text]}

    run("export", "run", "--samples", 5, "--top", 2, "--format", "json", "--format", "csv", "--format", "svg")
    best = json.loads((folder / "run" / "export" / "architectures.json").read_text())[0]
    drawing = (folder / "run" / "export" / "architecture_001.svg").read_text()
    assert best["notation"]["chain"].replace(">", "&gt;") in drawing
    assert "Width and shade of a line" in drawing  # a graph, not bars
    run("report", "run")
    report = (folder / "run" / "report.html").read_text()
    assert "Graph of the cell chain. 0 to 1: " in report
    assert "conv&gt;" in report or "pass&gt;" in report or "void&gt;" in report

    assert "balenas: read" not in run("query", "pass>conv/void")
    assert "rank by test_accuracy" in run("query", "pass>conv/void", "--space", "chain")
