"""Which architecture a row of a table chooses, and what a benchmark says of it (which no search has seen)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from balenas_plugin.bayes.architectures import Architectures
from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.benchmarks import Benchmark
from balenas_plugin.data import DataConfig, load_search_data
from balenas_plugin.reproduce.experiments import DATASETS, VALIDATION, Row
from balenas_plugin.reproduce.scores import ScoreFile
from balenas_plugin.reproduce.searches import Search
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.search_spaces import SearchSpace
from balenas_plugin.selection import ProxySelection
from balenas_plugin.selection.candidates import Candidate, candidates_of, drawn_candidates
from balenas_plugin.selection.proxy_selection import DARTS_PT, NAMED_SELECTIONS
from balenas_plugin.selection.ranking import best_to_worst
from balenas_plugin.selection.scoring import score_candidates, supernet_accuracy
from balenas_plugin.selection.supernet_accuracy import SUPERNET_ACCURACY, Supernet, SupernetAccuracy

Accuracies = dict[str, float]
"""Column (see `COLUMNS`) -> percent."""

COLUMNS = {
    **{dataset: (dataset, "test_accuracy") for dataset in DATASETS},
    "cifar10-valid": ("cifar10-valid", "valid_accuracy"),
    "cifar100-valid": ("cifar100", "valid_accuracy"),
    "ImageNet16-120-valid": ("ImageNet16-120", "valid_accuracy"),
}
"""Test accuracies, which nothing may be chosen by, and validation accuracies, which hyper-parameters may."""

SupernetOf = Callable[[RunFolder], Supernet]

_WITHOUT_BATCH = ("synflow", "params", "flops", SUPERNET_ACCURACY)


class Picker:
    """Chooses architectures. Scores are kept in files: they take minutes, and tables share them.

    Args:
        folder: for the scores.
        space: of the architectures.
        sizes: of the networks that proxies score.
        data: config of the searches' data.
        batch_size: images in the batch that proxies look at.
        benchmark: the ground truth, for `accuracies` and the oracle.
        supernet_of: opens the supernet of a finished search, for selections by its accuracy.
        workers: processes that score in parallel.
    """

    def __init__(
        self,
        folder: Path,
        space: SearchSpace,
        sizes: Mapping[str, int],
        data: DataConfig,
        *,
        batch_size: int = 64,
        benchmark: Benchmark | None = None,
        supernet_of: SupernetOf,
        workers: int = 1,
    ) -> None:
        self.folder = folder
        self.space = space.sized(**sizes)
        self.benchmark = benchmark
        self.supernet_of = supernet_of
        self.workers = workers
        self._sizes, self._data, self._batch_size = dict(sizes), data, batch_size

    def accuracies(self, row: Row, search: Search | None, seed: int) -> Accuracies:
        """Return the accuracies of what the row chooses; the mean over draws where it does not choose.

        Args:
            row: of a table.
            search: the finished search, for rows that have one.
            seed: of draws and initialisations.
        """
        architectures = self.chosen(row, search, seed)
        values = {
            column: [self._query(architecture, *where) for architecture in architectures]
            for column, where in COLUMNS.items()
        }
        return {column: sum(found) / len(found) for column, found in values.items()}

    def chosen(self, row: Row, search: Search | None, seed: int) -> list[str]:
        """Return the architectures that the row chooses, in the space's notation: draws, of a row of them, else one."""
        pick = row.pick
        if search is not None and pick.rule == "argmax":
            return [search.folder.read_architectures()[0]["notation"][self.space.name]]
        posterior = self._uniform() if search is None else Posterior.load(search.folder.posterior)
        architectures = Architectures(self.space.decisions, posterior)
        if pick.rule in ("draws", "oracle"):
            candidates = drawn_candidates(architectures, pick.n, seed=seed)
            drawn = [self.notation(c.sample) for c in candidates for _ in range(c.times_drawn)]
            return drawn if pick.rule == "draws" else [max(drawn, key=self._validation_accuracy)]
        named = NAMED_SELECTIONS.get(pick.proxy, {"proxy": pick.proxy})
        asked = {"n": pick.n, "candidates": pick.candidates, "include_probability": pick.include_probability}
        asked |= {"seed": seed, "workers": self.workers}
        selection = ProxySelection(**{**named, **asked})
        accuracy = self._accuracy(selection, search) if selection.candidates == DARTS_PT else None
        candidates = candidates_of(selection, architectures, accuracy, progress=True)
        scores = [self.scores(criterion, candidates, selection, search) for criterion in selection.proxies]
        log_probability = torch.tensor([c.architecture.log_probability for c in candidates], dtype=torch.float64)
        best = best_to_worst(torch.stack(scores, 1)[..., None], log_probability, selection)[0]
        return [self.notation(candidates[best].sample)]

    def scores(
        self, criterion: str, candidates: Sequence[Candidate], selection: ProxySelection, search: Search | None
    ) -> Tensor:
        """Return the scores of the candidates, shape (candidates,), of which only new ones are computed."""
        known = self._score_file(criterion, selection, search)
        named = {self.notation(candidate.sample): candidate for candidate in candidates}
        new = [name for name in named if name not in known]
        if new:
            ones = self.space.inputs(1)
            images, labels = (ones, None) if criterion in _WITHOUT_BATCH else self._batch
            values = score_candidates(
                [named[name] for name in new],
                self.space,
                replace(selection, proxy=criterion),
                inputs=images,
                targets=labels,
                accuracy=self._accuracy(selection, search) if criterion == SUPERNET_ACCURACY else None,
                progress=True,
            )
            known.add(zip(new, values.flatten().tolist(), strict=True))
        return torch.tensor([known[name] for name in named], dtype=torch.float64)

    def _accuracy(self, selection: ProxySelection, search: Search | None) -> SupernetAccuracy | None:
        return supernet_accuracy(selection, None if search is None else self.supernet_of(search.folder))

    def _score_file(self, criterion: str, selection: ProxySelection, search: Search | None) -> ScoreFile:
        name = criterion
        networks = {**self._sizes, "batch_size": self._batch_size}
        of: dict[str, Any] = {"networks": networks, "data": asdict(self._data)}
        if criterion == SUPERNET_ACCURACY and search is not None:
            name = f"{criterion}-{search.config.name}"
            of = {"posterior": search.folder.posterior.read_text(encoding="utf-8"), "images": selection.images}
            marks = [mark for mark in ("own_images", "batch_statistics") if getattr(selection, mark)]
            name, of = "-".join([name, *marks]), of | dict.fromkeys(marks, True)
        return ScoreFile(self.folder / f"{name}-seed-{selection.seed}.json", of)

    def _query(self, architecture: str, dataset: str, metric: str) -> float:
        assert self.benchmark is not None  # tables that look up are given one
        return self.benchmark.query(architecture, dataset, metric)

    def _validation_accuracy(self, architecture: str) -> float:
        return self._query(architecture, *COLUMNS[VALIDATION])

    def notation(self, architecture: Architecture) -> str:
        """Return an architecture in the space's notation."""
        return self.space.notations(architecture)[self.space.name]

    def _uniform(self) -> Posterior:
        """Return a distribution under which every architecture is as probable as any other."""
        mean = {label: torch.zeros(len(values)) for label, values in self.space.choices.items()}
        return Posterior(mean, {label: torch.ones_like(zeros) for label, zeros in mean.items()})

    @cached_property
    def _batch(self) -> tuple[Tensor, Tensor]:
        """A batch of training images of the architecture half, at the size of the networks."""
        config = DataConfig(**{**asdict(self._data), "image_size": self.space.image_shape[1], "limit": None})
        images = load_search_data(config).architecture_set
        batch = images.__getitems__(list(range(self._batch_size)))
        return batch.images, batch.labels
