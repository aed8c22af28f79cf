"""Run a search from a config inside NNI and write its folder."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from nni.nas.space import RawFormatModelSpace
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from balenas_plugin.adapters.nni.callbacks.checkpoint import SearchCheckpoint, require_checkpoint
from balenas_plugin.adapters.nni.callbacks.diagnostics_callback import Diagnostics
from balenas_plugin.adapters.nni.callbacks.plan import SearchPlan
from balenas_plugin.adapters.nni.callbacks.thread_choice import ThreadChoice
from balenas_plugin.adapters.nni.one_shot.search_options import warmup_of
from balenas_plugin.adapters.nni.run.build import build_evaluator, build_space
from balenas_plugin.adapters.nni.run.tasks import task_of
from balenas_plugin.adapters.nni.strategies.nni_strategies import build_strategy, with_defaults
from balenas_plugin.adapters.nni.strategies.strategy import DistributionStrategy
from balenas_plugin.adapters.nni.supernets.supernet_decisions import exported
from balenas_plugin.bayes.architectures import Architectures
from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.benchmarks import find_table
from balenas_plugin.config import SearchConfig
from balenas_plugin.data.checking import CHECKED
from balenas_plugin.errors import DataError, OptionError
from balenas_plugin.ground_truth import ground_truth_of
from balenas_plugin.run_folder import RunFolder, other_run, run_identity
from balenas_plugin.run_folder.location import FOLDER_VARIABLE, helps_another
from balenas_plugin.search_spaces import space_of
from balenas_plugin.selection.candidates import report_fewer
from balenas_plugin.training.epochs import History, TrainingBar

Record = dict[str, Any]
"""One architecture of architectures.json."""


def run_search(
    config: SearchConfig,
    folder: RunFolder,
    *,
    resume: bool,
    callbacks: Sequence[pl.Callback] = (),
    show_progress: bool = True,
    trains_candidates: bool = False,
) -> list[Record]:
    """Search, write the folder, and return the architectures found, the best first.

    With several devices every process calls this; all but the first write nothing and return an empty list.

    Args:
        config: what to search, on what, how.
        folder: where to write.
        resume: continue from the folder's checkpoint, if it has one yet.
        callbacks: of Lightning, besides the run's own.
        show_progress: a bar on standard error, unless the config says otherwise (enable_progress_bar: false, which
            silences the plan of the search too).
        trains_candidates: whether that follows, where the options of the strategy ask for it.

    Raises:
        BalenasError: bad input; nothing already saved is lost.
        KeyboardInterrupt: the user stopped it; it can be resumed.
    """
    quiet()
    find_table()  # a BALENAS_DATA that can be no path is reported now, not after the first epoch
    if config.threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(config.threads))  # or Lightning's DDP chooses a number
    resume = resume and not folder.replaces
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    task = task_of(config)
    data = task.load(config.data)
    verbose = config.evaluator.trainer.get("enable_progress_bar", True)
    if not helps_another(config):
        recorded = _recorded_data(folder, data) if resume else {}
        data.description.update(recorded or task.examine(data, progress=verbose))
    space = build_space(config.space, num_classes=data.num_classes)
    strategy = build_strategy(config.strategy)
    warmup_of(getattr(strategy, "warmup_epochs", 0), config.evaluator.epochs)
    resolved = replace(config, strategy=with_defaults(config.strategy))
    if resume and folder.config.exists():
        folder.require_same_config(resolved, resolve=with_defaults)
    checkpoint = SearchCheckpoint(folder.checkpoints, run=run_identity(resolved))
    if resume and checkpoint.path.exists():
        require_checkpoint(checkpoint.path, partial(other_run, resolved))
    history = History(folder.history, lambda: _describe(strategy, space, folder))
    asked = isinstance(strategy, DistributionStrategy) and strategy.options.training_epochs > 0
    untrained = show_progress and not trains_candidates and asked
    note = {"note": "`balenas ui` alone trains what it finds; here strategy.candidate_epochs and _recipe do nothing"}
    progress: list[pl.Callback] = [SearchPlan({**task.summary(data)} | (note if untrained else {}))] if verbose else []
    progress += [TrainingBar("search")] if verbose and show_progress else []
    watch = (
        [Diagnostics(folder.diagnostics, config.diagnostics, seed=config.seed)] if config.diagnostics.enabled else []
    )
    chosen = [ThreadChoice()] if config.threads is None else []
    evaluator = build_evaluator(config, data, folder, [history, *chosen, *watch, *progress, *callbacks, checkpoint])
    if resume and checkpoint.path.exists():
        if config.strategy["name"] == "nni.ENAS":
            raise OptionError("NNI's ENAS keeps its controller's state in memory only, so its runs cannot be resumed")
        evaluator.fit_kwargs.update(ckpt_path=str(checkpoint.path), weights_only=True)
    if not evaluator.trainer.is_global_zero:
        _help(space, evaluator, strategy)
        return []
    os.environ[FOLDER_VARIABLE] = str(folder.path.resolve())  # for processes that this one starts
    with folder.claimed():
        folder.start(resolved, resumed=resume, data=data.description, device=_device(evaluator))
        torch.manual_seed(config.seed)  # the same draws whatever building the above has used
        with folder.recorded() as entries:
            _run_experiment(space, evaluator, strategy, folder)
            records = list(architecture_records(strategy, space, config.top_k))
            folder.write_architectures(records)
            if isinstance(strategy, DistributionStrategy):
                strategy.posterior.save(folder.posterior)
                entries["log_probability_of_a_guess"] = _log_probability_of_a_guess(strategy, records[0]["choices"])
                entries["mixed_modules"] = strategy.fusion_report()
            entries.update(epochs=len(history.rows), threads=torch.get_num_threads())
    return records


_KEPT = {
    "class_names": "classes",
    "names_sha256": "files",
    "split_sha256": "images in each half",
    "text_sha256": "words",
}
"""What of the description of the data must be as it was when a search is resumed, and what it says."""


def _recorded_data(folder: RunFolder, data: Any) -> dict[str, Any]:
    """Return what the run has found in its files.

    Raises:
        DataError: the data are others now, so the search could not go on as it began.
    """
    recorded = folder.read_manifest().get("data", {}) if folder.manifest.exists() else {}
    for key, what in _KEPT.items():
        if key in recorded and recorded[key] != data.description.get(key):
            raise DataError(
                f"the data are not those that {folder.path} was started with (other {what}): put them back as they "
                "were, or start a new run"
            )
    return {key: recorded[key] for key in CHECKED if key in recorded}


def _help(space: ModelSpace, evaluator: Any, strategy: OneShotStrategy) -> None:
    """Search with the first process, on this one's share of the data; what is found and written is the first's."""
    strategy.initialize(RawFormatModelSpace.from_model(space, evaluator), SequentialExecutionEngine())
    strategy.run()


def _run_experiment(space: ModelSpace, evaluator: Any, strategy: OneShotStrategy, folder: RunFolder) -> None:
    experiment_config = NasExperimentConfig.default(space, evaluator, strategy)
    experiment_config.experiment_working_directory = folder.path / "nni"
    experiment_config.experiment_name = folder.path.name
    experiment_config.log_level = "fatal"  # errors are raised, and reported once
    experiment = NasExperiment(space, evaluator, strategy, experiment_config)
    try:
        finished = experiment.run()
    except SystemExit as error:  # Lightning's answer to Ctrl-C, and to SIGTERM
        raise KeyboardInterrupt from error
    except MisconfigurationException as error:
        hint = " Use strategy.gradient_clip_val." if "gradient_clip_val" in str(error) else ""
        raise OptionError(f"Lightning refuses the options of the evaluator: {error}{hint}") from error
    except ValueError as error:
        trainer = evaluator.trainer
        if "`val_check_interval`" not in str(error):
            raise
        raise OptionError(
            f"evaluator.val_check_interval is {trainer.val_check_interval}, but an epoch has "
            f"{trainer.num_training_batches} training batches: give at most so many, or a share such as 0.5"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # it only notes the end in NNI's list of experiments
            experiment.stop()
    if not finished:  # NNI swallows the interrupt
        raise KeyboardInterrupt


def _describe(strategy: OneShotStrategy, space: ModelSpace, folder: RunFolder) -> dict[str, Any]:
    """Save the posterior of this epoch, and return the history's columns that only the strategy knows."""
    if not isinstance(strategy, DistributionStrategy):
        architecture = exported(strategy.oneshot_module)
        return {"architecture": _name(space, architecture)}
    posterior = strategy.posterior
    posterior.save(folder.posterior)
    best = next(strategy.iterate_samples())
    return {
        **{name: value for name, value in posterior.metrics().items() if "/" not in name},  # not those of each label
        "architecture": _name(space, best.sample),
        "log_probability": best.log_probability,
    }


