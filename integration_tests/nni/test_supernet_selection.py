"""Selection by the supernet's accuracy, in NNI: the number counted by hand, on data of its own, without a trace."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from nni.nas.evaluator.pytorch import DataLoader, Regression
from nni.nas.hub.pytorch import NasBench201
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn
from torch.utils.data import IterableDataset, SubsetRandomSampler, TensorDataset

from balenas_plugin import BaLeNAS
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters, choice_names
from balenas_plugin.adapters.nni.supernets.trained_supernet import TrainedSupernet
from balenas_plugin.errors import EvaluatorError, OptionError
from balenas_plugin.selection import ProxySelection
from balenas_plugin.selection.supernet_accuracy import SUPERNET_ACCURACY, SupernetAccuracy, estimate_batch_norm

from .searches import QUIET, classification, loaders, prepare, random_data, search, set_posterior
from .spaces import CASES, CLASSES

IMAGE = (3, 8, 8)
CPU = torch.device("cpu")


class Convolutions(ModelSpace):
    """Two convolutions to choose from, batch-norm, dropout and a linear classifier: small enough to compute by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.op = LayerChoice({"c1": nn.Conv2d(3, 6, 1), "c3": nn.Conv2d(3, 6, 3, padding=1)}, label="op")
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.norm(self.op(x)))).mean((2, 3)))


def learnable(count: int, seed: int) -> TensorDataset:
    """Return images whose brightness is their class, so that a short training learns something."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    images = torch.randn(count, *IMAGE, generator=generator) + labels[:, None, None, None]
    return TensorDataset(images, labels)


def searched(folder, *, selection="supernet", space=Convolutions, epochs=3, **options):
    torch.manual_seed(0)
    data = loaders(train=learnable(60, 0), val=learnable(70, 1), shape=IMAGE)
    evaluator = classification(folder, max_epochs=epochs, **data)
    return search(space(), evaluator, num_mc_samples=1, selection=selection, **options)


def by_hand(strategy, operation: str, *, images: int, batches: int, seed: int) -> float:
    """Return the accuracy of an operation from the supernet's tensors, without the exporter's code or NNI's."""
    state = {name: value.detach() for name, value in strategy.supernet.state_dict().items()}
    train, val = learnable(60, 0), learnable(70, 1)
    torch.manual_seed(2 * seed)
    of_weights = torch.randperm(60)[: batches * 8].split(8)
    torch.manual_seed(2 * seed + 1)
    of_architecture = torch.randperm(70)[:images]

    def convolved(x: Tensor) -> Tensor:
        return F.conv2d(x, state[f"op.{operation}.weight"], state[f"op.{operation}.bias"], padding="same")

    outputs = [convolved(train.tensors[0][rows]) for rows in of_weights]
    mean = torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0)
    variance = torch.stack([output.transpose(0, 1).flatten(1).var(1) for output in outputs]).mean(0)
    scaled = (convolved(val.tensors[0][of_architecture]) - mean[:, None, None]) / (variance + 1e-5).sqrt()[
        :, None, None
    ]
    normed = scaled * state["norm.weight"][:, None, None] + state["norm.bias"][:, None, None]
    scores = F.linear(torch.relu(normed).mean((2, 3)), state["head.weight"], state["head.bias"])
    return float((scores.argmax(1) == val.tensors[1][of_architecture]).double().mean())


@pytest.mark.parametrize(("images", "batches", "seed"), [(70, 7, 0), (20, 2, 5)])
def test_the_accuracy_is_what_a_count_by_hand_gives(images, batches, seed, tmp_path):
    strategy = searched(tmp_path)
    selection = ProxySelection(
        n=2, proxy=SUPERNET_ACCURACY, candidates="enumerate", images=images, batch_norm_batches=batches, seed=seed
    )
    ranked = strategy.rank(selection)
    assert len(ranked) == 2
    for found in ranked:
        expected = by_hand(strategy, found.choices["op"], images=images, batches=batches, seed=seed)
        assert found.scores[SUPERNET_ACCURACY] == pytest.approx(expected)
    assert max(found.scores[SUPERNET_ACCURACY] for found in ranked) > 1.5 / CLASSES  # it has learned something


def test_the_ranking_is_repeated_and_leaves_no_trace(tmp_path):
    strategy = searched(tmp_path)
    before = copy.deepcopy(strategy.supernet.state_dict())
    modes = [module.training for module in strategy.supernet.modules()]
    random_state = torch.get_rng_state()
    one = [found.to_dict() for found in strategy.rank()]
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in strategy.supernet.modules()] == modes
    after = strategy.supernet.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    torch.manual_seed(99)
    assert [found.to_dict() for found in strategy.rank()] == one
    assert [model.sample for model in strategy.list_models(limit=None)] == [found["choices"] for found in one]


def test_the_search_is_the_same_whatever_the_selection(tmp_path):
    plain, selecting = (searched(tmp_path / str(k), selection=s) for k, s in enumerate((None, "supernet")))
    for label, mean in plain.posterior.mean.items():
        assert torch.equal(mean, selecting.posterior.mean[label])
    other = selecting.supernet.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in plain.supernet.state_dict().items())


