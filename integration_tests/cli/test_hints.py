"""What people type in the place of what there is gets its hint, at once: without importing torch."""

from __future__ import annotations

from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

import pytest

from balenas_plugin.cli import main
from balenas_plugin.errors import OptionError, nearest, setting
from balenas_plugin.options import declared_options, read_options

from .test_help import imported_by


def refused(*arguments: object, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must be refused; return the last line that it prints."""
    try:
        code = main(list(map(str, arguments)))
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


LINES = {
    "serach c.yml": "did you mean 'search'?",
    "repot runs/a": "did you mean 'report'?",
    "import file.pth": "did you mean 'benchmark import'?",
    "configs/quickstart.yml": "did you mean `balenas search configs/quickstart.yml`?",
    "reproduce tabel1": "did you mean 'table1'?",
    "benchmark imprt x": "did you mean 'import'?",
    "export runs/a --format pyton": "did you mean 'python'?",
    "search c.yml --epochs 3": "epochs is set with --set evaluator.epochs=3",
    "search c.yml --epochs=3": "epochs is set with --set evaluator.epochs=3",
    "search --epochs 3 c.yml": "epochs is set with --set evaluator.epochs=3",
    "ui c.yml --max-epochs 3": "max-epochs is set with --set evaluator.epochs=3",
    "search c.yml --lr 0.1": "lr is set with --set evaluator.optimizer.lr=0.1",
    "search c.yml --learning-rate 0.1": "--set evaluator.optimizer.lr=0.1",
    "search c.yml --batch-size 8": "--set data.batch_size=8",
    "search c.yml --batch_size": "--set data.batch_size=VALUE",
    "search c.yml --dataset cifar10": "--set data.name=cifar10",
    "search c.yml --strategy DARTS": "--set strategy=DARTS",
    "search c.yml --gpus 2": "--set evaluator.devices=2",
    "search c.yml --output-dir x": "did you mean '--output'?",
    "search c.yml --force": "did you mean '--overwrite'?",
    "search c.yml --sede 3": "did you mean '--seed'?",
    "search c.yml --set evaluator.epochs 3": "--set takes KEY=VALUE: --set evaluator.epochs=3",
    "export runs/a --epochs 3": "did you mean '--epoch'?",
    "search c.yml --output=--": "argument --output: invalid value: '--'",
    "export runs/a --proxi synflow": "did you mean '--proxy'?",
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_that_is_nearly_right_gets_its_hint(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert LINES[line] in refused(*line.split(), capsys=capsys)


@pytest.mark.parametrize(
    ("where", "given", "hint"),
    [
        ("the config", {"epochs": 3}, "did you mean 'evaluator.epochs'?"),
        ("the config", {"optimizer": {"learning_rate": 0.1}}, "did you mean 'evaluator.optimizer.lr'?"),
        ("the config", {"optimizer": {"name": "Adam"}}, "did you mean 'evaluator.optimizer'?"),
        ("the config", {"evaluater": {"epochs": 3}}, "did you mean 'evaluator'?"),
        ("the config", {"batch-size": 3}, "did you mean 'data.batch_size'?"),
        ("evaluator", {"learning_rate": 3}, "did you mean 'evaluator.optimizer.lr'?"),
        ("evaluator.optimizer", {"learning_rate": 3}, "did you mean 'lr'?"),
        ("data", {"num_mc_samples": 3}, "did you mean 'strategy.num_mc_samples'?"),
        ("data", {"batchsize": 3}, "did you mean 'batch_size'?"),
        ("strategy DARTS", {"lr": 3}, "did you mean 'evaluator.optimizer.lr'?"),
        ("selection", {"epochs": 3}, "has no option 'epochs'. Options"),
    ],
)
def test_an_option_of_a_config_in_the_wrong_place_or_of_another_name(where: str, given: dict, hint: str) -> None:
    allowed = {
        "the config": ("name", "seed", "space", "data", "strategy", "evaluator", "diagnostics", "top_k", "threads"),
        "evaluator": ("epochs", "optimizer", "schedule", "logger", "devices"),
        "evaluator.optimizer": ("lr", "momentum", "weight_decay"),
        "data": ("name", "root", "batch_size", "num_workers"),
        "strategy DARTS": ("arc_learning_rate", "gradient_clip_val"),
        "selection": ("n", "proxy"),
    }[where]
    cls = make_dataclass("Given", [(name, Any, None) for name in allowed], kw_only=True)
    with pytest.raises(OptionError) as reported:
        read_options(declared_options(called=where)(cls), given)
    assert hint in str(reported.value)


def test_words_that_are_no_names_of_one_thing_are_not_taken_for_it() -> None:
    assert setting("colour") is None
    assert nearest("learning_rate", ("momentum", "dampening")) == "."


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart.yml", "search.py", "nb201_full.parquet"):
        Path(name).write_text("x")
    Path("runs/quickstart").mkdir(parents=True)
    Path("runs/quickstart/manifest.json").write_text("{}")
    return tmp_path


CHEAP = {
    f"search {'x' * 300}.yml": "File name too long",
    f"report {'x' * 300}": "File name too long",
    "export runs/quickstart/manifest.json/x": "Not a directory",
    "search quikstart.yml": "quikstart.yml: No such file or directory; did you mean 'quickstart.yml'?",
    "search search.py": "Run a script that makes a NasExperiment itself: `python search.py`",
    "search runs/quickstart": "balenas search runs/quickstart/config.yml --output runs/quickstart --resume",
    "search runs": "cannot read the config runs: Is a directory",
    "ui quikstart.yml": "did you mean 'quickstart.yml'?",
    "ui runs/quickstart": "balenas search runs/quickstart/config.yml",
    "export runs/quikstart": "there is no folder runs/quikstart: No such file or directory; did you mean 'runs",
    "export runs": "Is runs the folder of a run? There are runs in it: runs/quickstart",
    "export quickstart.yml": "it is a file",
    "report runs/quickstart runs/quikstart": "did you mean 'runs/quickstart'?",
    "query 7 --table nb201_ful.parquet": "did you mean 'nb201_full.parquet'?",
    "benchmark import nb201.pth": "cannot read the benchmark nb201.pth: No such file or directory",
    "reproduce table1 --scale smal.yml": "cannot read the scale smal.yml",
    "naslib nothing.py": "cannot read the script nothing.py",
}


def test_a_mistyped_file_is_reported_at_once(folder: Path) -> None:
    """All in one process, which must not have imported torch for any of them."""
    lines = [line.split() for line in CHEAP]
    codes = f"[main(line) for line in {lines}] == [2] * {len(lines)}"
    assert imported_by(f"from balenas_plugin.cli import main\nassert {codes}") == []


@pytest.mark.parametrize("line", CHEAP)
def test_a_mistyped_file_is_reported_with_what_is_there(
    line: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert CHEAP[line] in refused(*line.split(), capsys=capsys)
