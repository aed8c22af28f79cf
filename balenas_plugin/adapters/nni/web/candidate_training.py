"""Train an architecture that has become a trial: as `balenas train` does, or with the search's own evaluator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace
from nni.runtime.trial_command_channel import (
    TrialCommandChannel,
    get_default_trial_command_channel,
    set_default_trial_command_channel,
)

from balenas_plugin.adapters.nni.run.reports import EpochReports, Metric
from balenas_plugin.adapters.nni.strategies.working_files import out_of_working_directory
from balenas_plugin.data import DataConfig
from balenas_plugin.restoring import random_numbers_restored
from balenas_plugin.training.architecture import Trainable
from balenas_plugin.training.fitting import Devices, train_module, train_network
from balenas_plugin.training.recipe import Recipe
from balenas_plugin.training.seeds import module_of
from balenas_plugin.training.training_data import load_training_data

HELD_OUT = 0.1
"""Share of the training images that validate where the recipe leaves none out."""


def train_by_recipe(
    recipe: Recipe,
    trainable: Trainable | None,
    model: RawFormatModelSpace,
    *,
    folder: Path,
    seed: int,
    reports: EpochReports,
) -> float:
    """Train an architecture as `balenas train` does; return its accuracy on the images that validate.

    The test images stay unseen: what is compared here may be chosen by. A training that was killed goes on.

    Args:
        recipe: how.
        trainable: the architecture, and its images; None: the evaluator has the data, the steps and the optimizer.
        model: the architecture and its evaluator.
        folder: to write to.
        seed: of everything random.
        reports: of the epochs.
    """
    given = getattr(model.evaluator.trainer, "trace_kwargs", {})
    devices = Devices(**{name: given[name] for name in ("accelerator", "precision") if given.get(name) is not None})
    options: dict[str, Any] = {"folder": folder, "seed": seed, "progress": False, "resume": True}
    options |= {"devices": devices, "callbacks": [reports]}
    if trainable is None:
        network = model.executable_model()
        module, loaders = module_of(model.evaluator, network)
        with _reporting_nothing():
            return train_module(module, recipe, loaders=loaders, network=network, **options).test_accuracy
    recipe = recipe.replace(validation=recipe.validation or HELD_OUT)
    assert isinstance(trainable.data, DataConfig)  # others are trained by the evaluator
    data = load_training_data(trainable.data, recipe).validating(recipe.validation, seed=seed)
    assert data.validation is not None
    data = replace(data, test=data.validation)
    with random_numbers_restored(seed):
        network = trainable.build(recipe, data)
    return train_network(network, data, recipe, **options).test_accuracy


def train_by_evaluator(
    model: RawFormatModelSpace, epochs: int, report: Callable[[Metric], None], folder: Path
) -> float:
    """Train an architecture from scratch with the search's evaluator; return the metric it reports at the end.

    Args:
        model: frozen, with its evaluator.
        epochs: instead of the evaluator's own.
        report: called with each intermediate result.
        folder: for what Lightning writes.
    """
    model.evaluator.trainer.fit_loop.max_epochs = epochs
    engine = SequentialExecutionEngine()

    def forward(event: Any) -> None:
        report(event.metric if isinstance(event.metric, Mapping) else {"default": event.metric})

    engine.register_model_event_callback("intermediate_metric", forward)
    with out_of_working_directory(model.evaluator.trainer, folder):
        engine.submit_models(model)
    return float(model.metric)


class _Nowhere(TrialCommandChannel):
    def send_metric(self, **metric: Any) -> None:
        """Send nothing."""


@contextmanager
def _reporting_nothing() -> Iterator[None]:
    """Keep in the block what NNI's evaluators report by themselves, which would come a second time."""
    before = get_default_trial_command_channel()
    set_default_trial_command_channel(_Nowhere())
    try:
        yield
    finally:
        set_default_trial_command_channel(before)
