"""Bad input, damaged files, full disks and NaN: one clear message, exit code 2, and nothing lost."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from balenas_plugin.bayes import Posterior
from balenas_plugin.cli import main

from .commands import Ended, Stop, balenas
from .comparison import assert_same_run, checkpoint_of


def message_of(ended: Ended) -> str:
    """Return the message of a command that ended with one, and assert that it printed nothing else."""
    assert ended.code == 2, (ended.code, ended.errors)
    assert ended.output == ""
    lines = [line for line in ended.errors.splitlines() if line.strip() and not line.startswith("search: ")]
    assert len(lines) == 1, ended.errors
    assert lines[0].startswith("balenas: ")
    assert "Traceback" not in ended.errors
    return lines[0]


OPTIONS = {
    "top level": ("evaluater.epochs=3", "did you mean 'evaluator'?"),
    "data": ("data.batchsize=3", "did you mean 'batch_size'?"),
    "space": ("space.stem_channels=3", "did you mean 'stem_out_channels'?"),
    "space name": ("space=NasBench2O1", "did you mean 'NasBench201'?"),
    "strategy": ("strategy.num_mc_sample=3", "did you mean 'num_mc_samples'?"),
    "strategy of NNI": ("strategy={name: DARTS, arc_lr: 1}", "has no option 'arc_lr'"),
    "strategy name": ("strategy=balenas", "did you mean 'BaLeNAS'?"),
    "evaluator": ("evaluator.epoch=3", "did you mean 'epochs'?"),
    "trainer": ("evaluator.acelerator=cpu", "did you mean 'accelerator'?"),
    "trainer's own": ("evaluator.max_epochs=3", "say evaluator.epochs"),
    "optimizer": ("evaluator.optimizer.weight_decy=3", "did you mean 'weight_decay'?"),
    "optimizer name": ("evaluator.optimizer=SDG", "did you mean 'SGD'?"),
    "schedule": ("evaluator.schedule=cosin", "did you mean 'cosine'?"),
    "schedule option": ("evaluator.schedule.min_lrr=1", "did you mean 'min_lr'?"),
    "sanity checks": ("evaluator.num_sanity_val_steps=2", "num_sanity_val_steps is set by the run itself"),
    "validation of BaLeNAS": ("evaluator.check_val_every_n_epoch=3", "say strategy.validate_every_n_epochs"),
    "no validation interval": ("evaluator.val_check_interval=0", "val_check_interval must be more than 0, got 0"),
    "long validation interval": ("evaluator.val_check_interval=100", "is 100, but an epoch has 2 training batches"),
    "no batches": ("evaluator.limit_train_batches=0", "limit_train_batches must be more than 0, got 0"),
    "overfitting": ("evaluator.overfit_batches=1", "needs a DataLoader: set data.on_device to false"),
    "time": ("evaluator.max_time=[]", "evaluator.max_time must be text or a mapping of options, got []"),
    "devices": ("evaluator.devices=[0]", "evaluator does not accept {'devices': [0]}"),
    "warm-up": ("strategy.warmup_epochs=3", "warmup_epochs must be less than the number of epochs, 3"),
    "warm-up of NNI": ("strategy={name: DARTS, warmup_epochs: 5}", "less than the number of epochs, 3, or nothing"),
    "seed of the data": ("data.seed=99999999999999999999", "data.seed must be at most 4294967295"),
    "threads": ("threads=99999999999", "threads must be at most 1024, got 99999999999"),
    "negative epochs": ("evaluator.epochs=-3", "whole number of at least 1, got -3"),
    "epochs' type": ("evaluator.epochs=many", "whole number of at least 1, got 'many'"),
    "space's type": ("space.stem_out_channels=wide", "space.stem_out_channels must be a whole number, got 'wide'"),
    "space's value": ("space.stem_out_channels=-4", "does not accept"),
    "images too small for the space": ("space=AutoFormer", "AutoFormer fails on images of shape (32, 3, 8, 8)"),
    "draws": ("strategy.num_mc_samples=0", "num_mc_samples"),
    "learning rate": ("strategy.arc_learning_rate=-1", "positive number, got -1"),
    "learning rate of NNI": ("strategy={name: nni.DARTS, arc_learning_rate: -1}", "at least 0, got -1"),
    "learning rate of NNI that is none": ("strategy={name: nni.DARTS, arc_learning_rate: .nan}", "at least 0, got nan"),
    "logging of NNI": ("strategy={name: nni.DARTS, log_prob_every_n_step: 0}", "whole number of at least 1, got 0"),
    "learning rate of NNI's type": ("strategy={name: nni.DARTS, arc_learning_rate: x}", "must be a number, got 'x'"),
    "temperature": ("strategy={name: GumbelDARTS, temperature: hot}", "number or 2 positive numbers, got 'hot'"),
    "cost without a table": ("strategy.cost={name: latency, reference: 5}", "needs the table that `balenas latency"),
    "cost's table": (
        "strategy.cost={name: latency, reference: 5, table: no.json}",
        "cannot read the table of costs no",
    ),
    "cost's table for nothing": (
        "strategy.cost={name: flops, reference: 5, table: x}",
        "so it takes no table",
    ),
    "cost's logarithm": (
        "strategy.cost={name: flops, reference: 1, form: mul#log}",
        "must be more than 1 for",
    ),
    "cost's form": ("strategy.cost={name: flops, reference: 9, form: mul}", "cost.form must be one of add#linear, mul"),
    "cost": ("strategy.cost={name: latency, reference: 5, table: no.json}", "cannot read the table of costs no.json"),
    "objects": ("strategy.penalty=3", "strategy.penalty must be a mapping of options, got 3"),
    "optimizer's type": ("evaluator.optimizer.lr=fast", "must be a number, got 'fast'"),
    "optimizer's value": ("evaluator.optimizer.lr=-1", "Invalid learning rate: -1"),
    "optimizer's first step": ("evaluator.optimizer={name: Adam, capturable: true}", "takes no step with its options"),
    "optimizer's huge value": ("evaluator.optimizer.lr=1e308", "takes no step with its options"),
    "optimizer's list": ("evaluator.optimizer={name: Adafactor, eps: [1]}", "optimizer.eps must be 2 numbers, got [1]"),
    "schedule's huge value": ("evaluator.schedule.min_lr=1e300", "must be at most 3.4e+38, got 1e+300"),
    "precision that float32 lacks": ("strategy.initial_precision=1e39", "must be at most 3.4e+38, got 1e+39"),
    "too many draws": ("strategy.num_mc_samples=1000000000000000", "must be at most 10000"),
    "too many draws of the diagnostics": ("diagnostics.draws=1000000000", "diagnostics.draws must be at most 10000"),
    "too many nodes": ("evaluator.num_nodes=99999999999", "num_nodes must be at most 4096"),
    "nodes that nobody starts": ("evaluator={num_nodes: 2, accelerator: cpu}", "torchrun or Slurm, or set MASTER_ADDR"),
    "too many processes": ("evaluator={devices: 100000, accelerator: cpu}", "more than the"),
    "home of nobody": ("data={name: folder, root: ~nosuch-user/x}", "no such home directory"),
    "long root": (f"data={{name: folder, root: {'b' * 300}}}", "File name too long"),
    "optimizer with a closure": ("evaluator.optimizer=LBFGS", "is unknown"),
    "trainer's type": ("evaluator.log_every_n_steps=often", "must be a whole number, got 'often'"),
    "trainer's value": ("evaluator.accelerator=cpuu", "invalid accelerator name"),
    "validation set": ("data.train_fraction=0.8", "validation set has 26 examples, fewer than one batch of 32"),
    "training set": ("data.train_fraction=0.2", "training set has 26 examples, fewer than one batch of 32"),
    "too much data": ("data.limit=99999", "only 1500 training images"),
    "data set": ("data.name=cifar", "did you mean 'cifar10'?"),
    "no folder": ("data={name: cifar10_parquet}", "BALENAS_DATA"),
    "missing folder": ("data={name: folder, root: /nowhere}", "/nowhere"),
    "classes": ("space.num_labels=3", "3 outputs but the data has 10 classes"),
    "nothing to search": ("space='faulty_spaces:NothingToSearch'", "nothing to search"),
    "no space": ("space='faulty_spaces:NoSpace'", "not a subclass of"),
    "no class": ("space='faulty_spaces:Absent'", "has no attribute 'Absent'"),
    "path of a module": ("space=./absent_spaces:Space", "It is looked up as module:Class"),
    "no module": ("space='absent_spaces:Space'", "No module named 'absent_spaces'"),
    "module with a mistake": ("space='mistaken_spaces:Space'", "mistaken_spaces.py, line 1"),
}


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Return a function that runs a command in this process, in the folder of tiny.yml."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("BALENAS_DATA", "")
    monkeypatch.syspath_prepend(folder)

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        code = main(list(map(str, arguments)))
        printed = capsys.readouterr()
        return Ended(code, printed.out, printed.err)

    return run


@pytest.mark.parametrize("case", OPTIONS)
def test_bad_option(case: str, here: Callable[..., Ended], folder: Path) -> None:
    (folder / "mistaken_spaces.py").write_text("class Space(:\n")
    option, expected = OPTIONS[case]
    assert expected in message_of(here("search", "tiny.yml", "--set", option))


@pytest.mark.parametrize("place", ["~nosuch-user/x", "b" * 300], ids=["home of nobody", "long"])
def test_a_table_whose_place_can_be_no_path_is_reported_before_the_search(place: str, folder: Path) -> None:
    message_of(balenas("search", "tiny.yml", folder=folder, BALENAS_DATA=place))
    assert list((folder / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("strategy=RandomOneShot", "space='faulty_spaces:NothingToSearch'"), "nothing to search"),
        (("strategy=Proxyless", "space=AutoFormer"), "strategy nni.Proxyless cannot search AutoFormer"),
        (
            ("strategy=nni.DARTS", "evaluator.devices=2", "evaluator.accelerator=cpu"),
            "strategy nni.DARTS searches on one device, got 2",
        ),
        (("strategy=nni.DARTS", "evaluator.gradient_clip_val=1"), "strategy.gradient_clip_val"),
    ],
)
def test_what_strategies_of_nni_do_not_take(
    options: tuple[str, ...], expected: str, here: Callable[..., Ended]
) -> None:
    assert expected in message_of(here("search", "tiny.yml", *(word for o in options for word in ("--set", o))))


def test_processes_that_torchrun_starts_need_a_common_folder(folder: Path) -> None:
    ended = balenas("search", "tiny.yml", "--set", "evaluator.devices=2", folder=folder, LOCAL_RANK="1")
    assert "--output DIR, the same for all" in message_of(ended)


def test_a_process_prints_the_message_only(finished: Path, folder: Path) -> None:
    ended = balenas("search", "tiny.yml", "--set", "data.train_fraction=0.8", folder=folder, BALENAS_DATA="")
    assert "validation set has 26 examples" in message_of(ended)  # nor does anything come at exit
    of_the_installed = (finished.parents[1] / "errors.txt").read_text()
    assert all(line.startswith("search: ") for line in of_the_installed.splitlines() if line.strip())
    manifest = json.loads((folder / "runs" / "tiny" / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert "validation set has 26 examples" in manifest["error"]


def test_a_mistake_found_at_once_leaves_no_folder(folder: Path) -> None:
    message_of(balenas("search", "tiny.yml", "--set", "space.stem_channels=3", folder=folder))
    assert list((folder / "runs").iterdir()) == []


@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_a_folder_whose_name_is_too_long(resume: tuple[str, ...], here: Callable[..., Ended]) -> None:
    message = message_of(here("search", "tiny.yml", "--output", "x" * 300, *resume))
    assert "File name too long. Choose another --output" in message


@pytest.mark.parametrize("output", ["tiny.yml/run", "/proc/run", "x/" * 1500], ids=["in a file", "no disk", "deep"])
def test_a_folder_that_cannot_be_made(output: str, here: Callable[..., Ended]) -> None:
    assert "cannot create the folder" in message_of(here("search", "tiny.yml", "--output", output))


# -- NaN --------------------------------------------------------------------------------------------------------------


def test_nan_stops_the_search_and_keeps_the_last_good_checkpoint(folder: Path) -> None:
    space = "space={name: 'faulty_spaces:Stopping', stem_out_channels: 2, num_modules_per_stack: 1}"
    # an epoch has 2 + 2 training passes and 2 of validation: the 9th is the second epoch's second architecture step
    quiet = ("--set", "diagnostics.enabled=false", "--set", "strategy.channels_last=false")  # or they would pass too
    ended = balenas("search", "tiny.yml", "--set", space, *quiet, folder=folder, STOP_AT="9", STOP_WITH="nan")
    message = message_of(ended)
    assert "loss of the architecture step became nan in epoch 1, step 1" in message
    assert "learning rate" in message
    run = folder / "runs" / "tiny"
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert "became nan in epoch 1" in manifest["error"]
    checkpoint = checkpoint_of(run)
    assert checkpoint["epoch"] == 0
    assert all(torch.isfinite(value).all() for value in checkpoint["state_dict"].values())
    assert len((run / "history.csv").read_text().splitlines()) == 2  # its header and the first epoch
    Posterior.load(run / "posterior.json")


def test_a_huge_learning_rate_ends_in_nan(folder: Path) -> None:
    ended = balenas("search", "tiny.yml", "--set", "evaluator.optimizer.lr=1e30", folder=folder)
    assert "became nan in epoch 0, step 1" in message_of(ended)


# -- a full disk ------------------------------------------------------------------------------------------------------


def test_full_disk_keeps_what_was_there_and_resumes(finished: Path, folder: Path) -> None:
    """After an epoch's last step: the first time among the first files written, then at the last."""
    run, resume = folder / "runs" / "tiny", []
    for count, file_size, named in ((2, 7_000, "diagnostics.jsonl"), (1, 20_000, "checkpoints/last.ckpt")):
        full = Stop("validation end", count=count)
        message = message_of(balenas("search", "tiny.yml", *resume, folder=folder, stop=full, file_size=file_size))
        assert f"runs/tiny/{named}" in message
        assert "disk space" in message
        assert checkpoint_of(run)["epoch"] == 0
        Posterior.load(run / "posterior.json")
        assert json.loads((run / "manifest.json").read_text())["status"] == "failed"
        assert list(run.rglob("*.tmp")) == []
        resume = ["--resume"]
    resumed = balenas("search", "tiny.yml", *resume, folder=folder)
    assert resumed.code == 0, resumed.errors
    assert_same_run(run, finished)


