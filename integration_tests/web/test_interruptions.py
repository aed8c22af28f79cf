"""Trials, managers and `balenas ui` itself killed at odd moments: nothing finished is lost, nothing is left running."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from .programs import Experiment, Program, balenas_ui, manager_of, processes_of, until

EPOCHS = 15
ARGUMENTS = ("tiny.yml", "--port", 0, "--output", "run", "--set", f"evaluator.epochs={EPOCHS}")
ARGUMENTS = (*ARGUMENTS, "--set", "strategy.candidate_trials=0")


def searching(program: Program, *, points: int) -> Experiment:
    """Wait until the search has reported so many epochs."""
    experiment = Experiment.of(program)

    def look() -> bool:
        trials = experiment.trials()
        return bool(trials) and len(experiment.curve(trials[-1]["trialJobId"])) >= points

    until(look, what=f"epoch {points}")
    return experiment


def history(folder: Path) -> list[str]:
    return (folder / "run/history.csv").read_text().splitlines()[1:]


def test_a_search_survives_its_trial_and_its_manager(folder: Path) -> None:
    program = balenas_ui(*ARGUMENTS, folder=folder)
    experiment = searching(program, points=2)
    identifier = experiment.identifier

    (trial,) = (p for p in processes_of(identifier) if "trial" in p.cmdline())
    trial.kill()
    until(lambda: "stays open" in program.errors, what="the message")
    assert "balenas: the search, trial" in program.errors
    assert "cancelled on the page, or killed" in program.errors
    assert experiment.trials()[0]["status"] == "USER_CANCELED"  # the page is still there
    assert program.stop() == 2
    assert "Traceback" not in program.errors
    assert not list(processes_of(identifier))

    done = len(history(folder))
    assert done >= 2
    program = balenas_ui(*ARGUMENTS, "--resume", folder=folder)
    experiment = Experiment.of(program)
    until(lambda: len(experiment.trials()) == 2, what="the second trial")
    manager_of(identifier).kill()
    assert program.ended() == 2
    assert f"NNI's manager of experiment {identifier} has ended" in program.errors
    assert "Traceback" not in program.errors
    assert not list(processes_of(identifier))
    assert len(history(folder)) >= done

    program = balenas_ui(*ARGUMENTS, "--resume", "--close", folder=folder)
    assert program.ended() == 0, program.errors
    assert not list(processes_of(identifier))
    epochs = [int(row.split(",")[0]) for row in history(folder)]
    assert epochs == list(range(EPOCHS))
    assert json.loads((folder / "run/manifest.json").read_text())["status"] == "finished"
    assert "rank  probability" in program.output
    assert "Traceback" not in program.errors

    program = balenas_ui("--view", "run", "--port", 0, folder=folder)
    experiment = Experiment.of(program)
    assert experiment.identifier == identifier
    assert [trial["status"] for trial in experiment.trials()] == ["USER_CANCELED", "SUCCEEDED"]
    assert program.stop(signal.SIGHUP) == 0  # the terminal is closed
    assert not list(processes_of(identifier))


def test_a_killed_command_leaves_nothing_and_is_resumed_and_control_c_leaves_nothing(folder: Path) -> None:
    program = balenas_ui(*ARGUMENTS, folder=folder)
    identifier = searching(program, points=1).identifier
    assert program.stop(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: not list(processes_of(identifier)), what="the end of manager and trial", patience=60)
    done = len(history(folder))

    program = balenas_ui(*ARGUMENTS, "--resume", folder=folder)
    until(lambda: len(history(folder)) > done, what="the next epoch")
    assert program.stop(signal.SIGINT) == 130
    assert "balenas: stopped. To continue: balenas ui tiny.yml" in program.errors
    assert "Traceback" not in program.errors
    assert not list(processes_of(identifier))
