"""Rows of a reproduction pick architectures from the posteriors of searches."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from balenas_plugin.bayes import Posterior
from balenas_plugin.bayes.architectures import Architectures
from balenas_plugin.reproduce.experiments import Pick, Row
from balenas_plugin.reproduce.picks import Picker
from balenas_plugin.reproduce.scales import ProxyNetworks, load_scale
from balenas_plugin.reproduce.searches import Search
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.search_spaces import get_space, nasbench201
from balenas_plugin.selection import ProxySelection
from balenas_plugin.selection.candidates import candidates_of, drawn_candidates


class Truth:
    """A benchmark that knows one accuracy of every architecture: its number of 3x3 convolutions."""

    space = "nasbench201"

    def query(self, architecture: str, dataset: str, metric: str) -> float:
        return float(architecture.count("nor_conv_3x3"))


class Network(torch.nn.Module):
    """Gets right as many of 12 images as its architecture has skip connections."""

    def __init__(self, architecture: dict[str, str]) -> None:
        super().__init__()
        self.right = sum(choice == "skip_connect" for choice in architecture.values())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        wrong = torch.arange(len(images)) >= self.right
        return torch.nn.functional.one_hot(wrong.long(), 2).float()


class SkipLovingSupernet:
    def network(self, architecture: dict[str, str]) -> torch.nn.Module:
        return Network(architecture)

    def weight_batches(self, count: int, *, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return []

    def architecture_batches(self, images: int, *, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(torch.zeros(12, 3, 8, 8), torch.zeros(12, dtype=torch.int64))]


@pytest.fixture
def search_and_picker(tmp_path):
    labels = nasbench201.to_nni([0] * 6)
    names = tuple(next(iter(nasbench201.to_nni([k] * 6).values())) for k in range(5))
    uniform = Posterior(
        {label: torch.zeros(5) for label in labels},
        {label: torch.ones(5) for label in labels},
        dict.fromkeys(labels, names),
    )
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    uniform.save(folder.posterior)
    opened = []

    def supernet_of(found: RunFolder) -> SkipLovingSupernet:
        opened.append(found.path)
        return SkipLovingSupernet()

    scale = load_scale("small")
    sizes = ProxyNetworks(channels=2, cells_per_stage=1, image_size=8).sizes
    config = scale.config("balenas", 0)
    space = get_space("NasBench201")
    picker = Picker(tmp_path / "scores", space, sizes, config.data, benchmark=Truth(), supernet_of=supernet_of)
    return Search(config, folder), picker, opened


def drawn(picker: Picker, search: Search, n: int) -> list[dict[str, str]]:
    """Return the distinct draws."""
    architectures = Architectures(picker.space.decisions, Posterior.load(search.folder.posterior))
    return [dict(candidate.sample) for candidate in drawn_candidates(architectures, n, seed=0)]


def row(n: int, selection: str, candidates: str = "sample") -> Row:
    return Row(f"{selection}, {n}", "balenas", Pick("proxy", n, selection, candidates), "balenas")


def test_a_named_selection_picks_and_its_scores_are_kept(search_and_picker) -> None:
    search, picker, opened = search_and_picker
    found = picker.accuracies(row(60, "supernet"), search, 0)
    draws = drawn(picker, search, 60)
    skips = [list(architecture.values()).count("skip_connect") for architecture in draws]
    best = [architecture for architecture, count in zip(draws, skips, strict=True) if count == max(skips)]
    assert found["cifar10"] in {list(architecture.values()).count("conv_3x3") for architecture in best}
    (file,) = picker.folder.iterdir()
    scores = json.loads(file.read_text())["scores"]
    assert scores == {
        picker.space.notations(architecture)["nasbench201"]: count / 12
        for architecture, count in zip(draws, skips, strict=True)
    }
    before = file.read_bytes()
    assert picker.accuracies(row(60, "supernet"), search, 0) == found
    picker.accuracies(row(20, "supernet"), search, 0)  # the first of the same draws
    picker.accuracies(row(60, "synflow+supernet"), search, 0)
    assert opened == [search.folder.path]  # once
    assert file.read_bytes() == before
    picker.accuracies(row(70, "supernet"), search, 0)
    assert set(scores) < set(json.loads(file.read_text())["scores"])


def test_scores_of_another_posterior_or_other_networks_are_not_used(search_and_picker) -> None:
    search, picker, opened = search_and_picker
    for selection in ("supernet", "synflow"):
        picker.accuracies(row(10, selection), search, 0)
    files = {name: picker.folder / f"{name}-seed-0.json" for name in ("supernet_accuracy-balenas", "synflow")}
    before = {name: json.loads(file.read_text())["scores"] for name, file in files.items()}
    posterior = Posterior.load(search.folder.posterior)
    posterior.mean["cell/0_1"][2] += 5
    posterior.save(search.folder.posterior)
    wider = Picker(
        picker.folder,
        picker.space,
        ProxyNetworks(channels=3, cells_per_stage=1, image_size=8).sizes,
        search.config.data,
        benchmark=picker.benchmark,
        supernet_of=picker.supernet_of,
    )
    for selection in ("supernet", "synflow"):
        wider.accuracies(row(10, selection), search, 0)
    assert len(opened) == 2
    after = {name: json.loads(file.read_text())["scores"] for name, file in files.items()}
    names = {wider.space.notations(architecture)["nasbench201"] for architecture in drawn(wider, search, 10)}
    assert all(set(scores) == names for scores in after.values())
    shared = names & set(before["synflow"])
    assert all(
        after["synflow"][name] != before["synflow"][name] for name in shared if math.isfinite(before["synflow"][name])
    )


def test_proxies_need_no_supernet(search_and_picker) -> None:
    search, picker, opened = search_and_picker
    few, many = (picker.accuracies(row(n, "synflow"), search, 0) for n in (5, 200))
    assert many["cifar10"] >= few["cifar10"]  # SynFlow likes 3x3
    assert opened == []


def test_the_best_of_the_most_probable_is_picked(search_and_picker) -> None:
    search, picker, _ = search_and_picker
    posterior = Posterior.load(search.folder.posterior)
    for mean in posterior.mean.values():
        mean[nasbench201.OPERATIONS.index("nor_conv_1x1")] += 3
    posterior.save(search.folder.posterior)
    enumerated = ProxySelection(n=12, candidates="enumerate")
    probable = candidates_of(enumerated, Architectures(picker.space.decisions, posterior), None, progress=False)
    for seed in range(2):
        networks = picker.space.networks(seed)
        best = max(probable, key=lambda candidate: networks.fast_rank_value("synflow", candidate.sample))
        found = picker.accuracies(row(12, "synflow", "enumerate"), search, seed)
        assert found["cifar10"] == list(best.sample.values()).count("conv_3x3")
        scores = json.loads((picker.folder / f"synflow-seed-{seed}.json").read_text())["scores"]
        assert max(scores, key=scores.get) == picker.space.notations(best.sample)["nasbench201"]


def test_the_probability_pulls_a_pick_back(search_and_picker) -> None:
    """Every 3x3 is improbable: SynFlow's pick has most of them, its rank averaged with the probability's fewer."""
    search, picker, _ = search_and_picker
    posterior = Posterior.load(search.folder.posterior)
    for mean in posterior.mean.values():
        mean[nasbench201.OPERATIONS.index("nor_conv_3x3")] -= 1
        mean[nasbench201.OPERATIONS.index("skip_connect")] += 1
    posterior.save(search.folder.posterior)
    alone = row(200, "synflow")
    both = replace(alone, pick=replace(alone.pick, include_probability=True))
    assert picker.accuracies(both, search, 0)["cifar10"] < picker.accuracies(alone, search, 0)["cifar10"]


def test_the_oracle_picks_the_best_of_the_draws_by_validation(search_and_picker) -> None:
    search, picker, _ = search_and_picker
    found = picker.accuracies(Row("best", "balenas", Pick("oracle", 30), "balenas"), search, 0)
    assert found["cifar10"] == max(list(s.values()).count("conv_3x3") for s in drawn(picker, search, 30))
    assert not picker.folder.exists()  # it scores nothing


def test_a_row_may_name_a_selection_with_options_of_its_own(search_and_picker) -> None:
    search, picker, _ = search_and_picker
    named, plain = (row(12, selection, "enumerate") for selection in ("synflow-enumerated", "synflow"))
    assert picker.accuracies(named, search, 0) == picker.accuracies(plain, search, 0)
