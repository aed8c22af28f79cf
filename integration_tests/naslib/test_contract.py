"""What NASLib asks of an optimizer, and what ours promise in it: the same tests for the real one and its double."""

from __future__ import annotations

import html
import json

import pytest
import torch
from naslib.optimizers import DARTSOptimizer

from balenas_plugin.distributions import get_distribution
from balenas_plugin.errors import NonFiniteLossError
from balenas_plugin.naslib import BaLeNASOptimizer
from balenas_plugin.presets import get_preset

from .searches import BOTH_SPACES, ONE_EACH, SPACES, Answers, adapted, batch, config, copies, same, set_means, step

LEARNING = [name for name in ONE_EACH if get_distribution(get_preset(name).distribution).learns]


def test_is_a_darts_optimizer():
    assert issubclass(BaLeNASOptimizer, DARTSOptimizer)
    optimizer = adapted()
    assert optimizer.using_step_function
    assert isinstance(optimizer.op_optimizer, optimizer.get_op_optimizer())
    assert optimizer.get_checkpointables()["model"] is optimizer.graph
    assert len(optimizer.architectural_weights) == 6
    assert 0 < optimizer.get_model_size() < 3
    assert isinstance(optimizer.get_model_size(), float)


def test_both_calling_styles():
    from_config = BaLeNASOptimizer(config(num_mc_samples=2, arch_learning_rate=0.01))
    from_config.adapt_search_space(SPACES["nb201"](), dataset_api=None)
    from_keywords = BaLeNASOptimizer(**config(num_mc_samples=2, arch_learning_rate=0.01).search)
    from_keywords.adapt_search_space(SPACES["nb201"](), "cifar10")
    for optimizer in (from_config, from_keywords):
        assert optimizer.dataset == "cifar10"
        assert optimizer.grad_clip == 5
        assert optimizer.arch_optimizer.num_mc_samples == 2
        assert optimizer.arch_optimizer.param_groups[0]["lr"] == 0.01


@pytest.mark.parametrize(("preset", "space"), BOTH_SPACES)
def test_step_returns_what_the_trainer_reads(preset, space):
    optimizer = adapted(space, preset=preset)
    optimizer.new_epoch(0)
    means, weights = copies(optimizer.alphas), copies(optimizer.graph.parameters())
    logits_train, logits_val, train_loss, val_loss = step(optimizer)
    assert logits_train.shape == logits_val.shape == (2, 10)
    assert f"{train_loss:.5f} {val_loss:.5f}"
    assert torch.isfinite(train_loss.detach())
    assert torch.isfinite(val_loss.detach())
    assert not same(weights, optimizer.graph.parameters())
    optimizer.new_epoch(1)  # behind any warm-up
    for _ in range(optimizer.update_order.architecture_every):
        step(optimizer)
    assert same(means, optimizer.alphas) != optimizer.distribution.learns
    assert all(p.requires_grad for p in optimizer.graph.parameters())


def test_alphas_are_not_weights():
    optimizer = adapted()
    alphas = {id(a) for a in optimizer.alphas}
    assert not alphas & {id(p) for p in optimizer.graph.parameters()}
    assert alphas == {id(a) for a in optimizer.architectural_weights}


@pytest.mark.parametrize(("preset", "space"), [*((preset, "nb201") for preset in LEARNING), ("DrNAS", "nb301")])
def test_final_architecture_has_the_largest_scores(preset, space):
    optimizer = adapted(space, preset=preset)
    optimizer.new_epoch(0)
    step(optimizer)  # leaves the auxiliary head's output in the graph
    set_means(optimizer, seed=3)
    found = optimizer.get_final_architecture()
    assert optimizer.get_final_architecture().get_hash() == found.get_hash()  # the parameters are untouched
    assert found(batch(5)[0]).shape == (2, 10)
    if space == "nb201":
        posterior = optimizer.posterior
        largest = {k: posterior.choices[k][int(scores.argmax())] for k, scores in posterior.scores.items()}
        assert optimizer.architecture(largest).get_hash() == found.get_hash()
        assert posterior.most_probable(1) == [largest]


