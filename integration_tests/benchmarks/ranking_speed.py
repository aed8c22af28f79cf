"""What ranking with SynFlow costs beside a straightforward implementation: both in one process, in turn.

    python integration_tests/benchmarks/ranking_speed.py --samples 100 --workers 2

The straightforward one does what a user would write: build the network, take batch-norm out, absolute weights in double
precision, one forward and one backward pass, with all of torch's threads.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from balenas_plugin import Posterior
from balenas_plugin.bayes.architectures import Architectures
from balenas_plugin.search_spaces.nasbench201 import NasBench201Space
from balenas_plugin.selection import ProxySelection, rank
from balenas_plugin.selection.candidates import drawn_candidates


def straightforward(space, candidates, weights):
    scores = []
    for candidate, state in zip(candidates, weights, strict=True):
        network = space.build(candidate.sample)
        network.load_state_dict(state)  # the weights that ours sees, so that the scores can be compared
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.forward = lambda x: x
        network = network.double()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.abs_()
        network(torch.ones(1, *space.image_shape, dtype=torch.float64)).sum().backward()
        layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        terms = [(m.weight * m.weight.grad).abs().sum() for m in layers if m.weight.grad is not None]
        scores.append(torch.stack(terms).sum().log().item() if terms else float("-inf"))
    return scores


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    space = NasBench201Space()  # C 16, N 5
    labels = [label for decision in space.decisions for label in decision.labels]
    posterior = Posterior({k: torch.zeros(5) for k in labels}, {k: torch.ones(5) for k in labels})
    ours, theirs = [], []
    for seed in range(options.rounds):
        started = time.perf_counter()
        ranked = rank(posterior, space, ProxySelection(n=options.samples, seed=seed, workers=options.workers))
        ours.append(time.perf_counter() - started)
        candidates = drawn_candidates(Architectures(space.decisions, posterior), options.samples, seed=seed)
        networks = space.networks(seed)
        weights = [networks.build(candidate.sample).state_dict() for candidate in candidates]
        started = time.perf_counter()
        reference = straightforward(space, candidates, weights)
        theirs.append(time.perf_counter() - started)
        difference = max(
            abs(a - b)
            for a, b in zip(sorted(r.scores["synflow"] for r in ranked), sorted(reference), strict=True)
            if a != b
        )
        print(f"round {seed}: ours {ours[-1]:.2f} s, straightforward {theirs[-1]:.2f} s, difference {difference:.1e}")
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f"{options.samples} samples, {options.workers} worker(s): {a:.2f} s against {b:.2f} s, ratio {a / b:.2f}")


if __name__ == "__main__":
    main()
