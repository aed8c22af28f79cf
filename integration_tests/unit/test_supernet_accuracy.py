"""The supernet's accuracy as a criterion: what it counts, batch-norm of its own, ranking by it and beside proxies."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from balenas_plugin.bayes import Posterior
from balenas_plugin.bayes.architectures import Architectures
from balenas_plugin.errors import OptionError, SpaceError
from balenas_plugin.search_spaces.nasbench201 import NasBench201Space, from_nni
from balenas_plugin.selection import ProxySelection, rank
from balenas_plugin.selection.proxy_selection import NAMED_SELECTIONS, named_selection
from balenas_plugin.selection.supernet_accuracy import SUPERNET_ACCURACY, SupernetAccuracy, estimate_batch_norm

SPACE = NasBench201Space(channels=4, cells_per_stage=1, image_size=16)
CLASSES = 10
IMAGES = 200


def posterior(spread: float = 0.5) -> Posterior:
    generator = torch.Generator().manual_seed(1)
    labels = [label for decision in SPACE.decisions for label in decision.labels]
    mean = {label: spread * torch.randn(5, generator=generator) for label in labels}
    return Posterior(mean, {label: torch.full((5,), 4.0) for label in labels})


class Oracle(nn.Module):
    """Classifies rightly the images whose number is below `right`."""

    def __init__(self, right: int) -> None:
        super().__init__()
        self.right = right

    def forward(self, images: Tensor) -> Tensor:
        numbers = images[:, 0, 0, 0].long()
        return nn.functional.one_hot((numbers % CLASSES + (numbers >= self.right)) % CLASSES, CLASSES).float()


def right_of(architecture: dict[str, str]) -> int:
    """Return how many of the images an architecture shall get right: another number for most of them."""
    return sum((index + 1) * 7 ** (place % 2) for place, index in enumerate(from_nni(architecture)))


@dataclass
class Known:
    """A supernet whose accuracies are known."""

    asked: list[tuple[str, int, int]] = field(default_factory=list)
    built: Counter[str] = field(default_factory=Counter)

    def network(self, architecture: dict[str, str]) -> nn.Module:
        self.built[str(architecture)] += 1
        return Oracle(right_of(architecture))

    def weight_batches(self, count: int, *, seed: int) -> list[tuple[Tensor, Tensor]]:
        self.asked.append(("weights", count, seed))
        return [(torch.zeros(4, 3, 16, 16), torch.zeros(4, dtype=torch.int64)) for _ in range(count)]

    def architecture_batches(self, images: int, *, seed: int) -> list[tuple[Tensor, Tensor]]:
        self.asked.append(("architecture", images, seed))
        numbers = torch.arange(min(images, IMAGES))
        pictures = numbers.float()[:, None, None, None].expand(-1, 3, 16, 16)
        return list(zip(pictures.split(64), (numbers % CLASSES).split(64), strict=True))


def test_order_is_that_of_the_accuracy() -> None:
    supernet = Known()
    ranked = rank(posterior(), SPACE, ProxySelection(n=30, proxy=SUPERNET_ACCURACY, seed=3), supernet=supernet)
    accuracies = [found.scores[SUPERNET_ACCURACY] for found in ranked]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies == pytest.approx([right_of(found.choices) / IMAGES for found in ranked])
    assert len(set(accuracies)) > 5
    assert set(supernet.built.values()) == {1}  # every distinct draw once
    assert supernet.asked == [("weights", 8, 3), ("architecture", 1000, 3)]


def test_options_reach_the_supernet() -> None:
    supernet = Known()
    selection = ProxySelection(n=2, proxy=SUPERNET_ACCURACY, images=50, batch_norm_batches=3)
    (found, *_) = rank(posterior(), SPACE, selection, supernet=supernet)
    assert supernet.asked == [("weights", 3, 0), ("architecture", 50, 0)]
    assert found.scores[SUPERNET_ACCURACY] == pytest.approx(min(right_of(found.choices), 50) / 50)


def test_images_of_its_own_depend_on_what_an_architecture_is() -> None:
    """Not on its place among the candidates, and not on the number of workers."""
    accuracies, asked = [], []
    for candidates, workers in (("sample", 1), ("enumerate", 1), ("enumerate", 2)):
        supernet, wanted = Known(), named_selection("one-batch")
        selection = replace(wanted, candidates=candidates, n=15, images=100, seed=3, workers=workers)
        ranked = rank(posterior(), SPACE, selection, supernet=supernet)
        accuracies.append({str(found.choices): found.scores[SUPERNET_ACCURACY] for found in ranked})
        asked.append([entry for entry in supernet.asked if entry != ("architecture", 100, 3)])
    assert {which for which, *_ in asked[0]} == {"architecture"}  # nothing to estimate statistics from
    assert len({seed for *_, seed in asked[0]}) == len(accuracies[0]) > 10
    assert accuracies[1] == accuracies[2]
    both = accuracies[0].keys() & accuracies[1].keys()
    assert len(both) > 3
    assert len({*asked[0]} & {*asked[1]}) == len(both)
    supernet = Known()
    rank(posterior(), SPACE, replace(named_selection("one-batch"), n=2, seed=2**31), supernet=supernet)
    assert all(2 * seed + 1 < 2**64 for *_, seed in supernet.asked)  # what torch takes for the second half


def test_the_most_probable_are_ranked_by_nothing_else() -> None:
    ranked = rank(posterior(), SPACE, replace(named_selection("most-probable"), n=20))
    expected = islice(Architectures(SPACE.decisions, posterior()).iterate(), 20)
    assert [found.choices for found in ranked] == [found.sample for found in expected]
    assert ranked[0].scores == {"probability": ranked[0].log_probability}


def test_ranks_are_averaged_with_those_of_proxies_and_the_probability() -> None:
    selection = ProxySelection(n=40, proxy=("synflow", SUPERNET_ACCURACY), include_probability=True, seeds=2)
    ranked = rank(posterior(), SPACE, selection, supernet=Known())

    def places(values: list[float]) -> list[int]:
        return [sum(other > value for other in values) for value in values]

    columns = [
        places([found.scores["synflow"] for found in ranked]),
        places([found.scores[SUPERNET_ACCURACY] for found in ranked]),
        places([found.log_probability for found in ranked]),
    ]
    points = [sum(column) for column in zip(*columns, strict=True)]
    assert points == sorted(points)
    assert len(set(points)) > 5
    assert list(ranked[0].scores) == ["synflow", SUPERNET_ACCURACY]
    swapped = replace(selection, proxy=(SUPERNET_ACCURACY, "synflow"))
    again = rank(posterior(), SPACE, swapped, supernet=Known())
    by_choices = {str(found.choices): found.scores for found in ranked}
    assert all(by_choices[str(found.choices)] == found.scores for found in again)


def test_same_list_whatever_the_number_of_workers() -> None:
    selection = ProxySelection(n=20, proxy=("params", SUPERNET_ACCURACY))
    one = rank(posterior(), SPACE, selection, supernet=Known())
    two = rank(posterior(), SPACE, replace(selection, workers=2), supernet=Known())
    assert [found.to_dict() for found in one] == [found.to_dict() for found in two]


def test_networks_left_out_are_not_evaluated() -> None:
    everything = rank(
        posterior(), SPACE, ProxySelection(n=20, proxy=SUPERNET_ACCURACY, max_params=1e9), supernet=Known()
    )
    limit = sorted(found.params for found in everything)[len(everything) // 2]
    supernet = Known()
    kept = rank(posterior(), SPACE, ProxySelection(n=20, proxy=SUPERNET_ACCURACY, max_params=limit), supernet=supernet)
    assert all(found.params <= limit for found in kept)
    assert set(supernet.built) == {str(found.choices) for found in kept}


def test_only_a_posterior_is_not_enough() -> None:
    with pytest.raises(OptionError, match=r"needs the weights and the data of the search.*balenas export RUN_DIR"):
        rank(posterior(), SPACE, ProxySelection(n=2, proxy=("synflow", SUPERNET_ACCURACY)))


# -- batch-norm -------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.norm(self.conv(images)))).mean((2, 3)))


def test_statistics_are_the_mean_over_the_batches() -> None:
    torch.manual_seed(0)
    network, batches = Net(), [torch.randn(6, 3, 8, 8) * k for k in (1, 2, 3)]
    network.norm.running_mean.fill_(9.0)
    weights = {name: value.clone() for name, value in network.named_parameters()}
    estimate_batch_norm(network, batches)
    outputs = [network.conv(batch).detach() for batch in batches]
    mean = torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0)
    variance = torch.stack([output.transpose(0, 1).flatten(1).var(1) for output in outputs]).mean(0)
    torch.testing.assert_close(network.norm.running_mean, mean)
    torch.testing.assert_close(network.norm.running_var, variance)
    assert all(torch.equal(value, weights[name]) for name, value in network.named_parameters())
    assert not any(module.training for module in network.modules())
    assert network.norm.momentum == 0.1


def test_statistics_can_be_those_of_each_batch() -> None:
    torch.manual_seed(0)
    network, supernet = Net(), Known()
    batches = [(torch.randn(size, 3, 8, 8) * 3, torch.arange(size)) for size in (9, 6, 1)]  # one has no statistics
    supernet.architecture_batches = lambda images, *, seed: batches
    accuracy = SupernetAccuracy(supernet, images=16, batch_norm_batches=1, seed=0, batch_statistics=True)
    expected = copy.deepcopy(network)
    expected.drop.eval()
    right = sum(int((expected(images).argmax(1) == labels).sum()) for images, labels in batches[:2])
    assert accuracy.of(network) == right / 15
    assert ("weights", 1, 0) not in supernet.asked


def test_dropout_is_off_while_statistics_are_estimated() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(4))
    batch, state = torch.randn(8, 4), torch.get_rng_state()
    estimate_batch_norm(network, [batch])
    torch.testing.assert_close(network[1].running_mean, batch.mean(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_batch_norm_without_statistics_stays_without() -> None:
    network = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False))
    estimate_batch_norm(network, [torch.randn(8, 4)])
    assert network[0].running_mean is None
    assert not network[0].training


# -- what is no classification ----------------------------------------------------------------------------------------


class Labelled(Known):
    """A supernet with other labels or outputs."""

    labels = torch.zeros(4, dtype=torch.int64)
    outputs = torch.zeros(4, CLASSES)

    def architecture_batches(self, images: int, *, seed: int) -> list[tuple[Tensor, Tensor]]:
        return [(torch.zeros(4, 3, 16, 16), self.labels)]

    def network(self, architecture: dict[str, str]) -> nn.Module:
        network = nn.Module()
        network.forward = lambda images: self.outputs
        return network


@pytest.mark.parametrize("labels", [torch.zeros(4), torch.zeros(4, 2, dtype=torch.int64)])
def test_labels_must_be_classes(labels: Tensor) -> None:
    supernet = Labelled()
    supernet.labels = labels
    with pytest.raises(OptionError, match="every label must be the number of a class"):
        SupernetAccuracy(supernet, images=4, batch_norm_batches=1, seed=0)


@pytest.mark.parametrize("outputs", [torch.zeros(4), torch.zeros(4, 3, 2), (torch.zeros(4, 3),)])
def test_outputs_must_be_class_scores(outputs: object) -> None:
    supernet = Labelled()
    supernet.outputs = outputs
    with pytest.raises(OptionError, match="needs a classifier"):
        SupernetAccuracy(supernet, images=4, batch_norm_batches=1, seed=0)({})


def test_a_network_that_does_not_run_is_named() -> None:
    class Broken(Known):
        def network(self, architecture: dict[str, str]) -> nn.Module:
            return nn.Linear(5, 5)

    with pytest.raises(SpaceError, match="does not run on images of the search"):
        rank(posterior(), SPACE, ProxySelection(n=2, proxy=SUPERNET_ACCURACY), supernet=Broken())


# -- by name ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMED_SELECTIONS)
def test_every_name_is_a_selection(name: str) -> None:
    assert ProxySelection.of(name) == named_selection(name) == ProxySelection(**NAMED_SELECTIONS[name])


def test_synflow_is_the_papers_and_the_default() -> None:
    assert named_selection("synflow") == ProxySelection() == ProxySelection(n=100, proxy="synflow", candidates="sample")
    assert not named_selection("synflow").needs_supernet
    assert named_selection("supernet").proxies == (SUPERNET_ACCURACY,)
    enumerated = named_selection("synflow-enumerated")
    assert (enumerated.n, enumerated.candidates, enumerated.proxies) == (1000, "enumerate", ("synflow",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proxy": "supernet_acuracy"}, "did you mean 'supernet_accuracy'"),
        ({"proxy": []}, "a list of at least 1, got"),
        ({"proxy": 3}, "must be one of"),
        ({"images": 0}, "images must be a whole number"),
        ({"images": 1, "batch_statistics": True}, "needs at least 2 images"),
        ({"fine_tuning": 3}, 'needs candidates: "darts-pt"'),
        ({"batch_norm_batches": 1.5}, "batch_norm_batches must be a whole number"),
        ({"include_probability": "yes"}, "include_probability must be true or false"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ProxySelection(**options)


def test_unknown_name() -> None:
    with pytest.raises(OptionError, match="did you mean 'supernet'"):
        ProxySelection.of("supernets")
