"""The two kinds of trial of a search in NNI's web UI: the search itself, and an architecture that it has found."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar

import nni
import torch
from nni.nas.evaluator.pytorch import Lightning
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.space import ExecutableModelSpace, ModelStatus, RawFormatModelSpace
from torch import Tensor

from balenas_plugin.adapters.nni.run.config_run import quiet
from balenas_plugin.adapters.nni.run.processes import end_predecessor
from balenas_plugin.adapters.nni.run.reports import EpochReports, Metric, TrialReport
from balenas_plugin.adapters.nni.supernets.found_model import completed, exporter_space
from balenas_plugin.adapters.nni.web.candidate_training import train_by_evaluator, train_by_recipe
from balenas_plugin.adapters.nni.web.found import KEY
from balenas_plugin.adapters.nni.web.recipes import SearchRecipe, candidate_place, recipe_from_json, trial_folder
from balenas_plugin.errors import BalenasError
from balenas_plugin.files import write_atomically
from balenas_plugin.ground_truth import headline
from balenas_plugin.options import read_options
from balenas_plugin.proxies import rank_value
from balenas_plugin.selection import ProxySelection
from balenas_plugin.training.recipe import Recipe

SHOWN = "mutation_summary"
"""Key of a trial's parameters that NNI's page shows as its hyper-parameters, instead of all of them."""


class SearchTrial(ExecutableModelSpace):
    """The search of the supernet as a trial.

    Args:
        recipe: to make it anew where the trial runs.
    """

    kind = "search"

    def __init__(self, recipe: SearchRecipe) -> None:
        super().__init__(ModelStatus.Frozen)
        self.recipe = recipe
        self.evaluator = None
        self.sample = None

    def extra_repr(self) -> str:
        """Return what identifies the trial in NNI's log."""
        return self.kind

    def _dump(self) -> dict[str, Any]:
        """Return what travels to the trial (NNI's serialiser calls this)."""
        return {SHOWN: {}, "kind": self.kind, "recipe": self.recipe.to_json()}

    @classmethod
    def _load(cls, **document: Any) -> SearchTrial:
        """Return the trial that `_dump` described."""
        return cls(recipe_from_json(document["recipe"]))

    def execute(self) -> None:
        """Search, reporting every epoch, then what was found."""
        with errors_reported():
            end_predecessor()
            report = TrialReport()
            reports = EpochReports(report)
            found = own(self, report).recipe.search(reports)
            # In the place of the last epoch's point, and not as a final result, whose "default" (which NNI demands) its
            # page would put on one axis with those of the candidates: it is the supernet's, not an architecture's.
            known = known_of(found.records[0]) | reports.last
            report.intermediate({**known, KEY: found.to_text()}, sequence=reports.epoch)


