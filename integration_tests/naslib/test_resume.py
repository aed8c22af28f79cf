"""A search that was killed continues as if it had not been, from NASLib's own checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from balenas_plugin.errors import FileFormatError, OptionError

from ..cli.commands import Ended, balenas  # noqa: TID252  (tests are in no package to name)
from .searches import adapted, step
from .which import VARIABLE, root

SCRIPT = Path(__file__).with_name("script.py")
CONFIG: dict[str, Any] = {
    "seed": 1,
    "optimizer": "balenas",
    "search_space": "nasbench201",
    "dataset": "cifar10",
    "out_dir": "run",
    "search": {
        "epochs": 3,
        "batch_size": 2,
        "checkpoint_freq": 1,
        "learning_rate": 0.025,
        "learning_rate_min": 0.001,
        "num_mc_samples": 2,
        "epochs_of_nobody": 3,
    },
    "evaluation": {"epochs": 1},
}


def run(folder: Path, *arguments: str, **environment: str) -> Ended:
    """Run the script of this folder through the command line, in NASLib's way of giving options."""
    config = folder / "config.yml"
    config.write_text(yaml.safe_dump(CONFIG))
    environment[VARIABLE] = str(root())
    return balenas("naslib", SCRIPT, "--config-file", config, *arguments, folder=folder, **environment)


def checkpoint(folder: Path, name: str = "model_final.pth") -> dict[str, torch.Tensor]:
    path = folder / "run" / "nasbench201" / "cifar10" / "balenas" / "1" / "search" / name
    return torch.load(path, weights_only=True)["model"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    ended = run(folder)
    assert ended.code == 0, ended.errors
    assert "result: 90.0" in ended.output
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    assert run(folder, KILL="1").code == -9
    return folder


def test_resumed_search_is_the_uninterrupted_one(uninterrupted: Path, killed: Path) -> None:
    ended = run(killed, "--resume")
    assert ended.code == 0, ended.errors
    whole, resumed = checkpoint(uninterrupted), checkpoint(killed)
    assert list(whole) == list(resumed)
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []
    assert int(whole["balenas.cell/0_1.step"]) == 9
    assert not torch.equal(whole["balenas.cell/0_1.mu"], checkpoint(killed, "model_0000000.pth")["balenas.cell/0_1.mu"])


def test_checkpoint_holds_the_posterior(uninterrupted: Path) -> None:
    found = checkpoint(uninterrupted)
    labels = {key.split(".")[1] for key in found if key.startswith("balenas.cell")}
    assert labels == {"cell/0_1", "cell/0_2", "cell/0_3", "cell/1_2", "cell/1_3", "cell/2_3"}
    for name, shape in (("mu", (5,)), ("precision", (5,)), ("s", (5,)), ("m", (5,)), ("step", ())):
        assert found[f"balenas.cell/0_1.{name}"].shape == shape
    assert found["balenas.noise"].dtype == torch.uint8
    assert (found["balenas.cell/0_1.precision"] >= 1).all()


@pytest.mark.parametrize("space", ["nb201", "nb301"])
@pytest.mark.parametrize("update", ["vadam", "newton"])
def test_state_dict_restores_the_posterior(space: str, update: str) -> None:
    first, second = adapted(space, update=update), adapted(space, update=update, seed=9)
    step(first)
    buffers = dict(first.graph.named_buffers())
    state = {key: value.clone() for key, value in first.graph.state_dict().items()}
    assert {key for key in buffers if key.startswith("balenas.")} <= set(state)
    second.graph.load_state_dict(state)
    assert second.posterior.mean.keys() == first.posterior.mean.keys()
    for label in first.posterior.labels:
        assert torch.equal(second.posterior.mean[label], first.posterior.mean[label])
        assert torch.equal(second.posterior.precision[label], first.posterior.precision[label])
    for optimizer in (first, second):
        torch.manual_seed(3)
        step(optimizer, seed=2)
    theirs = second.graph.state_dict()
    assert [key for key, value in first.graph.state_dict().items() if not torch.equal(value, theirs[key])] == []


def test_a_finished_search_is_ranked_on_the_batch_that_it_saw() -> None:
    selection = {"n": 4, "proxy": "snip"}
    first, second = adapted(selection=selection), adapted(selection=selection, seed=9)
    step(first)
    second.graph.load_state_dict(first.graph.state_dict())
    assert [found.scores for found in first.rank()] == [found.scores for found in second.rank()]


def test_a_checkpoint_without_posterior_is_refused() -> None:
    optimizer = adapted()
    weights = {key: v for key, v in optimizer.graph.state_dict().items() if not key.startswith("balenas.")}
    with pytest.raises(FileFormatError, match="holds no posterior of BaLeNAS, so the architecture would be a random"):
        optimizer.graph.load_state_dict(weights, strict=False)
    with pytest.raises(FileFormatError, match=r"lacks cell/0_1\.previous_mu"):
        adapted(update="newton").graph.load_state_dict(optimizer.graph.state_dict(), strict=False)


@pytest.mark.parametrize("options", [{"dataset_size": 7.0}, {"prior_precision": 0.5}])
def test_a_posterior_learned_with_other_options_is_refused(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(OptionError, match=f"written with {name}"):
        adapted().graph.load_state_dict(adapted(**options).graph.state_dict())


def test_a_copy_of_the_graph_leaves_the_search_behind() -> None:
    optimizer = adapted()
    assert not any(key.startswith("balenas.") for key in optimizer.graph.clone().state_dict())
    assert not any(key.startswith("balenas") for key in optimizer.get_final_architecture().state_dict())
