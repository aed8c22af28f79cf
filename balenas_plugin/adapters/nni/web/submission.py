"""A strategy's side of a search that runs as trials: submit, wait, and go on where an earlier session was killed."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import requests
from nni.experiment import Experiment, rest
from nni.experiment.config.training_services import LocalConfig
from nni.nas.execution import TrainingServiceExecutionEngine
from nni.nas.experiment import NasExperiment

from balenas_plugin.adapters.nni.web.found import KEY, Found
from balenas_plugin.adapters.nni.web.machines import Machines, why_not_started
from balenas_plugin.adapters.nni.web.trials import CandidateTrial, SearchTrial
from balenas_plugin.errors import ManagerLostError, SearchFailedError

_logger = logging.getLogger(__name__)

_WAITING = ("WAITING", "RUNNING", "UNKNOWN", "ADD_RESUMED")  # the last: a resumed manager will start it again
_SUCCEEDED = "SUCCEEDED"
_CANCELED = "USER_CANCELED"
"""Also NNI's word for a process that a signal has killed, and for one whose machine is lost."""
_POLL = 1.0
"""Seconds between two looks at the trials."""
_PATIENCE = 60.0
"""Seconds without an answer after which a manager counts as lost, if its process cannot be seen to have ended."""

_AGAIN = "%s was in trial %s, whose process is gone, or its machine: it runs again, in another trial"

_REPORTS = re.compile(r"balenas: |[\w.]*(Error|Exception|Interrupt|Exit)\b")
"""A line of standard error that says what went wrong."""

Job = Mapping[str, Any]
"""A trial as NNI's manager describes it."""


