"""The Lightning callback that watches a search and writes diagnostics.jsonl."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from nni.nas.oneshot.pytorch.differentiable import DartsLightningModule
from tqdm import tqdm

from balenas_plugin.adapters.nni.callbacks.learned import header_of, search_state
from balenas_plugin.adapters.nni.callbacks.probing import accuracy_at, curvature_of
from balenas_plugin.adapters.nni.callbacks.search_callback import SearchCallback
from balenas_plugin.adapters.nni.callbacks.stages import Stages
from balenas_plugin.adapters.nni.one_shot.distribution_module import DistributionModule
from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.diagnostics import DiagnosticsOptions, SearchState, stop_reason, summarise, warnings_of
from balenas_plugin.diagnostics.curvature import epochs_between
from balenas_plugin.diagnostics.log_file import append_record, as_written, plain, write_log
from balenas_plugin.errors import EvaluatorError
from balenas_plugin.ground_truth import accuracies_of
from balenas_plugin.restoring import random_numbers_restored
from balenas_plugin.schedules import Stop


class Diagnostics(SearchCallback):
    """Watch BaLeNAS, or one of NNI's own one-shot strategies, epoch by epoch; the search goes on as without it.

    Give it to the evaluator: ``Classification(..., callbacks=[Diagnostics("diagnostics.jsonl")])``. What is written
    is described in `balenas_plugin.diagnostics.log_file`; the numbers also go to the trainer's loggers, under
    ``diagnostics/``. A warning is reported once, when it begins. A resumed search continues the file.

    Args:
        path: of the file; an older one there is replaced when training starts.
        options: `DiagnosticsOptions`, or a dict of them.
        seed: of the draws and of whatever else is random in the measurements.
        table: of the space's benchmark, for the ground truth; None: see `open_table`.
    """

    def __init__(
        self,
        path: str | Path,
        options: DiagnosticsOptions | Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        table: Path | None = None,
    ) -> None:
        self.path = Path(path)
        self.options = DiagnosticsOptions.of({} if options is None else options)
        self.seed = seed
        self.table = table
        self.records: list[dict[str, Any]] = []
        self._header: dict[str, Any] | None = None
        self._validated = False

    # -- Lightning's hooks --------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget an earlier search when another begins."""
        super().setup(trainer, pl_module, stage)
        if self.searching:
            self.records, self._header = [], None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the file, or drop the epochs in it that will be computed again (see `History.on_fit_start`)."""
        if not self.searching or not trainer.is_global_zero:
            return
        if self._header is not None:
            write_log(self.path, self._header, self.records)
        else:
            self.path.unlink(missing_ok=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop a search that was killed after it had decided to stop."""
        if self.searching and self.records and "stopped" in self.records[-1]:
            trainer.should_stop = True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Expect a validation."""
        self._validated = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that this epoch has been validated."""
        self._validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Measure, write, report, and stop the search if that was asked for."""
        if not self.searching:
            return
        if trainer.is_global_zero:
            with random_numbers_restored():  # NNI's sampling strategies draw when they are asked
                self._measure(trainer, pl_module)
        stop = bool(self.records) and self.records[-1].get("stopped") is not None
        if self.options.stop_by != "never" and trainer.strategy.reduce_boolean_decision(stop, all=False):
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Return all that was measured."""
        return {"records": self.records, "header": self._header}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the epochs of a checkpoint."""
        self.records = list(state_dict["records"])
        self._header = state_dict["header"]

    # -- one epoch ----------------------------------------------------------------------------------------------------

    def _measure(self, trainer: Any, module: BaseOneShotLightningModule) -> None:
        state = search_state(module)
        if state is None:
            return
        epoch = trainer.current_epoch
        summary = summarise(state, draws=self.options.draws, seed=self.seed + epoch, truths=self._truths(state))
        record = {"epoch": epoch, **self._accuracy(trainer, module, summary.get("architecture")), **summary}
        learned = isinstance(module, DistributionModule)
        if learned and (own := module.distribution.own_metrics()):
            record["own"] = plain(own)
        broken = [*record.get("not_finite", []), *_broken_weights(module)]
        if broken:
            record["not_finite"] = broken
        elif self._curvature_is_due(trainer, state):
            record.update(self._curvature(trainer, module))
        records = [*self.records, record]
        warmup = int(getattr(module, "warmup_epochs", 0))
        learns = not learned or module.distribution.learns
        warnings = warnings_of(
            records,
            self.options,
            skip_rule=state.space.skip_rule,
            warmup_epochs=warmup,
            has_posterior=learned,
            learns=learns,
        )
        if warnings:
            record["alarms"] = [warning.to_dict() for warning in warnings]
        reason = stop_reason(records, self.options, warmup_epochs=warmup)
        if reason is not None:
            record["stopped"] = reason
        for stages in (c for c in trainer.callbacks if isinstance(c, Stages) and not broken):
            edits = stages.decided(trainer, state, record.get("eigenvalue"), stopping=reason is not None)
            record["events"] = [*map(str, edits)]
            if ended := [edit.reason for edit in edits if isinstance(edit, Stop)]:
                record["stopped"] = ended[0]
        record = as_written(record)
        self._write(state, module, record)
        self._report(record)
        _log(trainer, record, state)

    def _write(self, state: SearchState, module: BaseOneShotLightningModule, record: dict[str, Any]) -> None:
        first = self._header is None
        if first:
            header = {**header_of(state, module), "options": asdict(self.options), "seed": self.seed}
            self._header = as_written(header)
        before = {warning["kind"] for warning in (self.records[-1] if self.records else {}).get("alarms", [])}
        self._new_warnings = [warning for warning in record.get("alarms", []) if warning["kind"] not in before]
        self.records.append(record)
        if first or not self.path.exists():
            write_log(self.path, self._header or {}, self.records)
        else:
            append_record(self.path, record)

    def _report(self, record: dict[str, Any]) -> None:
        lines = [f"{warning['message']} {warning['cure']}" for warning in self._new_warnings]
        if "stopped" in record:
            lines.append(f"stopped early: {record['stopped']}.")
        for line in lines:
            tqdm.write(f"balenas: epoch {record['epoch']}: {line}", file=sys.stderr)

    def _curvature_is_due(self, trainer: Any, state: SearchState) -> bool:
        method, every = self.options.curvature, self.options.curvature_every_n_epochs
        if every == "auto":
            decides = self.options.stop_by == "eigenvalue" or any(isinstance(c, Stages) for c in trainer.callbacks)
            iterations = math.inf if decides else trainer.num_training_batches
            logits = sum(map(len, state.choices.values()))
            every = epochs_between(logits, iterations, method=method, batches=self.options.curvature_batches)
        return method != "off" and (trainer.current_epoch + 1) % every == 0

    def _curvature(self, trainer: pl.Trainer, module: BaseOneShotLightningModule) -> dict[str, Any]:
        try:
            found = curvature_of(
                module,
                trainer,
                method=self.options.curvature,
                num_batches=self.options.curvature_batches,
                seed=self.seed,
            )
        except (EvaluatorError, RuntimeError, NotImplementedError) as error:
            return {"curvature": {"method": "none", "reason": str(error).partition("\n")[0]}}
        how = {"method": found.method, "products": found.products}
        return {"eigenvalue": plain(found.eigenvalue), "trace": plain(found.trace), "curvature": how}

    def _accuracy(
        self, trainer: pl.Trainer, module: BaseOneShotLightningModule, architecture: Architecture | None
    ) -> dict[str, Any]:
        """Return the validation accuracy: the evaluator's own, or measured here where the strategy never validates."""
        metrics = trainer.callback_metrics
        if self._validated and "val_acc" in metrics:
            return {"val_acc": plain(float(metrics["val_acc"]))}
        measurable = isinstance(module, DartsLightningModule) and not isinstance(module, DistributionModule)
        if self._validated or not measurable or not self.options.validate:
            return {}
        try:
            accuracy = accuracy_at(module, trainer, architecture, seed=self.seed)
        except (EvaluatorError, RuntimeError):  # a measurement is not worth a search
            return {}
        return {} if accuracy is None else {"val_acc": plain(accuracy)}

    def _truths(self, state: SearchState) -> Any:
        def truths(samples: Sequence[Architecture]) -> dict[str, Any] | None:
            return accuracies_of([state.space.notations(architecture) for architecture in samples], self.table)

        return truths