# -- damaged files ----------------------------------------------------------------------------------------------------


class Malicious:
    """Unpickling this creates a file named `executed`."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


def damage(checkpoint: Path, how: str) -> None:
    whole = checkpoint.read_bytes()
    if how == "truncated":
        checkpoint.write_bytes(whole[: len(whole) // 2])
    elif how == "empty":
        checkpoint.write_bytes(b"")
    elif how == "random bytes":
        checkpoint.write_bytes(bytes(torch.randint(256, (5000,), dtype=torch.uint8).tolist()))
    elif how == "pickle that runs a command":
        checkpoint.write_bytes(pickle.dumps(Malicious()))
    elif how == "checkpoint that runs a command":
        torch.save({**torch.load(checkpoint, weights_only=True), "extra": Malicious()}, checkpoint)
    elif how == "something else":
        torch.save({"weights": torch.zeros(3)}, checkpoint)
    elif how == "without random states":
        content = torch.load(checkpoint, weights_only=True)
        del content["callbacks"]["SearchCheckpoint"]["random"]
        torch.save(content, checkpoint)
    elif how == "without optimizers":
        content = torch.load(checkpoint, weights_only=True)
        del content["optimizer_states"]
        torch.save(content, checkpoint)
    elif how == "one bit flipped":
        weights = torch.load(checkpoint, weights_only=True)["state_dict"].values()
        largest = max(weights, key=torch.numel).untyped_storage()
        position = whole.index(bytes(largest.tolist())) + 5  # in the zip file, whose checksums torch does not look at
        checkpoint.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
    elif how == "one weight changed":
        content = torch.load(checkpoint, weights_only=True)
        next(w for w in content["state_dict"].values() if w.ndim == 4)[0, 0, 0, 0] += 1e-6
        torch.save(content, checkpoint)
    elif how == "with a weight missing":
        content = torch.load(checkpoint, weights_only=True)
        content["state_dict"].popitem()
        torch.save(content, checkpoint)


@pytest.mark.parametrize(
    "how",
    [
        "truncated",
        "empty",
        "random bytes",
        "pickle that runs a command",
        "checkpoint that runs a command",
        "something else",
        "without random states",
        "without optimizers",
        "with a weight missing",
        "one weight changed",
        "one bit flipped",
    ],
)
def test_damaged_checkpoint(how: str, copy_of_stopped: Path, folder: Path, here: Callable[..., Ended]) -> None:
    checkpoint = copy_of_stopped / "checkpoints" / "last.ckpt"
    damage(checkpoint, how)
    damaged = checkpoint.read_bytes()
    message = message_of(here("search", "tiny.yml", "--resume"))
    assert "last.ckpt" in message
    assert "start the search anew" in message or "folder of a search" in message
    assert checkpoint.read_bytes() == damaged
    assert not (folder / "executed").exists()


def test_a_damaged_checkpoint_removed_starts_the_search_anew(
    copy_of_stopped: Path, finished: Path, folder: Path
) -> None:
    (copy_of_stopped / "checkpoints" / "last.ckpt").unlink()
    ended = balenas("search", "tiny.yml", "--resume", folder=folder)
    assert ended.code == 0, ended.errors
    assert_same_run(copy_of_stopped, finished)


def test_checkpoint_of_another_search(copy_of_stopped: Path, folder: Path) -> None:
    other = ("--set", "space.stem_out_channels=4", "--set", "evaluator.epochs=1", "--output", "other")
    assert balenas("search", "tiny.yml", *other, folder=folder).code == 0
    shutil.copy(folder / "other" / "checkpoints" / "last.ckpt", copy_of_stopped / "checkpoints" / "last.ckpt")
    message = message_of(balenas("search", "tiny.yml", "--resume", folder=folder))
    assert "is not of this search" in message


def test_checkpoint_of_the_same_search_with_another_seed(copy_of_stopped: Path, folder: Path) -> None:
    checkpoint = copy_of_stopped / "checkpoints" / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["balenas_seal"]["run"]["config"]["seed"] = 7
    torch.save(content, checkpoint)
    message = message_of(balenas("search", "tiny.yml", "--resume", folder=folder))
    assert "is not of this search: seed was 7, is 0" in message


def test_checkpoint_of_an_older_version_is_resumed_and_said_to_be_unchecked(
    copy_of_stopped: Path, finished: Path, folder: Path
) -> None:
    checkpoint = copy_of_stopped / "checkpoints" / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    del content["balenas_seal"]
    torch.save(content, checkpoint)
    (copy_of_stopped / ".balenas-run").unlink()
    ended = balenas("search", "tiny.yml", "--resume", folder=folder)
    assert ended.code == 0, ended.errors
    assert "kept no SHA-256" in ended.errors
    assert_same_run(copy_of_stopped, finished)


@pytest.mark.parametrize("name", ["config.yml", "manifest.json"])
def test_damaged_run_folder(name: str, copy_of_stopped: Path, here: Callable[..., Ended]) -> None:
    for content in (b"", b"[1, 2", b"just words", b"\xff\xfe\x00", b"[]", b"{}", b"seed: {a: 1}"):
        (copy_of_stopped / name).write_bytes(content)
        assert name in message_of(here("search", "tiny.yml", "--resume")), content


def test_damaged_architectures_of_a_finished_run(copy_of_finished: Path, here: Callable[..., Ended]) -> None:
    for content in (b"", b"[1, 2", b"{}", b"[{}]", b"\xff"):
        (copy_of_finished / "architectures.json").write_bytes(content)
        ended = here("search", "tiny.yml", "--resume")
        assert ended.code == 2
        assert "architectures.json" in ended.errors, content
