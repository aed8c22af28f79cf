"""BaLeNAS-TF through NNI: `selection` ranks draws from the posterior in every space that the strategy searches."""

from __future__ import annotations

import pytest
import torch

from balenas_plugin import BaLeNAS
from balenas_plugin.errors import OptionError, SpaceError
from balenas_plugin.export import ProxySelection

from .searches import classification, loaders, search, set_posterior
from .spaces import CASES, Layers

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
        sample = str(sorted(found.choices.items()))
        if sample in known:  # cells may list a node's operations in another order
            assert found.log_probability == pytest.approx(known[sample])


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
        (3, "must be one of synflow, .* a ProxySelection"),
    ],
)
def test_bad_selections(selection, message):
    with pytest.raises(OptionError, match=message):
        BaLeNAS(selection=selection)


def test_proxies_look_at_the_validation_data(tmp_path):
    strategy = search(Layers(), classification(tmp_path), selection={"n": 4, "proxy": "snip"})
    inputs, targets = strategy.oneshot_module.example()
    assert len(inputs) == len(targets) == 8
    assert (inputs[:, 0] == -1).all()  # the mark of the validation data