def _name(space: ModelSpace, architecture: dict[str, Any]) -> str:
    return next(iter(space_of(space).notations(architecture).values()), json.dumps(architecture, sort_keys=True))


def architecture_records(strategy: OneShotStrategy, space: ModelSpace, top_k: int) -> Iterator[Record]:
    """Yield what is known of the best architectures that a strategy has found, the best first."""
    if not isinstance(strategy, DistributionStrategy):
        architecture = exported(strategy.oneshot_module)
        yield {"rank": 1, "choices": architecture, **_notation_and_truth(space, architecture)}
        return
    spread = _spread(strategy.posterior)
    if strategy.selection is not None:
        best = strategy.rank(progress=True)[:top_k]
        report_fewer(len(best), top_k, strategy.selection)
        for ranked in best:
            record = {"chosen_by": strategy.selection.chosen_by, **ranked.to_dict()}
            yield {**record, **_notation_and_truth(space, ranked.choices), **spread}
        return
    rank = 0
    for rank, found in enumerate(islice(strategy.iterate_samples(), top_k), start=1):
        yield {**found.to_dict(rank, **_notation_and_truth(space, found.sample)), **spread}
    report_fewer(rank, top_k, None)


def _log_probability_of_a_guess(strategy: DistributionStrategy, architecture: Architecture) -> float | None:
    """Return the log-probability in nats of an architecture while all scores are alike; None if it is not known."""
    known = strategy.posterior
    guess = Architectures(known.decisions, known.blind()).describe(architecture)
    return guess.log_probability if math.isfinite(guess.log_probability) else None


def _notation_and_truth(space: ModelSpace, architecture: dict[str, Any]) -> Record:
    """Return the space's notation and, where a benchmark is at hand, what it knows (the search has not seen it)."""
    notation = space_of(space).notations(architecture)
    truth = ground_truth_of(notation)
    return {"notation": notation} if truth is None else {"notation": notation, "ground_truth": truth}


def _spread(posterior: Posterior) -> dict[str, dict[str, dict[str, float]]]:
    """Return what is shown besides probabilities: name (sigma, in logits) -> label -> choice -> value."""
    return {
        name: {k: dict(zip(posterior.choices[k], values.tolist(), strict=True)) for k, values in by_label.items()}
        for name, by_label in posterior.spread().items()
    }


def _device(evaluator: Any) -> str:
    device = evaluator.trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    processes = evaluator.trainer.world_size
    return name if processes == 1 else f"{processes} processes, the first on {name}"


def quiet() -> None:
    """Silence what NNI and Lightning say about themselves, and errors of theirs that are raised as well."""
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric|nni|torch\.utils\.data|PIL)(\..*)?")
    for name in ("nni", "pytorch_lightning", "lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.CRITICAL if name == "nni" else logging.ERROR)
