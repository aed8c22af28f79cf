"""Which architecture a row of a table chooses, and what the benchmark says of it (which no search has seen)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from balenas_plugin.bayes.decisions import Architectures, Sample
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.benchmarks import Benchmark
from balenas_plugin.data import DataConfig, load_search_data
from balenas_plugin.export import NasBench201Space, ProxySelection, rank
from balenas_plugin.export.candidates import drawn_candidates
from balenas_plugin.export.selection import NAMED_SELECTIONS
from balenas_plugin.export.supernet import Supernet
from balenas_plugin.files import write_text_atomically
from balenas_plugin.reproduce.experiments import DATASETS, Pick, Row
from balenas_plugin.reproduce.scales import ProxyNetworks
from balenas_plugin.reproduce.searches import Search
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.search_spaces.nasbench201 import OPERATIONS

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

_WITHOUT_DATA = ("synflow", "params", "flops")


class Picker:
    """Chooses architectures, and remembers each choice in a file: ranking many networks takes minutes.

    Args:
        folder: for the choices.
        benchmark: the ground truth.
        networks: what proxies score.
        data: config of the searches' data.
        supernet_of: opens the supernet of a finished search, for selections by its accuracy.
        workers: processes that score in parallel.
    """

    def __init__(
        self,
        folder: Path,
        benchmark: Benchmark,
        networks: ProxyNetworks,
        data: DataConfig,
        *,
        supernet_of: SupernetOf | None,
        workers: int = 1,
    ) -> None:
        self.folder = folder
        self.benchmark = benchmark
        self.networks = networks
        self.supernet_of = supernet_of
        self.workers = workers
        self._data = data
        self.space = NasBench201Space(
            channels=networks.channels, cells_per_stage=networks.cells_per_stage, image_size=networks.image_size
        )

    def accuracies(self, row: Row, search: Search | None, seed: int) -> Accuracies:
        """Return the accuracies of what the row chooses; the mean over draws where it does not choose.

        Args:
            row: of a table.
            search: the finished search, for rows that have one.
            seed: of draws and initialisations.
        """
        architectures = self._remembered(row, search, seed)
        values = {
            column: [self.benchmark.query(architecture, *where) for architecture in architectures]
            for column, where in COLUMNS.items()
        }
        return {column: sum(found) / len(found) for column, found in values.items()}

    def _remembered(self, row: Row, search: Search | None, seed: int) -> list[str]:
        if search is not None and row.pick.rule == "argmax":
            return [search.folder.read_architectures()[0]["notation"]["nasbench201"]]
        source = "uniform" if search is None else search.config.name
        path = self.folder / f"{source}-seed-{seed}-{row.pick.key}.json"
        asked: dict[str, Any] = {"pick": asdict(row.pick), "networks": asdict(self.networks), "seed": seed}
        if search is not None:
            asked["posterior"] = search.folder.posterior.read_text(encoding="utf-8")
        if path.exists():
            known = json.loads(path.read_text(encoding="utf-8"))
            if known["asked"] == asked:
                return list(known["architectures"])
        posterior = self._uniform() if search is None else Posterior.load(search.folder.posterior)
        chosen = self._choose(row.pick, posterior, search, seed)
        write_text_atomically(path, json.dumps({"asked": asked, "architectures": chosen}, indent=1) + "\n")
        return chosen

    def _choose(self, pick: Pick, posterior: Posterior, search: Search | None, seed: int) -> list[str]:
        if pick.rule == "draws":
            candidates = drawn_candidates(Architectures(self.space.decisions, posterior), pick.n, seed=seed)
            return [self._notation(c.sample) for c in candidates for _ in range(c.times_drawn)]
        named = NAMED_SELECTIONS.get(pick.proxy, {"proxy": pick.proxy})
        asked = {"n": pick.n, "candidates": pick.candidates, "seed": seed, "workers": self.workers}
        selection = ProxySelection(**{**named, **asked})
        supernet = None
        if selection.needs_supernet and search is not None and self.supernet_of is not None:
            supernet = self.supernet_of(search.folder)
        inputs, targets = (None, None) if {*selection.zero_cost_proxies} <= {*_WITHOUT_DATA} else self._batch
        best = rank(posterior, self.space, selection, inputs=inputs, targets=targets, supernet=supernet, progress=True)[
            0
        ]
        return [self._notation(best.choices)]

    def _notation(self, sample: Sample) -> str:
        return self.space.notations(sample)["nasbench201"]

    def _uniform(self) -> Posterior:
        """Return a distribution under which every architecture is as probable as any other."""
        labels = [label for decision in self.space.decisions for label in decision.labels]
        size = len(OPERATIONS)
        return Posterior({label: torch.zeros(size) for label in labels}, {label: torch.ones(size) for label in labels})

    @cached_property
    def _batch(self) -> tuple[Tensor, Tensor]:
        """A batch of training images of the architecture half, at the size of the networks."""
        config = DataConfig(**{**asdict(self._data), "image_size": self.networks.image_size, "limit": None})
        images = load_search_data(config).architecture_set
        batch = images.__getitems__(list(range(self.networks.batch_size)))
        return batch.images, batch.labels