def test_an_inherited_network_equals_the_supernet_with_one_hot_weights(tmp_path):
    """On NAS-Bench-201: the same outputs with batch-norm's statistics estimated anew in either."""

    def space():
        return NasBench201(stem_out_channels=4, num_modules_per_stack=1, num_labels=CLASSES)

    strategy = searched(tmp_path, space=space, epochs=1, fused=False)
    trained = TrainedSupernet(strategy.supernet, None, *strategy._loaders.values(), device=CPU)
    supernet, names = copy.deepcopy(strategy.supernet), choice_names(strategy.supernet)
    images = learnable(16, 4).tensors[0]
    batches = [batch for batch, _ in trained.weight_batches(3, seed=0)]
    for seed in range(3):
        set_posterior(strategy.oneshot_module, seed)
        architecture = next(strategy.iterate_samples()).sample
        inherited = trained.network(architecture)
        with torch.no_grad():
            for label, alpha in architecture_parameters(supernet).items():
                alpha.copy_(torch.where(torch.tensor([n == architecture[label] for n in names[label]]), 1e4, -1e4))
            estimate_batch_norm(inherited, batches)
            estimate_batch_norm(supernet, batches)
            torch.testing.assert_close(inherited(images), supernet(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["nested_layer_choice", "input_choice_two_sum", "repeat", "cell_shared", "convolution_values"]
)
def test_every_kind_of_space_can_be_ranked(name, tmp_path):
    case = CASES[name]
    evaluator = classification(tmp_path, **loaders(shape=case.shape))
    strategy = search(case.space(), evaluator, num_mc_samples=1, selection={"n": 6, "proxy": SUPERNET_ACCURACY})
    ranked = strategy.rank()
    values = [found.scores[SUPERNET_ACCURACY] for found in ranked]
    assert values == sorted(values, reverse=True)
    assert all(0 <= value <= 1 and round(value * 16, 6).is_integer() for value in values)  # of 16 examples
    before = copy.deepcopy(strategy.supernet.state_dict())
    wanted = {"candidates": "darts-pt", "n": 2, "proxy": "params", "batch_statistics": True, "fine_tuning": 1}
    perturbed = strategy.rank(ProxySelection(**wanted))
    assert 1 <= len(perturbed) <= 2
    assert all(torch.equal(value, before[key]) for key, value in strategy.supernet.state_dict().items())


def test_halves_of_one_set_distinguished_by_samplers_stay_apart(tmp_path):
    """The marks say which half an example is of: all are in one set, and only the samplers divide it."""
    train, val = random_data(24, mark=1.0), random_data(24, mark=-1.0)
    both = TensorDataset(*(torch.cat(pair) for pair in zip(train.tensors, val.tensors, strict=True)))
    weight_loader = DataLoader(both, batch_size=8, sampler=SubsetRandomSampler(range(24)))
    architecture_loader = DataLoader(both, batch_size=8, sampler=SubsetRandomSampler(range(24, 48)))
    supernet = TrainedSupernet(nn.Module(), None, weight_loader, architecture_loader, device=CPU)
    for seed in range(3):
        weights = torch.cat([inputs for inputs, _ in supernet.weight_batches(9, seed=seed)])
        architecture = torch.cat([inputs for inputs, _ in supernet.architecture_batches(100, seed=seed)])
        assert len(weights) == len(architecture) == 24
        assert (weights[:, 0] == 1).all()
        assert (architecture[:, 0] == -1).all()


def test_batches_are_whole_and_chosen_by_the_seed():
    given = loaders(train=30, val=30)
    supernet = TrainedSupernet(nn.Module(), None, *given.values(), device=CPU)
    first, again, other = (supernet.weight_batches(2, seed=seed) for seed in (0, 0, 1))
    assert [len(labels) for _, labels in first] == [8, 8]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], other[0][0])
    assert [len(labels) for _, labels in supernet.weight_batches(99, seed=0)] == [8, 8, 8]
    assert [len(labels) for _, labels in supernet.architecture_batches(20, seed=0)] == [8, 8, 4]


# -- what cannot be ---------------------------------------------------------------------------------------------------


class Stream(IterableDataset):
    """A set without positions."""

    def __iter__(self):
        yield from random_data(16, mark=-1.0)


def test_data_without_positions_is_refused_before_the_search(tmp_path):
    data = {**loaders(), "val_dataloaders": DataLoader(Stream(), batch_size=8)}
    with pytest.raises(EvaluatorError, match="validation loader has no data set that can be read by position"):
        prepare(CASES["layer_choice"].space(), classification(tmp_path, **data), selection="supernet")


def test_a_regression_has_no_accuracy(tmp_path):
    x = torch.randn(16, 8)
    data = {f"{which}_dataloaders": DataLoader(TensorDataset(x, x[:, :3]), batch_size=8) for which in ("train", "val")}
    evaluator = Regression(max_epochs=1, default_root_dir=tmp_path, **QUIET, **data)
    with pytest.raises(OptionError, match="every label must be the number of a class"):  # at the first batch
        search(CASES["layer_choice"].space(), evaluator, selection="supernet", num_mc_samples=1)


def test_a_search_in_a_trial_ranks_there(tmp_path):
    strategy = searched(tmp_path, selection="synflow", epochs=1)
    strategy._trials = object()
    with pytest.raises(OptionError, match="the search ran in a trial"):
        strategy.rank(ProxySelection(proxy=SUPERNET_ACCURACY))


def test_names_and_their_misspellings():
    assert BaLeNAS(selection="supernet").selection.proxies == (SUPERNET_ACCURACY,)
    with pytest.raises(OptionError, match="did you mean 'supernet'"):
        BaLeNAS(selection="suprenet")


def test_accuracy_runs_where_the_images_are(tmp_path):
    strategy = searched(tmp_path, epochs=1)
    supernet = TrainedSupernet(strategy.supernet, None, *strategy._loaders.values(), device=torch.device("meta"))
    accuracy = SupernetAccuracy(supernet, images=8, batch_norm_batches=1, seed=0)
    assert accuracy.device.type == "meta"
    assert all(value.is_meta for value in supernet.network({"op": "c1"}).state_dict().values())
