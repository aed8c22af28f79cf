"""Descriptions of Python objects in JSON, with which a trial makes a search anew; and what it reports."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import nni
import pytest
import torch
from nni.nas.evaluator.pytorch import Classification, DataLoader
from nni.nas.hub.pytorch import NasBench201
from torch import nn
from torch.utils.data import DataLoader as PlainLoader
from torch.utils.data import Subset, TensorDataset

from balenas_plugin.adapters.nni.web.description import Description, Rebuilding
from balenas_plugin.adapters.nni.web.found import Found
from balenas_plugin.adapters.nni.web.recipes import ScriptedSearch, recipe_from_json
from balenas_plugin.adapters.nni.web.trials import known_of, shown
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.errors import FileFormatError, OptionError
from balenas_plugin.selection import RankedArchitecture


def again(value: Any) -> Any:
    """Return the value described, sent as text, and made anew."""
    description = Description()
    document = json.loads(json.dumps(description.describe(value, "the value")))
    return Rebuilding(description.tensors, description.script).make(document)


def dataset() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(12, 3, 8, 8, generator=generator), torch.arange(12) % 4)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0.1,
        math.inf,
        "text",
        [1, (2, "3"), []],
        {"a": {1: (None,)}, "name": "call"},
        Path("runs/x"),
        torch.float16,
        torch.device("cpu"),
        nn.CrossEntropyLoss,
        torch.optim.SGD,
    ],
    ids=str,
)
def test_plain_values_and_names_come_back_equal(value: Any) -> None:
    assert again(value) == value


def test_a_partial_and_a_subset_come_back() -> None:
    assert again(functools.partial(torch.optim.SGD, lr=0.1)).keywords == {"lr": 0.1}
    subset = again(Subset(dataset(), [3, 5]))
    assert torch.equal(subset[1][0], dataset()[5][0])


@pytest.mark.parametrize("loader", [DataLoader, PlainLoader])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_loader_gives_the_same_batches(loader: Any, shuffle: bool) -> None:
    given = loader(dataset(), batch_size=5, shuffle=shuffle)
    made = again(given)
    torch.manual_seed(1)
    wanted = [labels.tolist() for _, labels in given]
    torch.manual_seed(1)
    assert [labels.tolist() for _, labels in made] == wanted


def test_a_space_and_an_evaluator_come_back_traceable() -> None:
    space = NasBench201(stem_out_channels=4, num_modules_per_stack=1, num_labels=4)
    made = again(space)
    assert {k: v.shape for k, v in made.state_dict().items()} == {k: v.shape for k, v in space.state_dict().items()}
    loader = DataLoader(dataset(), batch_size=4)
    evaluator = Classification(
        num_classes=4, train_dataloaders=loader, val_dataloaders=loader, max_epochs=2, logger=False, accelerator="cpu"
    )
    copy = again(evaluator)
    assert copy.trainer.max_epochs == 2
    assert nni.common.serializer.is_traceable(copy)


@pytest.mark.parametrize(
    ("value", "reported"),
    [
        (lambda x: x, "cannot import"),
        (PlainLoader(dataset(), sampler=torch.utils.data.WeightedRandomSampler([1.0] * 12, 12)), "nni.trace"),
        ([nn.Linear(1, 1)], r"the evaluator\[0\] is a torch.nn.modules.linear.Linear"),
    ],
    ids=["lambda", "sampler", "module"],
)
def test_what_cannot_travel_is_named(value: Any, reported: str) -> None:
    with pytest.raises(OptionError, match=reported):
        Description().describe(value, "the evaluator")


def test_a_recipe_for_another_machine_carries_small_tensors_and_refuses_large_ones() -> None:
    space = NasBench201(stem_out_channels=2, num_modules_per_stack=1, num_labels=4)

    def recipe(data: TensorDataset) -> ScriptedSearch:
        loader = DataLoader(data, batch_size=4)
        evaluator = Classification(
            num_classes=4, train_dataloaders=loader, val_dataloaders=loader, logger=False, accelerator="cpu"
        )
        return ScriptedSearch.of(space, evaluator, "BaLeNAS", {"num_mc_samples": 2}, folder=None)

    sent = json.loads(json.dumps(recipe(dataset()).to_json()))
    assert "//" not in sent["tensors"]  # what NNI takes for a comment
    made_space, made_evaluator = recipe_from_json(sent).build()
    assert type(made_space).__name__ == "NasBench201"
    images, _ = next(iter(made_evaluator.train_dataloaders))
    assert torch.equal(images, dataset().tensors[0][:4])
    with pytest.raises(OptionError, match="another machine"):
        recipe(TensorDataset(torch.zeros(200, 3, 32, 32), torch.zeros(200, dtype=torch.long)))


def test_what_was_found_travels_exactly() -> None:
    posterior = Posterior(
        {"a": torch.randn(3), "b": torch.randn(2)},
        {"a": torch.rand(3) + 1, "b": torch.rand(2) + 1},
        {"a": "xyz", "b": "uv"},
    )
    ranked = RankedArchitecture(
        rank=1,
        choices={"a": "x", "b": "v"},
        notation={},
        probability=0.25,
        log_probability=-math.inf,
        times_drawn=2,
        scores={"synflow": 4.5},
        winning_probability={"a": 0.5, "b": 0.5},
        stability=1.0,
    )
    text = Found(posterior=posterior, records=[{"rank": 1}], ranking=[ranked], checkpoint="x").to_text()
    found = Found.from_text(text)
    assert found.posterior.to_document() == posterior.to_document()
    assert found.ranking == [ranked]
    assert found.records == [{"rank": 1}]
    with pytest.raises(FileFormatError, match="damaged"):
        Found.from_text(text[:-9])


def test_the_numbers_of_a_candidate() -> None:
    record = {"log_probability": -3.0, "probability": 0.05, "scores": {"synflow": 7.0, "naswot": 1.0}}
    assert known_of(record) == {"default": 7.0, "log_probability": -3.0, "synflow": 7.0, "naswot": 1.0}
    truth = {"values": {"cifar10": {"test_accuracy": 93.5}, "cifar100": {"test_accuracy": 70.0}}}
    assert known_of({"log_probability": -3.0, "ground_truth": truth}) == {
        "default": -3.0,
        "log_probability": -3.0,
        "ground truth: cifar10 test": 93.5,
    }
    assert [shown(choice) for choice in ("conv", [2], [0, 1], 4)] == ["conv", 2, [0, 1], 4]
