"""BaLeNAS-TF through NNI: `selection` ranks draws from the posterior in every space that the strategy searches."""

from __future__ import annotations

import math

import pytest
import torch
from nni.nas.evaluator.pytorch import DataLoader
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import nn
from torch.utils.data import TensorDataset

from balenas_plugin import BaLeNAS
from balenas_plugin.errors import EvaluatorError, OptionError, SpaceError
from balenas_plugin.proxies import list_proxies
from balenas_plugin.selection import ProxySelection
from balenas_plugin.selection.supernet_accuracy import SUPERNET_ACCURACY

from .searches import classification, loaders, prepare, search, set_posterior
from .spaces import CASES, CLASSES, Layers

RANKABLE = [name for name in CASES if name != "cell_loose_end"]


def searched(name, folder, **options):
    case = CASES[name]
    strategy = search(case.space(), classification(folder, **loaders(shape=case.shape)), num_mc_samples=1, **options)
    set_posterior(strategy.oneshot_module, seed=1)
    return strategy


@pytest.mark.parametrize("name", RANKABLE)
def test_export_follows_the_proxies(name, tmp_path):
    strategy = searched(name, tmp_path, selection=ProxySelection(n=12, proxy="grad_norm"))
    ranked = strategy.rank()
    values = [found.scores["grad_norm"] for found in ranked]
    assert values == sorted(values, reverse=True)
    assert sum(found.times_drawn for found in ranked) == 12
    assert [model.sample for model in strategy.list_models(limit=3)] == [found.choices for found in ranked[:3]]
    known = {str(sorted(r.sample.items())): r.log_probability for r in strategy.iterate_samples()}
    for found in ranked:
        architecture = str(sorted(found.choices.items()))
        if architecture in known:  # cells may list a node's operations in another order
            assert found.log_probability == pytest.approx(known[architecture])


def test_same_seed_same_ranking(tmp_path):
    lists = []
    for _ in range(2):
        torch.manual_seed(0)
        strategy = searched("layer_choice", tmp_path, selection={"n": 10, "proxy": ["params", "grad_norm"]})
        lists.append([found.to_dict() for found in strategy.rank()])
    assert lists[0] == lists[1]


def test_without_a_selection_the_posterior_decides(tmp_path):
    strategy = searched("layer_choice", tmp_path)
    expected = [ranked.sample for ranked in strategy.iterate_samples()]
    assert [model.sample for model in strategy.list_models(limit=None)] == expected
    with pytest.raises(OptionError, match="made with selection="):
        strategy.rank()


def test_space_whose_frozen_networks_do_not_run(tmp_path):
    """NNI's supernet takes a cell's loose ends for granted; its frozen cells leave them out and fit no longer."""
    strategy = searched("cell_loose_end", tmp_path, selection=ProxySelection(n=40, proxy="grad_norm"))
    with pytest.raises(SpaceError, match="does not run on images"):
        strategy.rank()


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"n": 10, "proxi": "snip"}, "did you mean 'proxy'"),
        ({"proxy": "sinflow"}, "did you mean 'synflow'"),
        (3, "must be one of synflow, .* or a mapping"),
    ],
)
def test_bad_selections(selection, message):
    with pytest.raises(OptionError, match=message):
        BaLeNAS(selection=selection)


class First(nn.Module):
    def forward(self, outputs):
        return outputs[0]


class Tokens(ModelSpace):
    """Embeddings, and layers of sequences to choose from."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        layers = {
            "recurrent": nn.Sequential(nn.LSTM(8, 8, batch_first=True), First()),
            "attention": nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
            "linear": nn.Linear(8, 8),
        }
        self.middle = LayerChoice(layers, label="middle")
        self.head = nn.Linear(8, CLASSES)

    def forward(self, tokens):
        return self.head(self.middle(self.embedding(tokens)).mean(1))


def tokens(labels):
    """Return the data of an evaluator: sequences of 7 tokens, with labels made of them."""
    sequences = torch.randint(20, (16, 7), generator=torch.Generator().manual_seed(0))
    data = TensorDataset(sequences, labels(sequences))
    return {f"{which}_dataloaders": DataLoader(data, batch_size=8) for which in ("train", "val")}


def of_classes(sequences):
    return sequences[:, 0] % CLASSES


def test_tokens_are_ranked(tmp_path):
    every = [name for name in list_proxies() if name not in ("jacob_cov", "naswot")]
    selection = {"n": 8, "proxy": [*every, SUPERNET_ACCURACY], "images": 16, "max_flops": 1e9}
    ranked = search(Tokens(), classification(tmp_path, **tokens(of_classes)), selection=selection).rank()
    assert {found.choices["middle"] for found in ranked} == {"recurrent", "attention", "linear"}
    flops = {found.choices["middle"]: found.flops for found in ranked}
    assert flops["recurrent"] > flops["linear"]
    assert flops["attention"] > flops["linear"]
    for found in ranked:
        assert all(math.isfinite(value) for value in found.scores.values()), found.scores


@pytest.mark.parametrize(
    ("labels", "proxy", "error", "message"),
    [
        (
            of_classes,
            "jacob_cov",
            OptionError,
            "'jacob_cov' cannot score Tokens: .*Proxies that can: fisher, .*synflow",
        ),
        (
            torch.Tensor.float,
            "snip",
            OptionError,
            "'snip' cannot score Tokens: .*Proxies that can: flops, params, synflow, synflow_bn$",
        ),
        (None, "params", EvaluatorError, r"two tensors, \(inputs, labels\).* gives dict \(x, y\)\. Search without"),
    ],
)
def test_what_a_selection_cannot_do_is_reported_at_the_first_batch(labels, proxy, error, message, tmp_path):
    if labels is None:
        rows = [{"x": sequence, "y": label} for sequence, label in tokens(of_classes)["val_dataloaders"].dataset]
        data = {f"{which}_dataloaders": DataLoader(rows, batch_size=8) for which in ("train", "val")}
    else:
        data = tokens(labels)
    strategy = prepare(Tokens(), classification(tmp_path, num_sanity_val_steps=0, **data), selection={"proxy": proxy})
    with pytest.raises(error, match=message):
        strategy.run()
    assert strategy.oneshot_module.trainer.global_step == 0


def test_a_network_in_float64_of_inputs_in_float32(tmp_path):
    class Double(Layers):
        def __init__(self):
            super().__init__()
            self.double()

        def forward(self, x):
            return super().forward(x.double())

    strategy = search(Double(), classification(tmp_path), selection={"n": 3, "proxy": ["synflow", "snip"]})
    assert all(math.isfinite(value) for found in strategy.rank() for value in found.scores.values())


def test_proxies_look_at_the_validation_data(tmp_path):
    strategy = search(Layers(), classification(tmp_path), selection={"n": 4, "proxy": "snip"})
    inputs, targets = strategy.oneshot_module.example.pair()
    assert len(inputs) == len(targets) == 8
    assert (inputs[:, 0] == -1).all()  # the mark of the validation data
