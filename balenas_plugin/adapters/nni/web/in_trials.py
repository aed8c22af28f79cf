"""A `DistributionStrategy` under NNI's training-service engine: the search as a trial, then what it found as trials."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from nni.nas.execution import TrainingServiceExecutionEngine

from balenas_plugin.adapters.nni.callbacks.checkpoint import require_checkpoint
from balenas_plugin.adapters.nni.one_shot.example_batch import ExampleBatch
from balenas_plugin.adapters.nni.strategies.strategy import DistributionStrategy
from balenas_plugin.adapters.nni.web.found import Found
from balenas_plugin.adapters.nni.web.recipes import ScriptedSearch, candidate_place
from balenas_plugin.adapters.nni.web.submission import Submission
from balenas_plugin.adapters.nni.web.trials import CandidateTrial, SearchTrial
from balenas_plugin.selection.candidates import report_fewer
from balenas_plugin.training.trained_network import WEIGHTS


@dataclass(frozen=True, kw_only=True)
class TrainedCandidate:
    """What training an architecture from scratch gave.

    Args:
        choices: the architecture, label -> what was chosen.
        epochs: how long.
        recipe: name of the recipe; None: it was the search's own evaluator.
        metric: what the evaluator reported last; for classification the validation accuracy, from 0 to 1, for a text
            the negative loss of a word in nats.
        checkpoint: file with the network's `state_dict`, of torch or, with a recipe, of safetensors; None where it
            stayed on another machine.
    """

    choices: dict[str, Any]
    epochs: int
    recipe: str | None = None
    metric: float
    checkpoint: Path | None


class SearchInTrials:
    """One run of a strategy in an experiment with a manager; made before the strategy changes anything.

    Args:
        strategy: whose search it is; afterwards it stands as if it had searched in this process.
        engine: of the experiment.
    """

    def __init__(self, strategy: DistributionStrategy, engine: TrainingServiceExecutionEngine) -> None:
        self.strategy = strategy
        self.submission = Submission(engine)
        self.experiment = self.submission.experiment
        self.recipe = strategy.recipe or ScriptedSearch.of(
            self.experiment.model_space,
            self.experiment.evaluator,
            type(strategy).__name__,
            _options(strategy),
            folder=self.submission.folder,
        )

    def run(self) -> None:
        """Run the trials.

        Raises:
            SearchFailedError: the search failed; candidates may, without stopping the others.
            ManagerLostError: NNI's manager ended.
        """
        found = self.strategy.found or self.submission.search(lambda: SearchTrial(self.recipe))
        self._adopt(found)
        epochs, training = self.strategy.options.training_epochs, self.strategy.options.candidate_training
        records = found.records[: self.strategy.options.candidate_trials]
        report_fewer(len(records), self.strategy.options.candidate_trials, self.strategy.selection)
        trials = [CandidateTrial(record, self.recipe, epochs, training) for record in records]
        metrics = self.submission.candidates(trials)
        if epochs > 0:
            self.strategy.trained = {
                rank: TrainedCandidate(
                    choices=dict(records[rank - 1]["choices"]),
                    epochs=epochs,
                    recipe=None if training is None else training.name,
                    metric=metric,
                    checkpoint=self._weights(rank),
                )
                for rank, metric in sorted(metrics.items())
            }
        self.submission.finish()

    def _weights(self, rank: int) -> Path | None:
        if self.recipe.folder is None:
            return None
        place = candidate_place(self.recipe, rank)
        return place.with_suffix(".pt") if self.strategy.options.candidate_training is None else place / WEIGHTS

    def _adopt(self, found: Found) -> None:
        """Give the strategy what the search has found; its weights too, if the trial's files can be read here."""
        module = self.strategy.oneshot_module
        module.set_model(self.strategy.supernet)
        example = None
        path = None if found.checkpoint is None else Path(found.checkpoint)
        if path is not None and path.exists():
            require_checkpoint(path)
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            module.load_state_dict(checkpoint["state_dict"])
            example = checkpoint.get(ExampleBatch.KEY)
        module.adopt(found.posterior, example)
        self.strategy.ranked = None if found.ranking is None else list(found.ranking)


def _options(strategy: DistributionStrategy) -> dict[str, Any]:
    """Return the strategy's arguments."""
    names = ("selection", "cost", "candidate_recipe")
    given = {name: getattr(strategy.options, name) for name in names}
    plain = {name: None if options is None else asdict(options) for name, options in given.items()}
    return {**strategy.arguments(), **plain, "mutation_hooks": list(strategy.extra_mutation_hooks)}
