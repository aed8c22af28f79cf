"""The validation batch split among the draws of an architecture step."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch

from balenas_plugin import BaLeNAS
from balenas_plugin.adapters.nni.one_shot.loaders import split_batch
from balenas_plugin.errors import EvaluatorError, OptionError

from .searches import Spy, classification, is_training, loaders, prepare
from .spaces import Layers

Pair = namedtuple("Pair", ["x", "y"])


def test_parts_hold_every_example_once_in_order() -> None:
    x, y = torch.arange(22.0).reshape(11, 2), torch.arange(11)
    parts = split_batch([x, y], 3)
    assert [len(part[1]) for part in parts] == [3, 4, 4]
    assert torch.equal(torch.cat([part[0] for part in parts]), x)
    assert torch.equal(torch.cat([part[1] for part in parts]), y)


def test_batches_keep_their_structure() -> None:
    x = torch.arange(8.0)
    first, second = split_batch({"pair": Pair(x, (x,)), "name": "batch", "scale": 2.0}, 2)
    assert isinstance(first["pair"], Pair)
    assert torch.equal(first["pair"].x, x[:4])
    assert torch.equal(second["pair"].y[0], x[4:])
    assert second["name"] == "batch"
    assert second["scale"] == 2.0


def test_a_small_batch_is_not_split() -> None:
    x = torch.arange(5.0)
    assert [len(part) for part in split_batch(x, 3)] == [5, 5, 5]


@pytest.mark.parametrize("batch", [[torch.zeros(8, 2), torch.zeros(6)], "text", [torch.tensor(1.0)]], ids=str)
def test_batches_without_examples_are_refused(batch: Any) -> None:
    with pytest.raises(EvaluatorError, match='Use mc_batches="full"'):
        split_batch(batch, 2)


def test_a_first_dimension_that_is_not_that_of_the_examples_is_refused(tmp_path) -> None:
    """As in a list of graphs, whose tensors have the nodes first: each draw would see some nodes of every graph."""
    data = loaders(train=12, val=12, batch_size=12)
    data["val_dataloaders"].collate_fn = lambda items: [(x.repeat(20, 1), int(y)) for x, y in items]
    evaluator = classification(tmp_path, num_sanity_val_steps=0, **data)
    strategy = prepare(Layers(), evaluator, num_mc_samples=3, mc_batches="split")
    with pytest.raises(EvaluatorError, match=r"sizes \[20\] from a loader with a batch size of 12"):
        strategy.run()


@pytest.mark.parametrize("order", ["first", "second"])
def test_each_draw_sees_its_own_part(tmp_path, order: str) -> None:
    data = loaders(train=12, val=12, batch_size=12)
    strategy = prepare(Layers(), classification(tmp_path, **data), num_mc_samples=3, mc_batches="split", order=order)
    seen: list[tuple[bool, torch.Tensor]] = []
    Spy(strategy, lambda batch: seen.append((is_training(batch), batch[1].clone())))
    strategy.run()
    validation = [labels for training, labels in seen if not training]
    assert [len(labels) for labels in validation] == [4, 4, 4]
    whole = torch.cat([labels for _, labels in data["val_dataloaders"]])
    assert torch.equal(torch.cat(validation), whole)
    sizes = [len(labels) for training, labels in seen if training]
    assert sizes == ([12] if order == "first" else [4] * 9 + [12])


def test_unknown_words_are_refused() -> None:
    with pytest.raises(OptionError, match="mc_batches must be one of full, split, got 'splitt'"):
        BaLeNAS(mc_batches="splitt")
    with pytest.raises(OptionError, match="at least 2, got 1"):
        BaLeNAS(num_mc_samples=1, antithetic=True)