@pytest.mark.parametrize("seed", range(3))
def test_our_decisions_in_the_darts_space_are_naslibs(seed):
    from balenas_plugin.bayes.architectures import Architectures

    optimizer = adapted("nb301")
    set_means(optimizer, seed)
    posterior = optimizer.posterior
    architecture = Architectures(posterior.decisions, posterior).discretise(posterior.scores)
    assert "none" not in architecture.values()
    theirs = optimizer.get_final_architecture().get_hash()
    set_means(optimizer, seed + 100)
    assert optimizer.architecture(architecture).get_hash() == theirs
    assert optimizer.get_final_architecture().get_hash() != theirs


@pytest.mark.parametrize(("preset", "space"), [("BaLeNAS", "nb201"), ("GDAS", "nb201"), ("DrNAS", "nb301")])
def test_selection_takes_the_exporters_best(preset, space):
    optimizer = adapted(space, preset=preset, selection={"n": 3, "proxy": "synflow"})
    optimizer.new_epoch(0)
    step(optimizer)
    set_means(optimizer, seed=0)
    ranked = optimizer.rank()
    values = [found.scores["synflow"] for found in ranked]
    assert values == sorted(values, reverse=True)
    assert all(0 < found.probability <= 1 for found in ranked)
    assert optimizer.get_final_architecture().get_hash() == optimizer.architecture(ranked[0].choices).get_hash()


def test_auxiliary_head_can_be_read():
    optimizer = adapted("nb301")
    found = optimizer.get_final_architecture()
    logits = found(batch(5)[0])
    auxiliary = [value for key, value in found.graph.items() if key.startswith("out_from_")]
    assert [value.shape for value in auxiliary] == [logits.shape]


def test_posterior_in_the_common_notation():
    posterior = adapted().posterior
    assert posterior.labels == ("cell/0_1", "cell/0_2", "cell/0_3", "cell/1_2", "cell/1_3", "cell/2_3")
    assert set(posterior.choices["cell/0_1"]) == {"none", "skip_connect", "conv_1x1", "conv_3x3", "avg_pool_3x3"}
    assert posterior.std["cell/0_1"].tolist() == [1.0] * 5


def test_a_search_of_the_darts_space_is_reported_in_its_notation(tmp_path):
    """Labels and operations are this package's, so that what was found is read, drawn and shown as its own."""
    from balenas_plugin.cli import main
    from balenas_plugin.search_spaces import get_space

    optimizer = adapted("nb301")
    set_means(optimizer, seed=2)
    assert {"normal/2_0", "normal/3_2", "reduce/3_0"} <= set(optimizer.posterior.labels)
    folder = optimizer.write_run(tmp_path / "found", top_k=3)
    records = json.loads((folder / "architectures.json").read_text())
    genotype = records[0]["notation"]["darts-reference"]
    named = get_space("darts-reference").read(genotype).sample
    assert optimizer.architecture(named).get_hash() == optimizer.get_final_architecture().get_hash()
    assert len({record["notation"]["darts-reference"] for record in records}) == 3
    assert main(["report", str(folder), "--png", str(tmp_path / "png")]) == 0
    assert genotype in html.unescape((folder / "report.html").read_text())
    assert {"01_found_cell_normal.png", "01_found_cell_reduce.png"} <= {p.name for p in (tmp_path / "png").iterdir()}


def test_benchmark_is_queried_after_every_epoch(caplog):
    optimizer = adapted()
    assert optimizer.test_statistics() is None
    optimizer = BaLeNASOptimizer()
    optimizer.adapt_search_space(SPACES["nb201"](), "cifar10", dataset_api=Answers())
    before = torch.get_rng_state()
    assert optimizer.test_statistics() == 90.0
    assert torch.equal(before, torch.get_rng_state())
    optimizer._dataset_api = {}
    assert optimizer.test_statistics() is None
    assert "KeyError" in caplog.text  # NASLib would hide it


def test_a_loss_that_breaks_is_named():
    optimizer = adapted()
    images, classes = batch(1, side=8)
    mean = copies(optimizer.alphas)
    blamed = r"validation loss became nan in epoch .\. The data are to blame, .*: batch\['val'\]\[0\] of shape"
    with pytest.raises(NonFiniteLossError, match=blamed):
        optimizer.step((images, classes), (images * float("nan"), classes))
    assert same(mean, optimizer.alphas)
    assert all(p.requires_grad for p in optimizer.graph.parameters())
