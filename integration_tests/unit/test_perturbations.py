"""The contract of every perturbation of the weight step; a new one is one line of `MEMBERS`."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from balenas_plugin.distributions import get_distribution
from balenas_plugin.errors import OptionError
from balenas_plugin.perturbations import get_perturbation, list_perturbations, onto_simplex
from balenas_plugin.perturbations.operation_dropout import OperationDropout
from balenas_plugin.search import Order, Search

MEMBERS = {"operation-dropout": {"rate": 0.1}, "sdarts-adv": {}, "sdarts-rs": {}}
"""name -> options; every perturbation of the package has an entry."""

every_member = pytest.mark.parametrize("name", list(MEMBERS))
every_member_nearby = pytest.mark.parametrize("name", [name for name in MEMBERS if name.startswith("sdarts")])

COSTS = {
    "a": torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64),
    "b": torch.tensor([1.0, 0.2, -0.4, 0.1], dtype=torch.float64),
}


class Stopped(Exception):  # noqa: N818  # it stands for any
    """A step raised."""


class Host:
    """A network with batch-norm whose loss depends on the weights of two labels; `trained_at` are those it had."""

    def __init__(self, *, fails: bool = False) -> None:
        self.network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).double()
        self.network_weights = list(self.network.parameters())
        self.fails, self.used, self.trained_at = fails, {}, []
        self.begin = lambda: None

    @contextmanager
    def mixing(self, draw):
        before, self.used = self.used, draw.weights
        try:
            yield
        finally:
            self.used = before

    @contextmanager
    def evaluating(self):
        self.network.eval()
        try:
            yield
        finally:
            self.network.train()

    def training_loss(self, k):
        if self.fails:
            raise Stopped
        assert k is None
        scale = sum((weights * COSTS[label].to(weights)).sum() for label, weights in self.used.items())
        return self.network(torch.ones(3, 4, dtype=torch.float64)).sum() * 0 + scale

    def validation_loss(self, k):
        return self.training_loss(None)

    def step_weights(self, clipped_with):
        self.trained_at.append({label: w.detach().clone() for label, w in self.used.items()})
        return torch.zeros(())

    def average(self, gradients, like):
        return list(gradients)


def make(name, *, distribution="point", dtype=torch.float64, seed=0, order=None):
    generator = torch.Generator().manual_seed(7)
    values = {label: torch.randn(len(cost), generator=generator, dtype=torch.float64) for label, cost in COSTS.items()}
    learned = get_distribution(distribution)({label: v.to(dtype) for label, v in values.items()}, seed=3)
    search = Search(learned, order or Order(), get_perturbation(name)(seed=seed, **MEMBERS[name]))
    search.new_epoch(3, 5)
    return search


def trained_at(search, host=None):
    host = host or Host()
    search.weight_step(host)
    return host.trained_at[-1]


def same(one, other):
    return all(torch.equal(one[label], other[label]) for label in COSTS)


def test_every_perturbation_is_in_the_battery():
    assert list_perturbations() == sorted(MEMBERS)
    with pytest.raises(OptionError, match=r"unknown perturbation 'sdart-rs'.*did you mean 'sdarts-rs'"):
        get_perturbation("sdart-rs")


@every_member_nearby
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_weights_stay_on_the_simplex_and_near_the_clean_ones(name, dtype):
    """Some multiple of them is in the box around the clean ones, cut to [0, 1]: the sum of a row is divided by last."""
    search = make(name, dtype=dtype)
    search.distribution.keep("b", [0, 1, 3])
    clean, found = search.distribution.mean().weights, trained_at(search)
    radius = search.perturbation.epsilon + 1e-6
    assert not same(clean, found)
    assert found["b"][2] == 0
    for label, weights in found.items():
        assert weights.dtype == dtype
        assert (weights >= 0).all()
        assert float(weights.sum()) == pytest.approx(1, abs=1e-6)
        kept = search.distribution.mask[label] & (weights > 0)
        least = ((clean[label] - radius).clamp(min=0) / weights)[kept].max()
        most = ((clean[label] + radius).clamp(max=1) / weights)[kept].min()
        assert least <= most


@every_member
def test_the_search_itself_is_left_alone(name):
    """What is learned, its mean, the network's statistics and its mode."""
    search, host = make(name), Host()
    mean, buffers = search.distribution.mean().weights, [b.clone() for b in host.network.buffers()]
    search.weight_step(host)
    assert same(search.distribution.mean().weights, mean)
    assert all(torch.equal(b, before) for b, before in zip(host.network.buffers(), buffers, strict=True))
    assert host.network.training
    assert all(p.grad is None and p.requires_grad for p in host.network.parameters())


@every_member
def test_everything_is_put_back_where_a_step_raises(name):
    search, host = make(name), Host(fails=True)
    host.step_weights = host.training_loss
    with pytest.raises(Stopped):
        search.weight_step(host)
    assert host.network.training
    assert host.used == {}
    assert all(p.requires_grad for p in host.network.parameters())


@every_member
def test_the_same_seed_gives_the_same_and_a_resumed_search_goes_on(name):
    first, second = make(name), make(name)
    for _ in range(2):
        assert same(trained_at(first), trained_at(second))
    assert not same(trained_at(make(name, seed=1)), trained_at(make(name)))
    resumed = make(name, seed=5)
    resumed.load_state_dict(first.state_dict())
    assert same(trained_at(resumed), trained_at(first))


