"""The paper's protocol: pick by a short training, retrain, transfer, and ask what ranks architectures rightly.

Source: Zhang et al. 2022, Sec. 4.2 and appendix; the short training is that of Liu et al. 2019 (DARTS).
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from balenas_plugin.bayes.architectures import Architectures, DescribedArchitecture
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.config import SearchConfig
from balenas_plugin.errors import DataError, MissingDependencyError, OptionError, SearchFailedError
from balenas_plugin.reproduce.experiments import Experiment, Pick, Row
from balenas_plugin.reproduce.picks import Picker, SupernetOf
from balenas_plugin.reproduce.retraining.correlations import Correlation
from balenas_plugin.reproduce.retraining.retrained import BESIDES, Retrained, RetrainedTable, mean_error
from balenas_plugin.reproduce.retraining.stages import SHORT, OpenedStage, Retraining
from balenas_plugin.reproduce.retraining.trainings import Training, finished_seconds
from balenas_plugin.reproduce.searches import Search
from balenas_plugin.reproduce.units import Unit, Workload, run_units
from balenas_plugin.search_spaces import SearchSpace, find_space
from balenas_plugin.selection import ProxySelection
from balenas_plugin.selection.candidates import Candidate
from balenas_plugin.selection.supernet_accuracy import SUPERNET_ACCURACY

AFTER_SHORT, RETRAINED = "test accuracy, short training", "test accuracy, retrained picks"
"""Accuracies that scores are correlated with."""


@dataclass(frozen=True)
class FoundCell:
    """An architecture that a row of the table has found with one seed."""

    row: str
    seed: int
    architecture: str

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.row} seed {self.seed}"


@dataclass
class Protocol:
    """The trainings of a table.

    Args:
        experiment: the table.
        retraining: how; a data set that is not there is left out, but for the first.
        config: of one of the searches, for the space, the images and the threads.
        seeds: of the searches.
        output: folder of the reproduction.
        jobs: trainings at a time.
        supernet_of: opens the supernet of a finished search.

    Raises:
        BalenasError: an option is refused, or the first data set is missing.
    """

    experiment: Experiment
    retraining: Retraining
    config: SearchConfig
    seeds: Sequence[int]
    output: Path
    jobs: int
    supernet_of: SupernetOf
    left_out: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.space = _trainable(self.config)
        self.short = OpenedStage.of(SHORT, self.retraining.short, self.space)
        self.full: list[OpenedStage] = []
        for name, stage in self.retraining.full.items():
            try:
                self.full.append(OpenedStage.of(name, stage, self.space))
            except (DataError, MissingDependencyError) as error:
                if not self.full and not self.left_out:
                    raise
                self.left_out[name] = str(error)
                print(f"balenas: {name} is left out: {error}", file=sys.stderr)

    def workloads(self) -> list[Workload]:
        """Return how many trainings there are, and how long those that are finished took."""
        rows = len(self.experiment.rows)
        counts = [(self.short, rows * len(self.seeds) + self.retraining.random)]
        counts += [(stage, rows * len(stage.stage.seeds)) for stage in self.full]
        return [
            Workload(f"trainings {stage.name}", count, finished_seconds(self.output, stage)) for stage, count in counts
        ]

    def run(self, finished: Mapping[tuple[str, int], Search], about: Mapping[str, str]) -> RetrainedTable:
        """Train what is missing; return the table. What went wrong is in `failures`.

        Args:
            finished: name of a search and seed -> the search that has ended.
            about: what else a reader must know.

        Raises:
            BalenasError: a folder was started with other settings, or a file of a search is damaged.
            KeyboardInterrupt: the user stopped; the same call goes on.
        """
        cells = list(self._cells(finished))
        trained = self._trained((self.short, cell, self.short.stage.seeds[0]) for cell in cells)
        picks = {row.title: pick for row in self.experiment.rows if (pick := self._pick(row, trained)) is not None}
        picked = [cell for cell in cells if picks.get(cell.row) == cell.seed]
        trained += self._trained((s, cell, seed) for s in self.full for cell in picked for seed in s.stage.seeds)
        costs = {
            row.title: statistics.fmean(spent)
            for row in self.experiment.rows
            if (spent := [s.costs()["cpu_seconds"] for (n, _), s in finished.items() if n == row.search and s.costs()])
        }
        return RetrainedTable(
            experiment=self.experiment,
            stages=[stage.name for stage in self.full],
            trained=trained,
            picks=picks,
            costs=costs,
            correlations=self._correlations(trained, finished),
            about={**about, **self._about()},
        )

    def _cells(self, finished: Mapping[tuple[str, int], Search]) -> Iterable[FoundCell]:
        for row in self.experiment.rows:
            for seed in self.seeds:
                search = None if row.search is None else finished.get((row.search, seed))
                if row.search is None or search is not None:
                    yield FoundCell(row.title, seed, self.picker.chosen(row, search, seed)[0])
        if self.retraining.random:
            drawn = Row(BESIDES, None, Pick("draws", self.retraining.random), "")
            for k, architecture in enumerate(dict.fromkeys(self.picker.chosen(drawn, None, 0))):
                yield FoundCell(BESIDES, k, architecture)

    @cached_property
    def picker(self) -> Picker:
        """Chooses architectures and scores them, in networks of the short training's sizes."""
        folder, images = self.output / "scores" / self.space.name, self.config.images("table3")
        return Picker(folder, self.space, self.short.sizes, images, supernet_of=self.supernet_of, workers=self.jobs)

    def _trained(self, wanted: Iterable[tuple[OpenedStage, FoundCell, int]]) -> list[Retrained]:
        """Train what is missing; return what is known of the networks that are finished."""
        units: dict[Path, Training] = {}
        of_cells: list[tuple[FoundCell, Path]] = []
        for stage, cell, seed in wanted:
            architecture = self.space.read(cell.architecture).sample
            assert architecture is not None
            recipe = stage.recipe_for(architecture, self.space)
            unit = Training(stage, cell.label, cell.architecture, recipe, seed, self.output, self.config.threads)
            units.setdefault(unit.path, unit)
            of_cells.append((cell, unit.path))
        try:
            run_units(list[Unit](units.values()), jobs=self.jobs)
        except SearchFailedError as error:
            self.failures.append(str(error))
        return [_retrained(cell, units[path]) for cell, path in of_cells if units[path].finished]

    def _pick(self, row: Row, trained: Sequence[Retrained]) -> int | None:
        """Return the seed whose architecture validates best; None unless that of every seed was trained."""
        found = {each.search_seed: each.validation_error or 0.0 for each in trained if each.row == row.title}
        return min(found, key=lambda seed: (found[seed], seed)) if len(found) == len(self.seeds) else None

    def _correlations(
        self, trained: Sequence[Retrained], finished: Mapping[tuple[str, int], Search]
    ) -> list[Correlation]:
        """Return how well scores rank all architectures by what the short training made of them."""
        short = {each.architecture: each for each in trained if each.stage == SHORT}
        accuracies = [100 - each.test_error for each in short.values()]
        found = []
        if short:
            for proxy, called in (("synflow", "SynFlow"), ("params", "parameters at equal width")):
                scores = self._scores(proxy, list(short), None, self.seeds[0])
                found.append(Correlation.of(called, AFTER_SHORT, None, scores, accuracies))
            for (name, seed), search in finished.items():
                for score, scores in self._scores_of(search, list(short), seed).items():
                    found.append(Correlation.of(f"{name}: {score}", AFTER_SHORT, seed, scores, accuracies))
        retrained = {a: [t for t in trained if t.architecture == a and t.stage == self.full[0].name] for a in short}
        both = [
            (-short[a].test_error, -(short[a].validation_error or 0), -mean_error(t)) for a, t in retrained.items() if t
        ]
        for called, k in ((AFTER_SHORT, 0), ("validation accuracy, short training", 1)):
            scores, means = [each[k] for each in both], [each[2] for each in both]
            found.append(Correlation.of(called, RETRAINED, None, scores, means))
        return sorted(found, key=lambda each: each.accuracy)

    def _scores_of(self, search: Search, architectures: Sequence[str], seed: int) -> dict[str, list[float]]:
        """Return what a search says of architectures: how probable they are, and how accurate with its weights."""
        posterior = Architectures(self.space.decisions, Posterior.load(search.folder.posterior))
        probabilities = [posterior.describe(c.sample).log_probability for c in self._candidates(architectures)]
        return {
            "log-probability": probabilities,
            "accuracy in the supernet": self._scores(SUPERNET_ACCURACY, architectures, search, seed),
        }

    def _scores(self, proxy: str, architectures: Sequence[str], search: Search | None, seed: int) -> list[float]:
        selection = ProxySelection(proxy=proxy, seed=seed, workers=self.jobs)
        values: list[float] = self.picker.scores(proxy, self._candidates(architectures), selection, search).tolist()
        return values

    def _candidates(self, architectures: Sequence[str]) -> list[Candidate]:
        samples = [self.space.read(architecture).sample or {} for architecture in architectures]
        return [Candidate(DescribedArchitecture(sample, 0.0, {}), 0) for sample in samples]

    def _about(self) -> dict[str, str]:
        said = {}
        for opened in (self.short, *self.full):
            seeds = ", ".join(map(str, opened.stage.seeds))
            size = opened.stage.parameters
            width = f"about {size:,} parameters" if size else f"{opened.recipe.network.channels} channels"
            said[f"training {opened.name}"] = f"{opened.recipe.epochs} epochs, {width}, training seeds {seeds}"
        return {**said, **{f"left out: {name}": reason for name, reason in self.left_out.items()}}


def _trainable(config: SearchConfig) -> SearchSpace:
    space = find_space(config.space["name"])
    if space is None or not {"channels", "cells"} <= set(space.sizes()):
        raise OptionError(
            f"table3 trains networks of the DARTS space and its relatives, and the search {config.name} is in the "
            f"space {config.space['name']}: set its space to darts-reference"
        )
    return space


def _retrained(cell: FoundCell, unit: Training) -> Retrained:
    found = unit.result()
    validated = 100 * (1 - unit.validation_accuracy()) if unit.recipe.validation else None
    return Retrained(
        row=cell.row,
        search_seed=cell.seed,
        stage=unit.stage.name,
        seed=unit.seed,
        test_error=100 * (1 - found.test_accuracy),
        validation_error=validated,
        parameters=found.parameters,
        multiply_adds=found.multiply_adds,
        channels=unit.recipe.network.channels,
        seconds=found.seconds,
        architecture=cell.architecture,
    )
