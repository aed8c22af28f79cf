"""A search that was killed and resumed ends bit for bit as if it had not been."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from balenas_plugin.adapters.nni.callbacks.checkpoint import _Sealing
from balenas_plugin.adapters.nni.callbacks.diagnostics_callback import Diagnostics
from balenas_plugin.diagnostics import read_log
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.training.epochs import History

from .commands import Stop, balenas, real_balenas
from .comparison import assert_same_run
from .conftest import STOPPING

KILLED = -signal.SIGKILL

KILLS = {
    "before there is a checkpoint": (
        Stop("start"),
        Stop("batch end"),
        Stop("architecture step", count=2),
        Stop("checkpoint half written"),
    ),
    "in the second epoch": (
        Stop("checkpoint in place"),
        Stop("batch end"),
        Stop("inside the architecture step", count=2),
        Stop("validation end"),  # before its history
    ),
    "around its checkpoint, and at the end": (
        Stop("batch end", count=3),
        Stop("checkpoint half written"),
        Stop("checkpoint written beside"),
        Stop("architectures"),
    ),
}
"""Where a search, and each of those that resume it, is killed."""


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("where", KILLS)
def test_killed_and_resumed_again_and_again_equals_uninterrupted(where: str, finished: Path, folder: Path) -> None:
    run, resume = folder / "runs" / "tiny", []
    for stop in KILLS[where]:
        killed = balenas("search", "tiny.yml", *resume, folder=folder, stop=stop)
        assert killed.code == KILLED, killed.errors
        assert read_json(run / "manifest.json")["status"] == "running"
        assert not (run / "architectures.json").exists()
        resume = ["--resume"]
    resumed = balenas("search", "tiny.yml", *resume, folder=folder)
    assert resumed.code == 0, resumed.errors
    assert_same_run(run, finished)
    manifest = read_json(run / "manifest.json")
    assert manifest["status"] == "finished"
    assert [session["resumed"] for session in manifest["sessions"]] == [False, *[True] * len(KILLS[where])]


def test_files_that_are_damaged_after_the_last_epoch_are_written_again(finished: Path, folder: Path) -> None:
    """No epoch is left to write them in."""
    run = folder / "runs" / "tiny"
    assert balenas("search", "tiny.yml", folder=folder, stop=Stop("checkpoint in place", count=3)).code == KILLED
    (run / "history.csv").unlink()
    (run / "diagnostics.jsonl").write_text("{}")
    assert balenas("search", "tiny.yml", "--resume", folder=folder).code == 0
    assert_same_run(run, finished)


def test_an_epoch_appends_to_the_logs_and_writes_them_again_only_where_it_must(tmp_path: Path) -> None:
    history = History(RunFolder(tmp_path).history, lambda: {"architecture": "a,b"})
    diagnostics, path = Diagnostics(tmp_path / "diagnostics.jsonl"), tmp_path / "history.csv"
    diagnostics.load_state_dict({"records": [], "header": {"strategy": "BaLeNAS"}})

    def after_epoch(epoch: int, **metrics: float) -> tuple[int, list[dict[str, str]]]:
        now: Any = SimpleNamespace(is_global_zero=True, current_epoch=epoch, callback_metrics=metrics)
        history.on_train_epoch_end(now, now)
        diagnostics._write(now, now, {"epoch": epoch})
        assert [record["epoch"] for record in read_log(diagnostics.path).records] == list(range(epoch + 1))
        with path.open() as file:
            return path.stat().st_ino, list(csv.DictReader(file))

    history.on_fit_start(SimpleNamespace(is_global_zero=True), None)  # type: ignore[arg-type]
    first, _ = after_epoch(0, train_loss=1.0)
    appended, rows = after_epoch(1, train_loss=0.5)
    assert appended == first
    assert rows[1] == {"epoch": "1", "train_loss": "0.5", "architecture": "a,b"}
    with_new_column, rows = after_epoch(2, train_loss=0.5, val_acc=0.9)
    assert with_new_column != first
    assert [row["val_acc"] for row in rows] == ["", "", "0.9"]
    path.unlink()
    diagnostics.path.unlink()
    _, rows = after_epoch(3, train_loss=0.25)
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["val_acc"] for row in rows] == ["", "", "0.9", ""]


def test_a_checkpoint_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("years of work")
    (tmp_path / "last.ckpt").symlink_to(tmp_path / "mine")
    for epoch in (0, 1):
        _Sealing({}).save_checkpoint({"epoch": epoch}, tmp_path / "last.ckpt")
    assert (tmp_path / "mine").read_text() == "years of work"
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 1


VARIANTS = {
    "second order, weights at a draw, two draws, warm-up, processes, validation every second epoch, selection": (
        "strategy.order=second",
        "strategy.weight_step_alpha=sample",
        "strategy.num_mc_samples=2",
        "strategy.warmup_epochs=1",
        "strategy.validate_every_n_epochs=2",
        "strategy.selection={proxy: supernet_accuracy, n: 10, images: 40}",
        "data.num_workers=1",
    ),
    "Newton's update, Adam, another schedule, gradients clipped": (
        "strategy.update=newton",
        "strategy.gradient_clip_val=1",
        "evaluator.optimizer={name: Adam, lr: 0.01}",
        "evaluator.schedule=constant",
    ),
    "NNI's RandomOneShot": ("strategy=RandomOneShot",),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_search_resumes_exactly(variant: str, folder: Path) -> None:
    command = ["search", "tiny.yml", *(word for option in VARIANTS[variant] for word in ("--set", option)), "--output"]
    whole = balenas(*command, "whole", folder=folder)
    assert whole.code == 0, whole.errors
    assert balenas(*command, "torn", folder=folder, stop=Stop("batch end", count=4)).code == KILLED
    resumed = balenas(*command, "torn", "--resume", folder=folder)
    assert resumed.code == 0, resumed.errors
    assert_same_run(folder / "torn", folder / "whole")
    if "every second epoch" in variant:
        with (folder / "torn" / "history.csv").open() as file:
            assert [row["val_acc"] != "" for row in csv.DictReader(file)] == [False, True, False]


def test_the_installed_command_killed_in_a_forward_pass(whole_of_stopping: Path, folder: Path) -> None:
    command = ("search", "tiny.yml", "--set", STOPPING, "--output")
    environment = {"STOP_AT": "9", "STOP_WITH": str(int(signal.SIGKILL))}
    killed = real_balenas(*command, "torn", folder=folder, **environment)
    assert killed.code == KILLED, killed.errors
    assert (folder / "torn" / "checkpoints" / "last.ckpt").exists()  # it was killed in its second epoch
    resumed = balenas(*command, "torn", "--resume", folder=folder)
    assert resumed.code == 0, resumed.errors
    assert_same_run(folder / "torn", whole_of_stopping)


# -- NNI's own resume -------------------------------------------------------------------------------------------------

EXPERIMENT = Path(__file__).with_name("experiment.py")


def test_nas_experiment_resume(tmp_path: Path) -> None:
    whole, torn = (tmp_path / name for name in ("whole", "torn"))
    for folder in (whole, torn):
        folder.mkdir()
    expected = balenas(folder=whole, script=EXPERIMENT)
    assert expected.code == 0, expected.errors
    for stop in (
        Stop("architecture step", count=2),  # there is no checkpoint yet
        Stop("architecture step", count=5),
        Stop("checkpoint half written"),
        Stop("checkpoint in place", count=2),  # after the last epoch
    ):
        killed = balenas(folder=torn, script=EXPERIMENT, stop=stop)
        assert killed.code == KILLED, killed.errors
    resumed = balenas(folder=torn, script=EXPERIMENT)
    assert resumed.code == 0, resumed.errors
    for result in ("posterior.json", "weights.pt"):
        assert (torn / result).read_bytes() == (whole / result).read_bytes(), result
    assert resumed.output.splitlines()[-1] == expected.output.splitlines()[-1]  # the architecture found


# -- what --resume refuses --------------------------------------------------------------------------------------------


def test_resume_with_another_config_names_the_difference(copy_of_stopped: Path, folder: Path) -> None:
    before = (copy_of_stopped / "checkpoints" / "last.ckpt").read_bytes()
    arguments = ("--set", "strategy.arc_learning_rate=0.02", "--seed", 3)
    ended = balenas("search", "tiny.yml", "--resume", *arguments, folder=folder)
    assert ended.code == 2
    assert "seed was 0, is 3" in ended.errors
    assert "strategy.arc_learning_rate was 0.01, is 0.02" in ended.errors
    assert (copy_of_stopped / "checkpoints" / "last.ckpt").read_bytes() == before


def test_an_option_that_is_left_out_is_its_default(copy_of_stopped: Path, folder: Path) -> None:
    config = yaml.safe_load((folder / "tiny.yml").read_text())
    strategy = config.pop("strategy")
    (folder / "tiny.yml").write_text(yaml.safe_dump(config))
    ended = balenas("search", "tiny.yml", "--resume", folder=folder)
    assert ended.code == 2
    assert "strategy.num_mc_samples was 1, is 3" in ended.errors
    written = yaml.safe_load((copy_of_stopped / "config.yml").read_text())
    (copy_of_stopped / "config.yml").write_text(yaml.safe_dump({**written, "strategy": strategy}))  # as of version 0.1
    (folder / "tiny.yml").write_text(yaml.safe_dump({**config, "strategy": {**strategy, "mc_batches": "full"}}))
    ended = balenas("search", "tiny.yml", "--resume", folder=folder)
    assert ended.code == 0, ended.errors


def test_resume_with_other_data_is_refused(copy_of_stopped: Path, folder: Path) -> None:
    manifest = json.loads((copy_of_stopped / "manifest.json").read_text())
    manifest["data"]["class_names"][0] = "naught"
    (copy_of_stopped / "manifest.json").write_text(json.dumps(manifest))
    ended = balenas("search", "tiny.yml", "--resume", folder=folder)
    assert ended.code == 2
    assert "the data are not those that runs/tiny was started with (other classes)" in ended.errors


def test_resume_of_a_finished_run_prints_its_result(copy_of_finished: Path, folder: Path) -> None:
    before = {path: path.read_bytes() for path in copy_of_finished.rglob("*") if path.is_file()}
    ended = balenas("search", "tiny.yml", "--resume", folder=folder)
    assert ended.code == 0
    assert "finished already" in ended.output
    for record in read_json(copy_of_finished / "architectures.json"):
        assert record["notation"]["nasbench201"] in ended.output
    assert {path: path.read_bytes() for path in copy_of_finished.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("arguments", [(), ("--output", "elsewhere")])
def test_resume_without_a_run(arguments: tuple[str, ...], folder: Path) -> None:
    ended = balenas("search", "tiny.yml", "--resume", *arguments, folder=folder)
    assert ended.code == 2
    assert "there is no run" in ended.errors
    assert "leave out --resume" in ended.errors
    assert not (folder / "runs").exists()


def test_resume_continues_the_latest_of_the_numbered_runs(
    copy_of_finished: Path, stopped: Path, finished: Path, folder: Path
) -> None:
    latest = folder / "runs" / "tiny-10"
    shutil.copytree(stopped, latest)
    (folder / "runs" / "tiny-2").mkdir()  # left by a search that was killed before it wrote anything
    ended = balenas("search", "tiny.yml", "--resume", folder=folder)
    assert ended.code == 0, ended.errors
    assert_same_run(latest, finished)


def test_resume_leaves_the_run_of_a_config_with_a_number_in_its_name(
    copy_of_stopped: Path, finished: Path, folder: Path
) -> None:
    other = folder / "runs" / "tiny-2"  # the first run of a config named tiny-2
    shutil.copytree(copy_of_stopped, other)
    for file in ("config.yml", "manifest.json"):
        (other / file).write_text((other / file).read_text().replace("tiny", "tiny-2"))
    ended = balenas("search", "tiny.yml", "--resume", folder=folder)
    assert ended.code == 0, ended.errors
    assert_same_run(copy_of_stopped, finished)
    assert read_json(other / "manifest.json")["status"] == "running"
    shutil.rmtree(copy_of_stopped)
    ended = balenas("search", "tiny.yml", "--resume", folder=folder)
    assert ended.code == 2
    assert "there is no run runs/tiny to resume" in ended.errors
