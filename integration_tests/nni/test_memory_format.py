"""Channels-last memory is tried on all that a search will run, and the trial leaves no trace."""

from __future__ import annotations

import logging
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nni.nas.evaluator.pytorch import Lightning, LightningModule, Trainer
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import nn

from balenas_plugin.adapters.nni.one_shot.memory_format import use_channels_last

from .searches import QUIET, loaders, search
from .spaces import CLASSES

IMAGE = (3, 6, 6)


class Space(ModelSpace):
    def __init__(self):
        super().__init__()
        self.mid = LayerChoice({"c3": nn.Conv2d(3, 4, 3, padding=1), "c1": nn.Conv2d(3, 4, 1)}, label="mid")
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, CLASSES, 1)

    def forward(self, x):
        return self.head(F.dropout(self.norm(self.mid(x)), 0.2, self.training))


class Meter:
    """What many scripts keep of a running mean."""

    def __init__(self):
        self.count, self.values, self.sums = 0, [], torch.zeros(1)

    def update(self, value):
        self.count += 1
        self.values.append(value)
        self.sums += 1


class Task(LightningModule):
    """Flattens its predictions in validation alone, and keeps results in all the ways that scripts do."""

    def __init__(self, flatten):
        super().__init__()
        self.flatten = flatten
        self.meter = Meter()
        self.outputs = None
        self.noise = torch.Generator().manual_seed(0)
        self.seen_steps = []
        self.register_buffer("average", torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.model(batch[0]).mean((2, 3)), batch[1])

    def on_validation_epoch_start(self):
        self.outputs = []

    def validation_step(self, batch, batch_idx):
        scores = self.model(batch[0])
        self.outputs.append(self.flatten(scores).mean())
        self.meter.update(float(scores.mean()))
        self.average = self.average + 1
        torch.rand(1, generator=self.noise)
        random.random(), np.random.rand(), torch.rand(1)
        self.seen_steps.append((self.meter.count, len(self.outputs), float(self.average), float(self.meter.sums)))
        self.log("val_mean", torch.stack(self.outputs).mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(folder, flatten, **options):
    torch.manual_seed(3)
    task = Task(flatten)
    trainer = Trainer(default_root_dir=folder, **QUIET, max_epochs=1, num_sanity_val_steps=0)
    given = loaders(shape=IMAGE)
    strategy = search(Space(), Lightning(task, trainer, **given), num_mc_samples=1, arc_learning_rate=0.1, **options)
    return strategy, task


FLATTENED = {
    "view": lambda scores: scores.view(-1),
    "as_strided": lambda scores: scores.as_strided((8, CLASSES), (CLASSES * 36, 36)),  # right in one layout alone
    "reshape": lambda scores: scores.reshape(-1),
}


@pytest.mark.parametrize("how", FLATTENED)
def test_validation_is_tried_too_and_without_a_trace(how, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        strategy, task = run(tmp_path, FLATTENED[how])
    assert caplog.text.count("channels_last is off") == (how != "reshape")
    assert task.seen_steps == [(1, 1, 1.0, 1.0), (2, 2, 2.0, 2.0)]  # two batches; the trial is not among them
    expected, plain_task = run(tmp_path, FLATTENED[how], channels_last=False)
    assert torch.equal(task.noise.get_state(), plain_task.noise.get_state())
    if how != "reshape":  # in another layout, dropout leaves out other values
        assert task.meter.values == plain_task.meter.values
        for label, mean in expected.posterior.mean.items():
            assert torch.equal(strategy.posterior.mean[label], mean)


def test_a_step_that_fails_in_both_layouts_says_nothing_of_them(caplog):
    network = nn.Conv2d(3, 4, 3)

    def fails():
        raise KeyError("needs what the search prepares")

    assert not use_channels_last(network, fails)
    assert network.weight.is_contiguous()
    assert use_channels_last(network, fails, lambda: network(torch.ones(1, 3, 4, 4)))
    assert network.weight.is_contiguous(memory_format=torch.channels_last)
    assert "channels_last" not in caplog.text
