"""What a search that is a trial reports to NNI's manager, and so its web page."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nni
import nni.trial
import pytorch_lightning as pl
import requests
from nni.runtime.trial_command_channel import get_default_trial_command_channel

from balenas_plugin.adapters.nni.one_shot.distribution_module import DistributionModule
from balenas_plugin.errors import ManagerLostError
from balenas_plugin.ground_truth import headline
from balenas_plugin.training.epochs import averaged_metrics

_ATTEMPTS = 10
"""How often to ask the manager for this trial's parameters."""

Metric = Mapping[str, float | str]
"""What NNI shows of a result: a number under "default", and other series by name."""


class TrialReport:
    """The line to NNI's manager of the trial that this process is; made after `nni.get_next_parameter()`.

    NNI's own `report_intermediate_result` cannot be used during a one-shot search: the engine that runs the search
    takes its place.

    Attributes:
        parameters: of this trial, as plain values.
    """

    def __init__(self) -> None:
        self._channel = get_default_trial_command_channel()
        record = _assigned() or nni.trial._params or {}
        self._parameter_id = record.get("parameter_id")
        self.parameters = record.get("parameters")

    def intermediate(self, metric: Metric, *, sequence: int) -> None:
        """Report one point of the trial's curve; one that is sent again replaces what was there.

        Raises:
            ManagerLostError: the manager does not answer.
        """
        self._send("PERIODICAL", metric, sequence)

    def final(self, metric: Metric) -> None:
        """Report the trial's result.

        Raises:
            ManagerLostError: the manager does not answer.
        """
        self._send("FINAL", metric, 0)

    def _send(self, kind: Any, metric: Metric, sequence: int) -> None:
        try:
            self._channel.send_metric(
                type=kind,
                parameter_id=self._parameter_id,
                trial_job_id=nni.get_trial_id(),
                sequence=sequence,
                value=dict(metric),
            )
        except requests.ConnectionError as error:
            raise ManagerLostError(
                f"NNI's manager does not answer any more, so trial {nni.get_trial_id()} of experiment "
                f"{nni.get_experiment_id()} ends. What it has computed is in its checkpoint: resume the experiment."
            ) from error


def _assigned() -> dict[str, Any] | None:
    """Return the parameters that NNI's page shows for this trial, or None if the manager cannot be asked.

    Where trials run two at a time, NNI gives the next parameters to whichever asks first: what `get_next_parameter`
    returns may be the other trial's. Each trial that takes what is shown for it keeps page, tuner and results in step.
    """
    manager = _manager()
    if manager is None:
        return None
    address = f"{manager}/api/v1/nni/trial-jobs/{nni.get_trial_id()}"
    for _attempt in range(_ATTEMPTS):
        with contextlib.suppress(requests.RequestException, ValueError, KeyError, IndexError):
            return dict(json.loads(requests.get(address, timeout=20).json()["hyperParameters"][0]))
        time.sleep(0.5)  # the manager notes a trial after it has started it
    return None


def _manager() -> str | None:
    """Return the manager's address: on its own machine trials talk to it, on others to a process that knows it."""
    above, found, _ = os.environ.get("NNI_TRIAL_COMMAND_CHANNEL", "").rpartition("/env/")
    if not found or not above.startswith("http"):
        return None
    environment = Path(os.environ.get("NNI_OUTPUT_DIR", ".")).resolve().parent.parent  # .../environments/ID/trials/ID
    configs = sorted(environment.glob("trial_keeper*/launcher_config.json"), key=lambda path: path.stat().st_mtime)
    if not configs:
        return above
    channel = str(json.loads(configs[-1].read_text(encoding="utf-8"))["managerCommandChannel"])
    return channel.rpartition("/platform/")[0].replace("ws", "http", 1)


class EpochReports(pl.Callback):
    """Report every epoch of a search: the validation metric at the posterior's mean, losses, entropy and sigma.

    Args:
        report: where to.
    """

    def __init__(self, report: TrialReport) -> None:
        self.report = report
        self.reported: float | None = None
        """What the evaluator itself has reported to NNI last: its own choice of the metric."""
        self.last: dict[str, float] = {}
        self.epoch = -1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the epoch."""
        metrics = averaged_metrics(trainer.callback_metrics)
        if isinstance(pl_module, DistributionModule):
            learned = pl_module.distribution.metrics()
            metrics |= {name: value for name, value in learned.items() if "/" not in name}
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self.last = {"default": self._default(finite), **finite}
        self.epoch = trainer.current_epoch
        if trainer.is_global_zero:
            self.report.intermediate(self.last, sequence=self.epoch)

    def _default(self, metrics: Mapping[str, float]) -> float:
        if self.reported is not None:
            return self.reported
        for name in ("val_acc", "train_acc"):
            if name in metrics:
                return metrics[name]
        return -next((value for name, value in metrics.items() if name.endswith("loss")), math.inf)

    def state_dict(self) -> dict[str, Any]:
        """Return the last report: a search that was stopped after its last epoch still has to send its result."""
        return {"last": self.last, "epoch": self.epoch, "reported": self.reported}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back the last report."""
        self.last, self.epoch, self.reported = state_dict["last"], state_dict["epoch"], state_dict["reported"]


def final_metric(reports: EpochReports, records: Sequence[Mapping[str, Any]]) -> Metric:
    """Return a search's result: its last report, and what is known of the architecture that it found."""
    best = records[0]
    last: Mapping[str, Any] = reports.last
    kept = {name: last[name] for name in ("default", "entropy", "sigma") if name in last}
    if best.get("log_probability") is not None:
        kept["log_probability"] = best["log_probability"]
    return kept | headline(best.get("ground_truth"))
