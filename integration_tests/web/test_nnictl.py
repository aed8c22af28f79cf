"""Searches as trials of an experiment that `nnictl` runs: the shipped configs, a failing trial, a killed manager."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from balenas_plugin.adapters.nni.trial import as_overrides
from balenas_plugin.config import load_config

from .programs import Experiment, Program, free_port, manager_of, processes_of, until

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 12

EXPERIMENT: dict[str, Any] = {
    "experimentName": "a good and a bad setting",
    "searchSpace": {
        "strategy.num_mc_samples": {"_type": "choice", "_value": [0, 1]},
        "strategy.order": {"_type": "choice", "_value": ["first"]},
    },
    "trialCommand": f"python -m balenas_plugin.adapters.nni.trial tiny.yml --set evaluator.epochs={EPOCHS}",
    "trialCodeDirectory": ".",
    "trialConcurrency": 2,
    "maxTrialNumber": 2,
    "tuner": {"name": "GridSearch"},
    "trainingService": {"platform": "local"},
}


def nnictl(*arguments: object, folder: Path) -> Program:
    """Run `nnictl` to its end."""
    command = [sys.executable, "-W", "ignore", "-m", "nni.tools.nnictl.nnictl", *map(str, arguments)]
    program = Program(command, folder=folder)
    assert program.ended() == 0, program.output + program.errors
    return program


def test_a_failed_trial_shows_why_and_a_killed_manager_loses_nothing(folder: Path) -> None:
    (folder / "experiment.yml").write_text(yaml.safe_dump(EXPERIMENT))
    port = free_port()
    nnictl("create", "--config", "experiment.yml", "--port", port, "--url_prefix", "secret", folder=folder)
    experiment = Experiment(f"http://localhost:{port}/secret/oview")
    identifier = experiment.identifier
    try:
        until(lambda: {trial["status"] for trial in experiment.trials()} >= {"FAILED", "RUNNING"}, what="the failure")
        bad, good = sorted(experiment.trials(), key=lambda trial: trial["parameters"]["strategy.num_mc_samples"])
        assert bad["status"] == "FAILED"
        reported = requests.get(f"{experiment.api}/trial-file/{bad['trialJobId']}/stderr", timeout=60).text
        assert reported == "balenas: strategy.num_mc_samples must be a whole number of at least 1, got 0\n"

        until(lambda: len(experiment.curve(good["trialJobId"])) >= 2, what="the second epoch")
        (first,) = (p for p in processes_of(identifier) if p.environ().get("NNI_TRIAL_JOB_ID") == good["trialJobId"])
        manager = manager_of(identifier)
        manager.kill()
        manager.wait(timeout=60)  # NNI resumes only what has ended, and until it is reaped it counts as running
        nnictl("resume", identifier, "--port", port, folder=folder)
        experiment = Experiment(f"http://localhost:{port}/oview")
        until(lambda: experiment.ask("check-status")["status"] == "DONE", what="the end")
        assert not first.is_running()  # it would have reported as the trial that took its place
        ended = {trial["trialJobId"]: trial for trial in experiment.trials()}
        assert ended[bad["trialJobId"]]["status"] == "FAILED"
        assert ended[good["trialJobId"]]["status"] == "SUCCEEDED"
        curve = experiment.curve(good["trialJobId"])
        assert len(curve) == EPOCHS
        assert ended[good["trialJobId"]]["final"]["default"] == curve[-1]["default"]
    finally:
        nnictl("stop", identifier, folder=folder)
    until(lambda: not list(processes_of(identifier)), what="the end of every process")


@pytest.mark.parametrize("path", sorted((ROOT / "configs/nni").glob("*.yml")), ids=lambda path: path.stem)
def test_the_shipped_configs_are_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = yaml.safe_load(path.read_text())
    if "searchSpace" not in document:  # a search's own config
        assert load_config(path).name == path.stem
        return
    from nni.experiment.config import ExperimentConfig

    config = ExperimentConfig.load(path)
    config.validate()
    assert Path(config.canonical_copy().trial_code_directory).samefile(ROOT)
    monkeypatch.chdir(ROOT)
    search = next(Path(word) for word in document["trialCommand"].split() if word.endswith(".yml"))
    for value in (0, -1):
        parameters = {name: spec["_value"][value] for name, spec in document["searchSpace"].items()}
        load_config(search, as_overrides(parameters))
