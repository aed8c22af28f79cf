"""`balenas train` of a finished run: killed, interrupted, resumed; the supernet's weights; bad input."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from .commands import Stop, balenas

SMALL = ("--epochs", 2, "--set", "network.channels=2", "--set", "data.limit=128")


def test_a_killed_training_of_a_run_ends_as_if_it_had_not_been(copy_of_finished: Path, folder: Path) -> None:
    command = ("train", copy_of_finished, *SMALL, "--seeds", "0-1")
    whole = balenas(*command, "--output", "whole", folder=folder)
    assert whole.code == 0, whole.errors
    for line in ("test accuracy", "mean of 2 seeds", "confused", "multiply-adds", "ms per example"):
        assert line in whole.output
    assert balenas(*command, "--output", "killed", folder=folder, stop=Stop("batch end", 3)).code == -9
    again = (*command, "--output", "killed", "--resume")
    interrupted = balenas(*again, folder=folder, stop=Stop("batch end", 1, signal.SIGINT))
    assert interrupted.code == 130
    assert "To continue exactly where it was: balenas train" in interrupted.errors
    assert balenas(*again, folder=folder).code == 0
    for file in ("weights.safetensors", "metrics.csv"):
        for seed in ("seed_0", "seed_1"):
            assert (folder / "whole" / seed / file).read_bytes() == (folder / "killed" / seed / file).read_bytes()
    assert (folder / "whole/network.py").exists()
    other = balenas(*again, "--set", "batch_size=32", folder=folder)
    assert other.code == 2
    assert "other settings: recipe.batch_size was 64, is 32" in other.errors
    assert json.loads((folder / "whole/train.json").read_text())["seeds"] == [0, 1]


def test_the_weights_of_the_supernet(copy_of_finished: Path, folder: Path) -> None:
    few = ("--epochs", 2, "--set", "data.limit=128")
    ended = balenas("train", copy_of_finished, *few, "--rank", 2, "--warm-start", folder=folder)
    assert ended.code == 0, ended.errors
    assert (copy_of_finished / "trained/train.json").exists()


def test_bad_input_is_one_sentence(folder: Path) -> None:
    for arguments, message in (
        (("runs/nothing",), "there is no folder or file runs/nothing"),
        (("quickstrat",), "there is no folder or file quickstrat. As an architecture: "),
        (("DARTS_V2", "--recipe", "smal"), "did you mean 'small'"),
        (("DARTS_V2", "--data", "digits", "--set", "network.stages=3"), "no such size; theirs are channels, cells"),
        (("|none~0|",), "none~0"),
    ):
        ended = balenas("train", *arguments, folder=folder)
        assert (ended.code, ended.errors.count("\n")) == (2, 1)
        assert message in ended.errors