class Submission:
    """The trials of one search.

    NNI's own waiting sees neither a manager that died nor the trials of an earlier session, so this looks at the
    manager's list of trials instead.

    Args:
        engine: of the experiment; its manager runs.
    """

    def __init__(self, engine: TrainingServiceExecutionEngine) -> None:
        self.engine = engine
        self.experiment: NasExperiment = engine.nodejs_binding
        self.machines = Machines(self.experiment)
        self._submitted: list[Any] = []  # the engine itself holds its models weakly

    @property
    def folder(self) -> Path | None:
        """Where this process and the trials can both write; None where trials may run on other machines."""
        config = self.experiment.config.canonical_copy()
        if not isinstance(config.training_service, LocalConfig):
            return None
        return Path(config.experiment_working_directory).resolve() / self.experiment.id / "search"

    def search(self, make: Callable[[], SearchTrial]) -> Found:
        """Run the search's trial, or take up an earlier session's, and return what it has found.

        Args:
            make: called if a trial has to be submitted.

        Raises:
            SearchFailedError: it failed, or was cancelled, or all machines are lost.
            ManagerLostError: NNI's manager ended.
        """
        earlier = [job for job in self._jobs(SearchTrial.kind) if job["status"] in (*_WAITING, _SUCCEEDED)]
        known = {job["trialJobId"] for job in self._jobs(SearchTrial.kind)}
        if not earlier:
            self._submit(make())
            wanted = self._until(lambda: [j for j in self._jobs(SearchTrial.kind) if j["trialJobId"] not in known])[0]
        else:
            wanted = earlier[-1]
        identifier = wanted["trialJobId"]
        (ended,) = self._wait(lambda job: job["trialJobId"] == identifier)
        if self._gave_up(ended) and not known:
            _logger.warning(_AGAIN, "The search", identifier)
            return self.search(make)
        if ended["status"] != _SUCCEEDED:
            resumed = "begin it anew" if self.machines.names else "go on from its last epoch"
            raise SearchFailedError(
                f"the search, trial {identifier}, ended as {ended['status']}{self._reason(ended)} "
                f"All that it wrote is in {ended.get('logPath', 'its log')}. Resume to {resumed}."
            )
        return self._until(lambda: self._found(identifier))

    def candidates(self, trials: Sequence[CandidateTrial]) -> dict[int, float]:
        """Submit the architectures as trials, except those of an earlier session, and wait for all.

        Returns:
            rank -> the default metric of each trial that succeeded.

        Raises:
            ManagerLostError: NNI's manager ended.
        """
        wanted = {trial.record["rank"]: trial for trial in trials}
        lost: dict[int, Job] = {}
        there = self._candidates()
        for rank, trial in wanted.items():
            if rank not in there:
                self._submit(trial)

        def ended() -> bool:
            jobs = self._candidates()
            if any(rank not in jobs or jobs[rank]["status"] in _WAITING for rank in wanted):
                return False
            for rank, trial in wanted.items():
                if rank not in lost and self._gave_up(jobs[rank]):
                    lost[rank] = jobs[rank]
                    _logger.warning(_AGAIN, f"Architecture {rank}", jobs[rank]["trialJobId"])
                    self._submit(trial)
            return all(jobs[rank]["trialJobId"] != job["trialJobId"] for rank, job in lost.items())

        try:
            self._until(ended)
        except SearchFailedError as error:
            _logger.warning("%s", error)
        found = {}
        for rank, job in self._candidates().items():
            if job["status"] == _SUCCEEDED and job.get("finalMetricData"):
                found[rank] = json.loads(json.loads(job["finalMetricData"][-1]["data"]))["default"]
            elif job["status"] not in _WAITING:
                _logger.warning("Trial %s ended as %s%s", job["trialJobId"], job["status"], self._reason(job))
        return found

    def _candidates(self) -> dict[int, Job]:
        """Return the last trial of each architecture."""
        return {job["parameters"]["record"]["rank"]: job for job in self._jobs(CandidateTrial.kind)}

    def finish(self) -> None:
        """Tell the manager that no trial will follow, so that the page says the experiment is done."""
        if self.machines.none_left:
            return  # NNI waits for one to try its last trial on
        self.experiment.update_max_trial_number(max(1, len(self._ask("/trial-jobs"))))
        self._until(lambda: self._ask("/check-status")["status"] == "DONE")

    def _submit(self, trial: Any) -> None:
        self._submitted.append(trial)
        self._until(lambda: self._try_to_submit(trial))

    def _try_to_submit(self, trial: Any) -> bool:
        try:
            self.engine.submit_models(trial)
        except TypeError:  # NNI numbers trials by looking at all of them, and cannot read one that has not started
            return False
        return True

    def _wait(self, which: Callable[[Job], bool]) -> list[Job]:
        def ended() -> list[Job] | None:
            jobs = [job for job in self._jobs() if which(job)]
            return jobs if all(job["status"] not in _WAITING for job in jobs) else None

        return list(self._until(ended))

    def _until(self, look: Callable[[], Any]) -> Any:
        """Return the first true answer; NNI shows what was sent to it seconds later.

        Raises:
            ManagerLostError: the manager ended, or cannot go on.
            SearchFailedError: all machines are lost.
        """
        while True:
            answer = look()
            if answer:
                return answer
            for machine in self.machines.look():
                _logger.warning("Machine %s is lost: NNI does not reach it, and takes the others from now on", machine)
            if self.machines.none_left:
                raise SearchFailedError(
                    f"all machines of experiment {self.experiment.id} are lost ({', '.join(self.machines.lost)}): what "
                    "has finished is kept; when they run again, resume the experiment."
                )
            health = self._ask("/check-status")
            if health["status"] == "ERROR":
                raise ManagerLostError(
                    f"NNI's manager of experiment {self.experiment.id} cannot go on: {'; '.join(health['errors'])}. "
                    "Mend that (free some disk space, say), then resume the experiment."
                )
            time.sleep(_POLL)

    def _jobs(self, kind: str | None = None) -> Iterator[Job]:
        """Yield the trials that a search has submitted, in their order, with their parameters as plain values."""
        for job in sorted(self._ask("/trial-jobs"), key=lambda job: job["sequenceId"]):
            parameters = json.loads(job["hyperParameters"][0])["parameters"] if job.get("hyperParameters") else {}
            if isinstance(parameters, dict) and "kind" in parameters and kind in (None, parameters["kind"]):
                yield {**job, "parameters": parameters}

    def _found(self, identifier: str) -> Found | None:
        for metric in reversed(self._ask(f"/metric-data/{identifier}")):
            value = json.loads(json.loads(metric["data"]))
            if isinstance(value, dict) and KEY in value:
                return Found.from_text(value[KEY])
        return None

    def _ask(self, what: str) -> Any:
        """Ask NNI's manager, again for a while if it does not answer.

        Raises:
            ManagerLostError: it has ended.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return rest.get(self.experiment.port, what, self.experiment.url_prefix)
            except (requests.RequestException, RuntimeError) as error:
                process = self.experiment._proc
                ended = process is None or process.poll() is not None
                if ended or time.monotonic() > deadline:
                    raise ManagerLostError(lost(self.experiment)) from error
                time.sleep(_POLL)

    def _gave_up(self, job: Job) -> bool:
        return job["status"] == _CANCELED and self.machines.gave_up(job["trialJobId"])

    def _reason(self, job: Job) -> str:
        """Return why a trial failed, as far as its status and its standard error say."""
        if job["status"] == _CANCELED:
            return ": it was cancelled on the page, or killed, perhaps for want of memory, or its machine is lost."
        prefix = f"/{self.experiment.url_prefix}" if self.experiment.url_prefix else ""
        address = f"http://localhost:{self.experiment.port}{prefix}/api/v1/nni/trial-file/{job['trialJobId']}/stderr"
        try:
            lines = requests.get(address, timeout=_PATIENCE).text.splitlines()
        except requests.RequestException:
            return "."
        reported = [line for line in lines if _REPORTS.match(line)]
        return f": {reported[-1].removeprefix('balenas: ').strip()}" if reported else "."


def lost(experiment: Experiment) -> str:
    """Return what to say where an experiment's manager is gone."""
    return (
        f"NNI's manager of experiment {experiment.id} has ended{why_not_started(experiment)}. Finished trials are "
        "kept: resume the experiment to go on."
    )
