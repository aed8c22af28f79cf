"""Trials on other machines: NNI's own `remote` service, a real sshd each; the trials themselves are light ones."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from nni.experiment.config.training_services import RemoteConfig
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.experiment.config import NasExperimentConfig
from nni.nas.space import RawFormatModelSpace
from nni.tools.nnictl.config_utils import Experiments

from balenas_plugin.adapters.nni import BaLeNAS
from balenas_plugin.adapters.nni.run import reports
from balenas_plugin.adapters.nni.run.config_run import architecture_records
from balenas_plugin.adapters.nni.web import guard
from balenas_plugin.adapters.nni.web.found import Found
from balenas_plugin.adapters.nni.web.manager import SearchExperiment
from balenas_plugin.doctor.checks import Surroundings
from balenas_plugin.errors import ManagerLostError

from .engines import Space, evaluator_of
from .machines import SSHD, Machine, quick_python, two_machines
from .programs import free_port, processes_of, until

EPOCHS = 4


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[Machine], RemoteConfig]]:
    """Two machines, and a home and a working directory that are not the user's."""
    if SSHD is None:
        pytest.skip("no test on other machines: sshd is missing (Debian: apt-get install openssh-server)")
    home = tmp_path / "nni-experiments"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(guard, "NNI_HOME_DIR", str(home))
    monkeypatch.setattr(Experiments.__init__, "__defaults__", (str(home),))
    (tmp_path / "code").mkdir()
    (tmp_path / "code/README").write_text("NNI copies this folder to the machines, unless it is empty")
    monkeypatch.chdir(tmp_path / "code")
    with two_machines(tmp_path, path=quick_python(tmp_path / "bin")) as both:
        yield both


def experiment_of(strategy: BaLeNAS, service: RemoteConfig, folder: Path, port: int) -> SearchExperiment:
    config = NasExperimentConfig(
        "ts", "raw", training_service=service, trial_concurrency=2, nni_manager_ip="127.0.0.1", log_level="error"
    )
    config.experiment_working_directory = folder / "experiments"
    trial = shutil.copy(Path(__file__).with_name("light_trial.py"), folder / "light_trial.py")
    manager = f"MANAGER=http://127.0.0.1:{port}/secret"
    config._trial_command_params = {"envs": manager, "python": f"{sys.executable} -S {trial}"}
    experiment = SearchExperiment(Space(), evaluator_of(EPOCHS), strategy, config)
    experiment.url_prefix = "secret"
    return experiment


@pytest.mark.parametrize("lost", [1, 2])
def test_machines_are_lost(
    lost: int, tmp_path: Path, machines: tuple[list[Machine], RemoteConfig], caplog: pytest.LogCaptureFixture
) -> None:
    here = BaLeNAS(num_mc_samples=1)
    here.initialize(RawFormatModelSpace(Space(), evaluator_of(1)), SequentialExecutionEngine())
    here.run()
    records = list(architecture_records(here, Space(), 3))
    (tmp_path / "found.txt").write_text(Found(posterior=here.posterior, records=records).to_text())
    strategy = BaLeNAS(num_mc_samples=1, candidate_trials=3, candidate_epochs=EPOCHS)
    port = free_port()
    experiment = experiment_of(strategy, machines[1], tmp_path, port)

    def lose() -> None:
        def both_train() -> bool:
            running = [job for job in experiment.list_trial_jobs() if job.status == "RUNNING"]
            return len(running) == 2 and all(experiment.get_job_metrics(job.trialJobId) for job in running)

        until(both_train, what="two candidates at a time")
        for machine in machines[0][:lost]:
            machine.kill()
        (tmp_path / "go_on").touch()

    killer = threading.Timer(1, lose)
    experiment.on_started = killer.start
    try:
        with caplog.at_level(logging.WARNING):
            experiment.run(port)
        jobs = experiment.list_trial_jobs()
        reported = {job.trialJobId: experiment.get_job_metrics(job.trialJobId)[job.trialJobId] for job in jobs}
    finally:
        killer.join()
        experiment.stop()
    said = [record.message for record in caplog.records if record.name.startswith("balenas_plugin")]
    gone = "Machine 127.0.0.1 is lost: NNI does not reach it, and takes the others from now on"
    assert [text for text in said if "is lost" in text and "Trial" not in text] == [gone] * lost
    assert strategy.posterior.to_document() == here.posterior.to_document()
    assert not list(processes_of(experiment.id))
    if lost == 2:
        assert strategy.trained == {}
        assert len([text for text in said if text.startswith("all machines of experiment")]) == 1
        return
    assert {rank: one.metric for rank, one in strategy.trained.items()} == {1: 0.1, 2: 0.2, 3: 0.3}
    assert len([text for text in said if "it runs again, in another trial" in text]) == 1
    assert len(said) == 2
    assert sorted(job.status for job in jobs) == ["SUCCEEDED"] * 4 + ["USER_CANCELED"]
    curves = [reported[job.trialJobId] for job in jobs if job.status == "SUCCEEDED"]
    points = [sum(metric.type == "PERIODICAL" for metric in curve) for curve in curves]
    assert sorted(points) == [1, EPOCHS, EPOCHS, EPOCHS]


def test_why_machines_cannot_be_reached_is_said(tmp_path: Path, machines: tuple[list[Machine], RemoteConfig]) -> None:
    (one, _), service = machines
    service.machine_list[0].ssh_key_file = one.home / "host_key"  # another one
    port = free_port()
    experiment = experiment_of(BaLeNAS(candidate_epochs=EPOCHS), service, tmp_path, port)
    try:
        with pytest.raises(ManagerLostError, match=r"has ended: All configured authentication methods failed\. "):
            experiment.run(port)
    finally:
        experiment.stop()


def test_a_broken_connection_does_not_end_the_manager() -> None:
    node = Surroundings().node_folder
    assert node is not None
    connect = "new (require('ssh2').Client)().connect({host: '127.0.0.1', port: 1, username: 'x'})"
    command = [node / "node", "--require", Path(guard.__file__).with_suffix(".js"), "-e"]
    guarded = {"hosts": [], "parent": os.getpid(), "prefix": None, "secret": []}
    environment = {**os.environ, "BALENAS_GUARD": json.dumps(guarded)}
    ended = subprocess.run([*command, f"{connect}; setTimeout(process.exit, 500)"], cwd=node, env=environment)
    assert ended.returncode == 0


def test_a_trial_on_another_machine_finds_the_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = tmp_path / "environments/remote-worker1/trials/abcde"
    monkeypatch.setenv("NNI_OUTPUT_DIR", str(trial))
    monkeypatch.setenv("NNI_TRIAL_COMMAND_CHANNEL", "http://localhost:33333/env/remote-worker1/abcde")
    assert reports._manager() == "http://localhost:33333"  # on the manager's own machine
    keeper = tmp_path / "environments/remote-worker1/trial_keeper"
    keeper.mkdir(parents=True)
    config = {"managerCommandChannel": "ws://10.0.0.1:8080/secret/platform/remote/1"}
    (keeper / "launcher_config.json").write_text(json.dumps(config))
    assert reports._manager() == "http://10.0.0.1:8080/secret"
