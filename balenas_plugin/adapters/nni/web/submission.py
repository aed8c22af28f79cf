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
from nni.experiment import rest
from nni.experiment.config.training_services import LocalConfig
from nni.nas.execution import TrainingServiceExecutionEngine
from nni.nas.experiment import NasExperiment

from balenas_plugin.adapters.nni.web.found import KEY, Found
from balenas_plugin.adapters.nni.web.trials import CandidateTrial, SearchTrial
from balenas_plugin.errors import ManagerLostError, SearchFailedError

_logger = logging.getLogger(__name__)

_WAITING = ("WAITING", "RUNNING", "UNKNOWN", "ADD_RESUMED")  # the last: a resumed manager will start it again
_SUCCEEDED = "SUCCEEDED"
_POLL = 1.0
"""Seconds between two looks at the trials."""
_PATIENCE = 60.0
"""Seconds without an answer after which a manager counts as lost, if its process cannot be seen to have ended."""

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
            SearchFailedError: it failed, or was cancelled.
            ManagerLostError: NNI's manager ended.
        """
        earlier = [job for job in self._jobs(SearchTrial.kind) if job["status"] in (*_WAITING, _SUCCEEDED)]
        if not earlier:
            known = {job["trialJobId"] for job in self._jobs(SearchTrial.kind)}
            self._submit(make())
            wanted = self._until(lambda: [j for j in self._jobs(SearchTrial.kind) if j["trialJobId"] not in known])[0]
        else:
            wanted = earlier[-1]
        identifier = wanted["trialJobId"]
        (ended,) = self._wait(lambda job: job["trialJobId"] == identifier)
        if ended["status"] != _SUCCEEDED:
            raise SearchFailedError(
                f"the search, trial {identifier}, ended as {ended['status']}{_reason(ended)} "
                f"All that it wrote is in {ended.get('logPath', 'its log')}. Resume to go on from its last epoch."
            )
        return self._until(lambda: self._found(identifier))

    def candidates(self, trials: Sequence[CandidateTrial]) -> dict[int, float]:
        """Submit the architectures as trials, except those of an earlier session, and wait for all.

        Returns:
            rank -> the default metric of each trial that succeeded.

        Raises:
            ManagerLostError: NNI's manager ended.
        """
        if not trials:
            return {}
        there = {job["parameters"]["record"]["rank"] for job in self._jobs(CandidateTrial.kind)}
        for trial in trials:
            if trial.record["rank"] not in there:
                self._submit(trial)
        wanted = {trial.record["rank"] for trial in trials}
        self._until(lambda: wanted <= {job["parameters"]["record"]["rank"] for job in self._jobs(CandidateTrial.kind)})
        found = {}
        for job in self._wait(lambda job: job["parameters"]["kind"] == CandidateTrial.kind):
            if job["status"] == _SUCCEEDED and job.get("finalMetricData"):
                metric = json.loads(json.loads(job["finalMetricData"][-1]["data"]))
                found[job["parameters"]["record"]["rank"]] = metric["default"]
            else:
                _logger.warning("Trial %s ended as %s%s", job["trialJobId"], job["status"], _reason(job))
        return found

    def finish(self) -> None:
        """Tell the manager that no trial will follow, so that the page says the experiment is done."""
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
        """
        while True:
            answer = look()
            if answer:
                return answer
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
                    raise ManagerLostError(lost(self.experiment.id)) from error
                time.sleep(_POLL)


def lost(experiment: str) -> str:
    """Return what to say where an experiment's manager is gone."""
    return (
        f"NNI's manager of experiment {experiment} has ended. Finished trials are kept: resume the experiment to go on."
    )


def _reason(job: Job) -> str:
    """Return why a trial failed, as far as its status and its standard error say."""
    if job["status"] == "USER_CANCELED":  # also NNI's word for a process that a signal has killed
        return ": it was cancelled on the page, or killed, perhaps for want of memory."
    path = Path(job.get("logPath", ""), "trial.stderr")
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "."
    reported = [line for line in lines if _REPORTS.match(line)]
    return f": {reported[-1].removeprefix('balenas: ').strip()}" if reported else "."
