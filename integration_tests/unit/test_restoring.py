"""What a measurement changes is restored: random generators, buffers, modes, attributes of all kinds."""

from __future__ import annotations

import random
from collections import deque

import numpy as np
import torch
from torch import nn

from balenas_plugin.restoring import attributes_restored, random_states, untouched


def test_a_network_and_the_random_generators_are_untouched_after_a_failure():
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    network[0].weight.requires_grad_(False)
    network[1].eval()
    mean, states = network[1].running_mean.clone(), random_states()
    draws = []
    for _ in range(2):
        try:
            with untouched(network, seed=7):
                draws.append(torch.rand(4, 3))
                network.train()(draws[-1])
                network.requires_grad_(True)
                random.gauss(0, 1)
                np.random.randn()
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
    assert torch.equal(*draws)
    assert torch.equal(network[1].running_mean, mean)
    assert [part.training for part in network] == [True, False]
    assert [p.requires_grad for p in network.parameters()] == [False, True, True, True]
    assert all(torch.equal(value, states[name]) for name, value in random_states().items())


def test_attributes_are_restored_in_place():
    module = nn.Module()
    module.queue, module.table, module.generator = deque([1], maxlen=3), {"a": [1]}, np.random.default_rng(0)
    module.counts, module.hidden = np.zeros(3), torch.zeros(2)
    module.register_buffer("mean", torch.ones(2))
    queue, inner, hidden, mean = module.queue, module.table["a"], module.hidden, module.mean
    expected = np.random.default_rng(0).random()
    with attributes_restored(module):
        module.queue.extend([2, 3, 4])
        inner.append(2)
        module.table["b"] = module.later = 3
        module.counts += 1
        module.hidden += 1
        module.generator.random()
        module.mean = module.mean * 2
    assert module.queue is queue
    assert list(queue) == [1]
    assert module.table == {"a": [1]}
    assert module.table["a"] is inner
    assert not hasattr(module, "later")
    assert not module.counts.any()
    assert module.hidden is hidden
    assert not hidden.any()
    assert module.mean is mean
    assert module.generator.random() == expected