def _broken_weights(module: torch.nn.Module) -> list[str]:
    return [] if all(torch.isfinite(p).all() for p in module.parameters()) else ["weights"]


def _log(trainer: pl.Trainer, record: Mapping[str, Any], state: SearchState) -> None:
    """Give the numbers to the loggers; not through `LightningModule.log`, whose metrics are the search's own."""
    names = ("entropy", "choice_entropy", "skip_ratio", "parameter_free_share", "eigenvalue", "trace")
    numbers = {f"diagnostics/{name}": record.get(name) for name in names}
    numbers.update({f"diagnostics/sigma/{name}": value for name, value in record.get("sigma", {}).items()})
    numbers.update({f"diagnostics/{name}": value for name, value in record.get("own", {}).items()})
    for label, probabilities in record.get("probabilities", {}).items():
        for name, value in zip(state.choices[label], probabilities, strict=False):
            numbers[f"diagnostics/probability/{label}/{name}"] = value
    for name, value in record.get("ground_truth", {}).get("accuracy", {}).items():
        numbers[f"diagnostics/ground_truth/{name}"] = value
    for name, cell in record.get("cells", {}).items():
        numbers.update({f"diagnostics/cell/{name}/{what}": value for what, value in cell.items()})
    step = trainer.fit_loop.total_batch_idx
    for logger in trainer.loggers:
        logger.log_metrics({name: value for name, value in numbers.items() if value is not None}, step=step)
