"""A search that was killed continues as if it had not been, from NASLib's own checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from naslib.defaults.trainer import Trainer
from naslib.utils import get_last_checkpoint, set_seed
from torch.utils.data import DataLoader, TensorDataset

from balenas_plugin.adapters.naslib.packed_state import packed, unpacked
from balenas_plugin.errors import FileFormatError, OptionError

from ..cli.commands import Ended, balenas  # noqa: TID252  (tests are in no package to name)
from .searches import ONE_EACH, Config, adapted, config, step
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
    first = checkpoint(killed, "model_0000000.pth")
    assert not torch.equal(whole["balenas.parameters.cell/0_1"], first["balenas.parameters.cell/0_1"])


def test_checkpoint_holds_what_was_learned(uninterrupted: Path) -> None:
    found = {key.removeprefix("balenas."): v for key, v in checkpoint(uninterrupted).items() if "balenas." in key}
    labels = {key.removeprefix("parameters.") for key in found if key.startswith("parameters.")}
    assert labels == {"cell/0_1", "cell/0_2", "cell/0_3", "cell/1_2", "cell/1_3", "cell/2_3"}
    state = unpacked(found)
    assert state["learned"] == "gaussian"
    assert [values["step"] for values in state["distribution"]["optimizer"]["state"].values()] == [9] * 6
    assert state["schedule"]["epoch"] == 3


class StoppedError(Exception):
    """Ends a search in its second epoch."""


class RandomImages(Trainer):
    @staticmethod
    def build_search_dataloaders(config: Any) -> Any:
        images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        loader = DataLoader(TensorDataset(images, torch.arange(4)), batch_size=2, shuffle=True)
        return loader, loader, None


def searched(preset: str, folder: Path, *, stops: bool = False) -> dict[str, torch.Tensor]:
    """Search for two epochs, from the last checkpoint in the folder if there is one; return the state of the end."""
    set_seed(1)
    optimizer = adapted(preset=preset, epochs=2)
    options = config(epochs=2, seed=1, checkpoint_freq=1, learning_rate_min=0.001)
    options |= {"save": str(folder), "search": Config(options["search"])}
    (folder / "search").mkdir(exist_ok=True)
    step, steps = optimizer.step, iter(range(3 if stops else 99))

    def stepping(*batches: Any) -> Any:
        if next(steps, None) is None:
            raise StoppedError
        return step(*batches)

    optimizer.step = stepping
    RandomImages(optimizer, options, lightweight_output=True).search(resume_from=get_last_checkpoint(options))
    return optimizer.graph.state_dict()


@pytest.mark.parametrize("preset", [*ONE_EACH, "SDARTS_RS"])
def test_a_stopped_search_of_every_distribution_continues_exactly(preset: str, tmp_path: Path) -> None:
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = searched(preset, tmp_path / "whole")
    with pytest.raises(StoppedError):
        searched(preset, tmp_path / "stopped", stops=True)
    resumed = searched(preset, tmp_path / "stopped")
    assert list(whole) == list(resumed)
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []


@pytest.mark.parametrize(
    ("preset", "space", "options"), [("BaLeNAS", "nb201", {"update": "newton"}), ("GDAS", "nb301", {})]
)
def test_state_dict_restores_the_search(preset: str, space: str, options: dict[str, Any]) -> None:
    first, second = (adapted(space, preset=preset, seed=seed, **options) for seed in (0, 9))
    first.new_epoch(0)
    step(first)
    second.graph.load_state_dict({key: value.clone() for key, value in first.graph.state_dict().items()})
    for optimizer in (first, second):
        optimizer.new_epoch(1)
        step(optimizer, seed=2)
    theirs = second.graph.state_dict()
    assert [key for key, value in first.graph.state_dict().items() if not torch.equal(value, theirs[key])] == []
    assert second.get_final_architecture().get_hash() == first.get_final_architecture().get_hash()


def test_packed_states_come_back() -> None:
    state = {
        "numbers": {0: {"step": 3, "mean": torch.ones(2)}, 1: {}},
        "groups": [{"betas": (0.5, 0.999), "fused": None, "lr": 1 / 3}],
        "name": "é" * 2000,
    }
    tensors = {**packed(state), "of something else": torch.zeros(1)}
    assert {value.shape for key, value in tensors.items() if key.startswith("document.")} == {(1024,)}
    found = unpacked(tensors)
    assert torch.equal(found["numbers"][0].pop("mean"), state["numbers"][0].pop("mean"))
    assert found == {**state, "groups": [{**state["groups"][0], "betas": [0.5, 0.999]}]}
    assert unpacked({}) == {}
    with pytest.raises(FileFormatError, match=r"lacks a\.0, or has it in another shape"):
        unpacked({"document.0": packed({"a": [torch.zeros(1)]})["document.0"]})


def test_a_finished_search_is_ranked_on_the_batch_that_it_saw() -> None:
    selection = {"n": 4, "proxy": "snip"}
    first, second = adapted(selection=selection), adapted(selection=selection, seed=9)
    step(first)
    second.graph.load_state_dict(first.graph.state_dict())
    assert [found.scores for found in first.rank()] == [found.scores for found in second.rank()]


def test_a_checkpoint_of_another_search_is_refused() -> None:
    optimizer = adapted()
    weights = {key: v for key, v in optimizer.graph.state_dict().items() if not key.startswith("balenas.")}
    with pytest.raises(FileFormatError, match="holds no distribution over architectures, so the architecture would be"):
        optimizer.graph.load_state_dict(weights, strict=False)
    older = {**weights, "balenas.cell/0_1.mu": torch.zeros(5), "balenas.noise": torch.zeros(9, dtype=torch.uint8)}
    with pytest.raises(FileFormatError, match="is of an older version of this package: finish its search with that"):
        optimizer.graph.load_state_dict(older, strict=False)
    with pytest.raises(FileFormatError, match="learns the distribution 'gaussian', and this one learns 'dirichlet'"):
        adapted(preset="DrNAS").graph.load_state_dict(optimizer.graph.state_dict(), strict=False)
    with pytest.raises(FileFormatError, match="is of another search space"):
        adapted("nb301").graph.load_state_dict(optimizer.graph.state_dict(), strict=False)


@pytest.mark.parametrize("options", [{"dataset_size": 7.0}, {"prior_precision": 0.5}, {"update": "newton"}])
def test_a_distribution_learned_with_other_options_is_refused(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(OptionError, match=f"written with {name}"):
        adapted().graph.load_state_dict(adapted(**options).graph.state_dict())


def test_a_learning_rate_may_change_at_a_resume() -> None:
    first, second = adapted(arch_learning_rate=0.1), adapted(arch_learning_rate=0.01, num_mc_samples=2)
    step(first)
    second.graph.load_state_dict(first.graph.state_dict())
    group = second.arch_optimizer.param_groups[0]
    assert (group["lr"], group["num_mc_samples"]) == (0.01, 2)


def test_a_copy_of_the_graph_leaves_the_search_behind() -> None:
    optimizer = adapted()
    assert not any(key.startswith("balenas.") for key in optimizer.graph.clone().state_dict())
    assert not any(key.startswith("balenas") for key in optimizer.get_final_architecture().state_dict())