@every_member_nearby
def test_a_draw_of_the_weight_step_is_what_is_perturbed(name):
    search = make(name, distribution="dirichlet", order=Order(weight_step="sample"))
    draw, found = make(name, distribution="dirichlet").distribution.sample().weights, trained_at(search)
    largest = max(float((found[label] - draw[label].detach()).abs().max()) for label in COSTS)
    assert 0 < largest < 3 * search.perturbation.epsilon


PARAMETERISED = {"b": [True, False, True, False]}


def dropping(*, distribution="point", order=None, **options):
    """Return a search with dropout in the groups of `PARAMETERISED`."""
    search = make("operation-dropout", distribution=distribution, order=order)
    search.perturbation = OperationDropout(rate=0.3, **options)
    search.perturbation.set_parameterised(PARAMETERISED)
    return search


def test_operations_are_dropped_in_their_groups_and_the_kept_ones_share_what_is_there():
    search = dropping()
    clean = search.distribution.mean().weights["b"].detach()
    counts = torch.zeros(4)
    for _ in range(400):
        found = trained_at(search)
        assert torch.equal(found["a"], search.distribution.mean().weights["a"])  # no operations
        kept = found["b"] > 0
        assert kept[[0, 2]].any()
        assert kept[[1, 3]].any()
        torch.testing.assert_close(found["b"], torch.where(kept, clean, 0) / clean[kept].sum())
        counts += ~kept
    dropped = (0.3**0.5 - 0.3) / (1 - 0.3)  # one alone, of a group that did not vanish
    assert ((counts / 400 - dropped).abs() < 4 * (dropped * (1 - dropped) / 400) ** 0.5).all()


@pytest.mark.parametrize("distribution", ["point", "gaussian", "dirichlet", "gumbel", "exponentiated-gradient"])
@pytest.mark.parametrize("levels", [1, 2])
def test_what_was_dropped_keeps_its_probability(distribution, levels):
    search, host = dropping(distribution=distribution, order=Order(levels=levels, weight_step="sample")), Host()
    search.distribution.set_dataset_size(50)

    def step_weights(clipped_with):
        host.training_loss(None).backward()
        return torch.zeros(())

    host.step_weights, seen = step_weights, 0
    for index in range(6):
        before, learned = search.distribution.mean().weights["b"].detach(), search.distribution.parameters["b"].clone()
        kept = {}
        search.perturbation.draw = lambda learned, kept=kept: kept or kept.update({"b": [0, 1, 3]}) or kept
        search.iteration(host, epoch=0, index=index)
        after = search.distribution.mean().weights["b"].detach()
        torch.testing.assert_close(after[2], before[2])
        if distribution == "gaussian":
            assert search.distribution.parameters["b"][2] == learned[2]
        seen += int(not torch.equal(after, before))
    assert seen == 6


def test_a_second_step_decays_what_the_first_one_reached():
    search, host = dropping(order=Order(levels=1), partial_decay=True), Host()
    weights = [torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    host.weight_optimizer = torch.optim.SGD(weights, lr=0.1, weight_decay=0.5)
    host.clip_gradients = list

    def step_weights(clipped_with):
        (host.training_loss(None) + (weights[0] * torch.tensor([0.0, 2.0])).sum() + (0 * weights[1]).sum()).backward()
        host.weight_optimizer.step()
        return torch.zeros(())

    host.step_weights = step_weights
    search.distribution.optimizer = torch.optim.SGD(search.distribution.parameters.values(), lr=0.1, weight_decay=0.5)
    search.distribution.keep("a", [0, 1])
    before, optimizers = search.distribution.parameters["a"].clone(), (host.weight_optimizer,)
    search.iteration(host, epoch=0, index=0)
    assert weights[0].tolist() == pytest.approx([0.9, 0.72])  # both entries: 1 - 2 0.5 0.1 and less
    assert weights[1].tolist() == weights[2].tolist() == [1, 1]
    moved = search.distribution.parameters["a"] / before
    assert moved[2] == 1
    assert (moved[:2] != 1).all()
    assert all(o.param_groups[0]["weight_decay"] == 0.5 for o in (*optimizers, search.distribution.optimizer))


def test_an_attack_raises_the_loss():
    search = make("sdarts-adv")
    clean, found = search.distribution.mean().weights, trained_at(search)
    assert sum(float(((found[label] - clean[label].detach()) * COSTS[label]).sum()) for label in COSTS) > 0.01


def test_an_attack_that_lowers_the_loss_is_dropped():
    host, search, losses = Host(), make("sdarts-adv"), iter([1.0, *[2.0] * 7, 0.5])
    host.training_loss = lambda _: next(losses) + 0 * sum(weights.sum() for weights in host.used.values())
    assert same(trained_at(search, host), search.distribution.mean().weights)
    assert next(losses, None) is None


def test_a_row_without_a_positive_weight_becomes_one_hot_among_what_is_kept():
    weights = torch.tensor([[-0.2, -0.1, 0.0], [0.3, 0.9, 0.0]])
    kept = torch.tensor([[True, True, False], [True, True, True]])
    assert torch.allclose(onto_simplex(weights, kept), torch.tensor([[0, 1, 0], [0.25, 0.75, 0]]))


def test_a_search_without_a_last_epoch_keeps_the_first_radius():
    search = make("sdarts-rs")
    search.new_epoch(4, -1)
    assert search.perturbation.epsilon == 0.03
