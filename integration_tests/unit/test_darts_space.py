"""Genotypes in every notation, the rule by which nodes choose, drop path, and NAS-Bench-301 where it is not."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter, namedtuple
from types import SimpleNamespace

import pytest
import torch

from balenas_plugin.bayes.architectures import Architectures
from balenas_plugin.bayes.laws.log_gamma import LogGammaLaw
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.errors import DataError, MissingDependencyError, OptionError, SpaceError
from balenas_plugin.ground_truth import accuracies_of, headline, require_benchmark
from balenas_plugin.search_spaces import get_space
from balenas_plugin.search_spaces.darts import (
    DARTS,
    S1,
    S3,
    S4,
    Genotype,
    build_network,
    from_nni,
    read_genotype,
    to_compact,
    to_config,
    to_nni,
)

NORMAL = [("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 0), ("sep_conv_3x3", 1)] * 2
REDUCE = [("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 0)] * 2
DARTS_LIKE = Genotype(tuple(NORMAL), (2, 3, 4, 5), tuple(REDUCE), (2, 3, 4, 5))
LOOSE = DARTS_LIKE._replace(reduce_concat=(4, 5))


def test_every_notation_is_read_as_what_was_written():
    published = namedtuple("DARTSGenotype", Genotype._fields)(NORMAL, range(2, 6), REDUCE, range(2, 6))
    texts = {
        "genotype": (str(DARTS_LIKE), f"DARTS_V9 = {published}", json.dumps(DARTS_LIKE._asdict())),
        "compact": (str(to_compact(DARTS_LIKE)),),
        "nni": (json.dumps(to_nni(DARTS_LIKE)).replace("}", ",}"), str({"choices": to_nni(DARTS_LIKE)})),
    }
    for notation, given in texts.items():
        for text in given:
            reading = read_genotype(text)
            assert (reading.notation, from_nni(reading.sample)) == (notation, DARTS_LIKE)
    assert from_nni(read_genotype(str(LOOSE)).sample) == LOOSE
    config = read_genotype(json.dumps(to_config(DARTS_LIKE)))  # which does not keep the order within a node
    assert to_config(from_nni(config.sample)) == to_config(DARTS_LIKE)
    assert config.notation == "config"
    for unsaid in (
        LOOSE,
        from_nni(DARTS.read("NASNet").sample),
        DARTS_LIKE._replace(normal=((("skip_connect", 0),) * 8)),
    ):
        with pytest.raises(SpaceError, match="a configuration of NAS-Bench-301 can"):
            to_config(unsaid)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"edge_normal_4": "skip_connect"},
            "normal cell, node 3: it needs two edges, and has those of the states 0_1_2",
        ),
        ({"edge_normal_2": None}, "normal cell, node 3: it needs two edges, and has those of the states 1,"),
        ({"inputs_node_normal_3": "0_2"}, "states 0_1, although inputs_node_normal_3 is '0_2'"),
        ({"edge_normal_99": "skip_connect"}, "edge_normal_99' is no part of an architecture of NAS-Bench-301"),
    ],
)
def test_configurations_that_are_none_are_refused(change, message):
    changed = {f"NetworkSelectorDatasetInfo:darts:{key}": value for key, value in change.items()}
    with pytest.raises(SpaceError, match=message):
        read_genotype(json.dumps(to_config(DARTS_LIKE) | changed))


def test_the_smaller_spaces_take_their_own_genotypes():
    for name in (name for name in DARTS.published if name.endswith("_c10")):
        space = get_space(f"darts-{name.split('_')[-2].lower()}")
        assert space.read(name).sample == DARTS.read(name).sample
    with pytest.raises(
        SpaceError, match="node 5: RobustDARTS S1 has no skip_connect on state 3; allowed: dil_conv_3x3"
    ):
        S1.read(
            str(DARTS_LIKE)
            .replace("sep_conv_3x3", "skip_connect")
            .replace("'skip_connect', 1)], n", "'skip_connect', 3)], n")
        )


def test_published_genotypes_have_names():
    named = {name: from_nni(DARTS.read(name).sample) for name in DARTS.published}
    assert (len(named), len(set(named.values()))) == (24, 24)
    assert str(named["PC_DARTS_image"]).startswith("Genotype(normal=[('skip_connect', 1), ('sep_conv_3x3', 0),")
    assert (named["NASNet"].normal_concat, named["NASNet"].reduce_concat) == ((2, 3, 4, 5, 6), (4, 5, 6))
    reading = DARTS.read("pc-darts")
    assert (reading.name, reading.notation) == ("PC_DARTS_cifar", "name")
    with torch.device("meta"):
        networks = {name: build_network(named[name]) for name in ("DARTS_V2", "DrNAS_imagenet", "SDARTS_RS")}
    millions = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    assert millions == {"DARTS_V2": 3_349_342, "DrNAS_imagenet": 4_048_750, "SDARTS_RS": 3_606_166}
    with pytest.raises(OptionError, match="channels must be even"):
        build_network(named["DARTS_V2"], channels=7, cells=3, stem="imagenet")
    with pytest.raises(SpaceError, match="no published genotype is called 'DARTS_V3'; did you mean 'DARTS_V2'"):
        DARTS.read("DARTS_V3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').getcwd()", "no architecture of the DARTS space"),
        (str(DARTS_LIKE).replace("'max_pool_3x3', 0", "__import__('os'), 0"), "no architecture of the DARTS space"),
        (str(DARTS_LIKE).replace("sep_conv_3x3", "sep_conv_4x4", 1), "did you mean 'sep_conv_"),
        (str(DARTS_LIKE).replace("('skip_connect', 2)", "('skip_connect', 3)"), "node 3: its inputs are states 0 to 2"),
        (str(DARTS_LIKE).replace("[2, 3, 4, 5]", "range(2, 10**9)"), "no architecture"),
        (str(DARTS_LIKE).replace("[2, 3, 4, 5]", "range(2, 9)"), "can join the states 2, 3, 4, 5"),
        (str(DARTS_LIKE).replace("[2, 3, 4, 5]", "range(-30000000, 4)"), r"can join the states 2, .*not \[-30000000"),
        (str(DARTS_LIKE).replace("[2, 3, 4, 5]", "[[2], [3]]"), r"can join the states 2, .*not \[\[2\]"),
        (str(DARTS_LIKE).replace("[2, 3, 4, 5]", "[3.0]"), r"can join the states 2, .*not \[3\.0\]"),
        (str(DARTS_LIKE)[:-1] + ", foo=3)", "and no 'foo'"),
        (
            json.dumps(to_nni(DARTS_LIKE) | {"normal/input_3_0": [0, 1]}),
            r"node 3: its inputs are states 0 to 2, not \[0, 1",
        ),
        ("Genotype(normal=[], reduce=[])", "the normal cell needs two pairs"),
        ("[" * 9000, "no architecture"),
        ('{"normal/op_2_0": "skip_connect", "depth": 3}', "needs two pairs|depth"),
    ],
)
def test_other_text_is_refused_and_never_run(text, message):
    with pytest.raises(SpaceError, match=message):
        read_genotype(text)


def test_the_spaces_have_their_sizes():
    assert DARTS.size == (180 * 7**8) ** 2
    assert S1.size == S3.size == S4.size == (180 * 2**8) ** 2
    assert S1.choices["reduce/5_0"] == ("max_pool_3x3", "avg_pool_3x3")
    assert S4.kinds == {"noise": "parameter-free", "sep_conv_3x3": "parametric"}


def laws(space, dirichlet):
    torch.manual_seed(1)
    drawn = {label: torch.randn(len(values), dtype=torch.float64) for label, values in space.choices.items()}
    if dirichlet:
        return Posterior.of({k: LogGammaLaw(2 * v.exp()) for k, v in drawn.items()}, kind="dirichlet")
    return Posterior(drawn, {label: torch.full_like(values, 4.0) for label, values in drawn.items()})


@pytest.mark.parametrize("dirichlet", [False, True])
def test_outcomes_are_as_frequent_as_among_draws(dirichlet):
    """Of the rule itself: by quadrature where all edges are kept, elsewhere from the counted strengths of each."""
    posterior, draws = laws(DARTS, dirichlet), 400
    for decision in DARTS.decisions[:3]:
        own = {label: posterior.laws[label] for label in decision.labels}
        drawn = {k: law.at_noise(torch.randn(draws, len(law), dtype=torch.float64)) for k, law in own.items()}
        counts = Counter(decision.choose({k: rows[i] for k, rows in drawn.items()}) for i in range(draws))
        outcomes = decision.outcomes(posterior)
        for outcome, count in counts.most_common(5):
            p = math.exp(outcomes.log_probability(outcome))
            assert abs(count - p * draws) < 5 * math.sqrt(p * draws) + 2
        assert sum(math.exp(value) for _, value in outcomes.best_first()) == pytest.approx(1, abs=1e-4)
        assert all("none" not in decision.to_architecture(outcome, posterior).values() for outcome in counts)


def test_edges_are_compared_by_weight_and_the_most_probable_leads():
    """A large logit among large ones is no strong edge: raw logits would take it."""
    posterior = laws(DARTS, dirichlet=False)
    posterior.scores["normal/3_0"][:] = 50.0
    sharp = Posterior(posterior.scores, {k: torch.full_like(v, 1e12) for k, v in posterior.scores.items()})
    architectures = Architectures(DARTS.decisions, sharp)
    found = architectures.discretise(sharp.scores)
    assert [0] not in (found["normal/input_3_0"], found["normal/input_3_1"])
    first = next(architectures.iterate())
    assert (first.sample, first.log_probability) == (found, pytest.approx(0, abs=1e-3))
    weights = [sharp.scores[f"normal/5_{found[f'normal/input_5_{k}'][0]}"].softmax(-1)[1:].max() for k in (0, 1)]
    assert weights[0] >= weights[1]  # the stronger edge comes first


def test_paths_are_dropped_for_whole_images_and_more_often_later():
    network = build_network(LOOSE, channels=2, cells=3, drop_path=0.5).train()
    cell = network.cells[0]
    x, identity = torch.ones(64, 2, 2, 2), torch.nn.Identity()
    assert torch.equal(cell._dropped(torch.nn.ReLU(), x), x)  # before the first epoch has begun
    network.new_epoch(5, 10)
    dropped = cell._dropped(torch.nn.ReLU(), x)
    assert cell.drop_path == 0.25
    assert torch.equal(dropped.amin((1, 2, 3)), dropped.amax((1, 2, 3)))
    torch.testing.assert_close(dropped.unique(), torch.tensor([0, 4 / 3]))
    assert torch.equal(cell._dropped(identity, x), x)
    assert torch.equal(network.eval().cells[0]._dropped(torch.nn.ReLU(), x), x)


@pytest.mark.parametrize("size", [9, 44, 127, 128, 160])
def test_an_auxiliary_head_takes_images_of_any_size(size):
    space = DARTS.sized(channels=2, cells=3, num_classes=2, image_size=size)
    logits = space.training_network(to_nni(LOOSE), auxiliary=True).train()(torch.zeros(2, 3, size, size))
    assert [part.shape for part in logits] == [(2, 2), (2, 2)]


def test_nas_bench_301_predicts_where_it_is_and_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.delenv("BALENAS_DATA", raising=False)
    with pytest.raises(DataError, match="needs its models: fetch nb_models"):
        require_benchmark(DARTS)
    with pytest.raises(DataError, match="holds no models of NAS-Bench-301"):
        require_benchmark(DARTS, tmp_path)
    (tmp_path / "nb_models_1.0" / "xgb_v1.0").mkdir(parents=True)
    monkeypatch.setenv("BALENAS_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "nasbench301", None)
    with pytest.raises(MissingDependencyError, match="nasbench301, which cannot be imported here"):
        require_benchmark(DARTS)
    asked = []

    def predict(config, representation, with_noise):
        asked.append((config.normal[0], representation, with_noise))
        return 94.5

    loaded = SimpleNamespace(load_ensemble=lambda folder: SimpleNamespace(predict=predict))
    monkeypatch.setitem(sys.modules, "nasbench301", loaded)
    benchmark = require_benchmark(DARTS)
    truth = benchmark.describe(str(DARTS_LIKE))
    assert truth.values == {"cifar10": {"predicted_valid_accuracy": 94.5}}
    assert headline(truth.to_dict()) == {"ground truth: cifar10 predicted validation": 94.5}
    (tmp_path / "nb_models_1.0" / "xgb_v1.0" / "surrogate_model.model").touch()
    assert accuracies_of([{"darts-reference": str(DARTS_LIKE)}])["accuracy"] == {"cifar10": [94.5]}
    assert (asked[:1], truth.rank) == ([(("sep_conv_3x3", 1), "genotype", False)], {})
    with pytest.raises(DataError, match="not Genotype"):
        benchmark.describe(str(LOOSE))
