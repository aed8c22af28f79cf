"""Every distribution with small parameters, and two of users' own; a new one is a line of `MEMBERS`."""

from __future__ import annotations

import pytest
import torch

from balenas_plugin.distributions import Distribution, Draw, get_distribution

MEMBERS = {
    "binary-gates": {},
    "categorical": {},
    "controller": {},
    "dirichlet": {},
    "exponentiated-gradient": {},
    "gaussian": {"dataset_size": 50, "initial_precision": 4.0, "lr": 0.05},
    "gumbel": {"temperature": 0.7},
    "hard-gumbel": {"temperature": 0.7},
    "importance-weighted": {},
    "point": {},
    "uniform": {},
}
"""name -> options; every distribution of the package has an entry."""

SAMPLED = [name for name in MEMBERS if get_distribution(name).is_random]
"""Those whose choices are drawn, so that probabilities can be counted."""


class Noisy(Distribution):
    """As users write one: it says how to draw, and nothing else."""

    name = "noisy"
    source = "an example"

    def draw(self, parameters):
        logits = {label: a + self.noise(a) for label, a in parameters.items()}
        return Draw(parameters, {label: self.masked(label, a.softmax(-1)) for label, a in logits.items()})


class NoisyVectors(Noisy):
    """The same, of a user who thinks of vectors only."""

    name = "noisy-vectors"

    def draw(self, parameters):
        logits = {label: a + self.noise(a) for label, a in parameters.items()}
        return Draw(parameters, {label: self.masked(label, a.softmax(0)) for label, a in logits.items()})


USERS = {"noisy": Noisy, "noisy-vectors": NoisyVectors}

every_member_and_users = pytest.mark.parametrize("name", [*MEMBERS, *USERS])
every_member = pytest.mark.parametrize("name", list(MEMBERS))


def make(name: str, *, dtype=torch.float64, labels=("a", "b"), seed=0, **options) -> Distribution:
    generator = torch.Generator().manual_seed(7)
    sizes = {"a": 3, "b": 4}
    values = {label: torch.randn(sizes[label], generator=generator, dtype=torch.float64) for label in sizes}
    parameters = {label: values[label].to(dtype).clone() for label in labels}
    kind = USERS[name] if name in USERS else get_distribution(name)
    made = kind(parameters, seed=seed, **({**MEMBERS.get(name, {}), **options} if kind.learns else {}))
    if kind.needs_accuracy:
        made.start()  # its parameters are what its policy says
    return made


def linear(costs):
    """Return an `Evaluate`: the loss is the sum of weights times costs."""

    def evaluate(draw: Draw):
        loss = sum((draw.weights[label] * cost).sum() for label, cost in costs.items())
        return loss.detach(), costs

    return evaluate


COSTS = {
    "a": torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64),
    "b": torch.tensor([1.0, 0.2, -0.4, 0.1], dtype=torch.float64),
}