class CandidateTrial(ExecutableModelSpace):
    """An architecture that a search has found, as a trial with the space's own labels as its hyper-parameters.

    Args:
        record: as in architectures.json.
        recipe: of the search.
        epochs: how long to train it; 0 only reports what is known of it.
        training: how to train it; None: with the search's own evaluator.
    """

    kind = "candidate"

    def __init__(
        self, record: Mapping[str, Any], recipe: SearchRecipe, epochs: int, training: Recipe | None = None
    ) -> None:
        super().__init__(ModelStatus.Frozen)
        self.record = record
        self.recipe = recipe
        self.epochs = epochs
        self.training = training
        self.evaluator = None
        self.sample = dict(record["choices"])

    def extra_repr(self) -> str:
        """Return what identifies the trial in NNI's log."""
        return f"{self.kind} {self.record['rank']}"

    def _dump(self) -> dict[str, Any]:
        """Return what travels to the trial (NNI's serialiser calls this)."""
        return {
            SHOWN: {label: shown(choice) for label, choice in self.sample.items()},
            "kind": self.kind,
            "record": dict(self.record),
            "recipe": self.recipe.to_json(),
            "epochs": self.epochs,
            "training": None if self.training is None else self.training.to_dict(),
        }

    @classmethod
    def _load(cls, **document: Any) -> CandidateTrial:
        """Return the trial that `_dump` described."""
        training = document.get("training")
        training = None if training is None else read_options(Recipe, training)
        return cls(document["record"], recipe_from_json(document["recipe"]), document["epochs"], training)

    def execute(self) -> None:
        """Report what is known of the architecture; train it first if that is asked for."""
        with errors_reported():
            end_predecessor()
            quiet()
            report = TrialReport()
            report.final(own(self, report).evaluate(report))

    def evaluate(self, report: TrialReport) -> Metric:
        """Return what is known of the architecture, after training it if that is asked for."""
        space, evaluator = self.recipe.build()
        known = known_of(self.record)
        if not self.record.get("scores"):
            known |= synflow(space, evaluator, self.sample)
        if self.epochs > 0:
            model = RawFormatModelSpace(space, evaluator).freeze(completed(space, self.sample))
            known["default"] = self._train(model, report)
        return known

    def _train(self, model: RawFormatModelSpace, report: TrialReport) -> float:
        """Train the architecture, report every epoch, write the weights; return its accuracy at the end."""
        place = candidate_place(self.recipe, self.record["rank"])
        if self.training is not None:
            of_images, seed = self.recipe.trainable(self.sample), self.recipe.seed
            reports = EpochReports(report)
            return train_by_recipe(self.training, of_images, model, folder=place, seed=seed, reports=reports)
        points = count()
        metric = train_by_evaluator(
            model, self.epochs, lambda metric: report.intermediate(metric, sequence=next(points)), trial_folder()
        )
        weights = {name: value.cpu() for name, value in model.evaluator.module.model.state_dict().items()}
        write_atomically(place.with_suffix(".pt"), lambda file: torch.save(weights, file))
        return metric


Trial = TypeVar("Trial", SearchTrial, CandidateTrial)


def own(trial: Trial, report: TrialReport) -> Trial:
    """Return the trial that this process is, which may not be the one whose parameters NNI has handed to it."""
    found = nni.load(json.dumps(report.parameters))
    return found if isinstance(found, type(trial)) else trial


def known_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Return a record's numbers; the "default" is what it was ranked by: a proxy's score, or the log-probability."""
    scores = record.get("scores", {})
    numbers = {
        "default": next(iter(scores.values()), record.get("log_probability")),
        "log_probability": record.get("log_probability"),
        **scores,
        **headline(record.get("ground_truth")),
    }
    return {name: value for name, value in numbers.items() if value is not None and math.isfinite(value)}


def synflow(space: ModelSpace, evaluator: Lightning, sample: Mapping[str, Any]) -> dict[str, float]:
    """Return the architecture's SynFlow by that name, as `balenas export` gives it; nothing where it has none."""
    loader = evaluator.val_dataloaders
    batch = next(iter(loader), None) if loader is not None else None
    match batch:
        case (Tensor() as images, _) if images.ndim == 4:
            view = exporter_space(space, [], tuple(images.shape[1:]))
        case _:  # not images: proxies have nothing to look at
            return {}
    networks = view.networks(ProxySelection().seed)
    value = networks.fast_rank_value("synflow", dict(sample))
    if value is None:
        value = rank_value("synflow", networks.build(dict(sample)), images, None)
    return {"synflow": value} if math.isfinite(value) else {}


def shown(choice: Any) -> Any:
    """Return a choice as NNI's page compares it with the search space; a single chosen input loses its list."""
    return choice[0] if isinstance(choice, list) and len(choice) == 1 else choice


@contextmanager
def errors_reported() -> Iterator[None]:
    """End the process with one clear line on standard error, which the page shows, if an error is the user's."""
    warnings.simplefilter("ignore")  # standard error is for what went wrong
    try:
        yield
    except BalenasError as error:
        print(f"balenas: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("balenas: the trial was cancelled.", file=sys.stderr)
        sys.exit(130)
