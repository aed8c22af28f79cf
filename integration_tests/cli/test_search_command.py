"""`balenas search`: the folder of a run, the same result from the same seed, and every strategy by its name."""

from __future__ import annotations

import csv
import inspect
import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nni.nas.oneshot.pytorch.sampling import has_tianshou
from PIL import Image

from balenas_plugin import BaLeNAS
from balenas_plugin.adapters.nni.strategies.nni_strategies import build_strategy, list_strategies, with_defaults
from balenas_plugin.bayes import Posterior
from balenas_plugin.cli.search import _conclusion
from balenas_plugin.config import SearchConfig
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.search_spaces import nasbench201

from .commands import balenas, refused
from .comparison import assert_same_run, checkpoint_of


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


# -- the folder of a run ----------------------------------------------------------------------------------------------


def test_a_run_has_all_its_files(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {"config.yml", "manifest.json", "history.csv", "posterior.json", "architectures.json"} <= names
    assert [path.name for path in (finished / "checkpoints").iterdir()] == ["last.ckpt"]
    assert list(finished.rglob("*.tmp")) == []


def test_config_is_resolved_and_makes_the_same_config(finished: Path) -> None:
    document = yaml.safe_load((finished / "config.yml").read_text())
    assert document["seed"] == 0
    assert document["evaluator"]["optimizer"] == {
        "name": "SGD",
        "lr": 0.025,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 0.0005,
    }
    assert document["data"]["train_fraction"] == 0.5
    assert set(document["strategy"]) == {"name", *inspect.signature(BaLeNAS).parameters} - {"penalty", "kwargs"}
    assert document["strategy"]["betas"] == [0.5, 0.999]
    assert document["strategy"]["num_mc_samples"] == 1  # the config's, not the default
    assert SearchConfig.from_dict(document).to_dict() == document


def test_manifest_says_what_ran_when_and_with_what(finished: Path) -> None:
    manifest = read_json(finished / "manifest.json")
    assert manifest["status"] == "finished"
    assert manifest["seed"] == 0
    assert manifest["strategy"] == "BaLeNAS"
    assert manifest["epochs"] == 3
    assert manifest["device"] == "cpu"
    assert manifest["data"]["weight_images"] == manifest["data"]["architecture_images"] == 64
    versions = manifest["versions"]
    assert {"python", "balenas-plugin", "nni", "torch", "pytorch-lightning"} <= set(versions)
    assert versions["nni"] == "3.0"
    (session,) = manifest["sessions"]
    assert session["command"] == "balenas search tiny.yml"
    assert session["resumed"] is False
    assert session["started"] <= session["ended"]


def test_history_has_one_row_an_epoch(finished: Path) -> None:
    rows = list(csv.DictReader((finished / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    for row in rows:
        for column in ("train_loss", "train_acc", "val_loss", "val_acc", "arch_loss", "entropy", "sigma"):
            assert math.isfinite(float(row[column])), column
        nasbench201.parse(row["architecture"])
        assert float(row["log_probability"]) < 0


def test_architectures_are_ranked_and_described(finished: Path) -> None:
    records = read_json(finished / "architectures.json")
    posterior = Posterior.load(finished / "posterior.json")
    assert [record["rank"] for record in records] == [1, 2, 3]
    assert len({json.dumps(record["choices"]) for record in records}) == 3
    assert records[0]["choices"] == {
        label: posterior.choices[label][int(posterior.mean[label].argmax())] for label in posterior.labels
    }
    assert records[1]["probability"] >= records[2]["probability"]
    for record in records:
        assert nasbench201.to_nni(nasbench201.parse(record["notation"]["nasbench201"])) == record["choices"]
        assert record["probability"] == pytest.approx(math.prod(record["winning_probability"].values()))
        assert math.log(record["probability"]) == pytest.approx(posterior.log_probability(record["choices"]))
        for label, sigmas in record["sigma"].items():
            expected = dict(zip(posterior.choices[label], posterior.std[label].tolist(), strict=True))
            assert sigmas == pytest.approx(expected)
            win = posterior.win_probability()[label]
            assert record["winning_probability"][label] == pytest.approx(win[record["choices"][label]])


def test_the_command_prints_the_architectures_and_the_folder(finished: Path) -> None:
    printed = (finished.parents[1] / "output.txt").read_text()
    for record in read_json(finished / "architectures.json"):
        assert record["notation"]["nasbench201"] in printed
    assert "Everything about this run: runs/tiny" in printed


def test_the_command_ends_with_what_was_found_how_sure_it_is_and_what_comes_next(finished: Path) -> None:
    printed = " ".join((finished.parents[1] / "output.txt").read_text().split())
    best = read_json(finished / "architectures.json")[0]
    times = best["probability"] * 5**6
    assert (
        f"The winner is {best['notation']['nasbench201']}, with a probability of {best['probability']:.3g}, "
        f"{times:.3g} times that of a blind guess. It is undecided: in 6 of 6 choices" in printed
    )
    assert "Next: balenas report runs/tiny balenas train runs/tiny balenas export runs/tiny --format python" in printed


def test_a_likelier_network_than_the_argmax_is_named(finished: Path) -> None:
    first, *others = read_json(finished / "architectures.json")
    assert "the likeliest network" not in _conclusion(RunFolder(finished), [first, *others])
    others[1]["probability"] = twice = 2 * first["probability"]
    text = _conclusion(RunFolder(finished), [first, *others])
    assert f"(the argmax); the likeliest network is that of rank 3, with {twice:.3g}. It is undecided" in text
    text = _conclusion(RunFolder(finished), [{**first, "chosen_by": "synflow, naswot"}, *others])
    assert text.startswith("The winner by synflow, naswot is ")
    assert "the likeliest network" not in text


def test_a_search_that_has_learned_nothing_says_so(finished: Path) -> None:
    first, *others = read_json(finished / "architectures.json")
    guess = read_json(finished / "manifest.json")["log_probability_of_a_guess"]
    text = _conclusion(RunFolder(finished), [{**first, "log_probability": guess}, *others])
    assert text.endswith("BaLeNAS has not learned which candidates are better. Next:")


def test_the_plan_is_printed_before_the_search(finished: Path) -> None:
    lines = (finished.parents[1] / "errors.txt").read_text().splitlines()[:7]
    assert lines[:6] == [
        "search: images    128 of 1,500 of the set digits, 8x8 pixels",
        lines[1],
        "search: halves    64 train the weights, 64 others the architecture and validate it",
        lines[3],
        "search: plan      3 epochs of 2 iterations, 6 in all; M = 1 draw in each",
        "search: reach     6 architecture steps x rate 0.01: a logit can move by 0.06; 1 makes a clear difference",
    ]
    assert lines[1].startswith("search: classes   10: 0 (")
    assert re.fullmatch(r"search: supernet  NasBench201: [\d,]+ weights and 30 logits in 6 choices", lines[3])
    assert lines[6].startswith("search: warning   that decides nothing: set arc_learning_rate to 0.3 or more")


# -- seeds ------------------------------------------------------------------------------------------------------------


def test_a_run_started_from_the_config_of_a_run_is_the_same_run(finished: Path, folder: Path) -> None:
    """With the same seed, in a process whose hashes are others."""
    ended = balenas("search", finished / "config.yml", "--output", "again", folder=folder)
    assert ended.code == 0, ended.errors
    assert_same_run(folder / "again", finished)
    assert (folder / "again" / "config.yml").read_text() == (finished / "config.yml").read_text()


@pytest.mark.parametrize("name", [n for n in list_strategies() if n != "nni.ENAS" or has_tianshou])
def test_the_defaults_of_a_strategy_can_be_given_in_a_config(name: str) -> None:
    filled = with_defaults({"name": name, **({"distribution": "point"} if name == "DistributionStrategy" else {})})
    given = yaml.safe_load(yaml.safe_dump(filled))
    assert type(build_strategy(given)).__name__ == name.removeprefix("nni.")
    assert yaml.safe_load(yaml.safe_dump(with_defaults(given))) == given


def test_another_seed_gives_another_result(finished: Path, folder: Path) -> None:
    ended = balenas("search", "tiny.yml", "--seed", 1, folder=folder)
    assert ended.code == 0, ended.errors
    run = folder / "runs" / "tiny"
    assert (run / "posterior.json").read_bytes() != (finished / "posterior.json").read_bytes()
    assert read_json(run / "manifest.json")["seed"] == yaml.safe_load((run / "config.yml").read_text())["seed"] == 1


# -- folders ----------------------------------------------------------------------------------------------------------


def test_a_second_run_gets_a_folder_of_its_own(copy_of_finished: Path, folder: Path) -> None:
    before = contents(copy_of_finished)
    ended = balenas("search", "tiny.yml", "--set", "evaluator.epochs=1", folder=folder)
    assert ended.code == 0, ended.errors
    assert contents(copy_of_finished) == before
    assert read_json(folder / "runs" / "tiny-2" / "manifest.json")["epochs"] == 1
    assert "runs/tiny-2" in ended.output


def test_an_existing_output_is_refused(copy_of_finished: Path, folder: Path) -> None:
    before = contents(copy_of_finished)
    ended = balenas("search", "tiny.yml", "--output", "runs/tiny", folder=folder)
    assert ended.code == 2
    assert "--resume" in ended.errors
    assert "--overwrite" in ended.errors
    assert contents(copy_of_finished) == before


def test_overwrite_replaces_a_run(copy_of_finished: Path, folder: Path) -> None:
    (copy_of_finished / "my_notes.txt").write_text("of the old run")
    arguments = ("--set", "evaluator.epochs=1", "--output", "runs/tiny", "--overwrite")
    ended = balenas("search", "tiny.yml", *arguments, folder=folder)
    assert ended.code == 0, ended.errors
    assert read_json(copy_of_finished / "manifest.json")["epochs"] == 1
    assert not (copy_of_finished / "my_notes.txt").exists()


def test_a_mistake_does_not_cost_the_run_to_be_overwritten(copy_of_finished: Path, folder: Path) -> None:
    before = contents(copy_of_finished)
    arguments = ("--set", "space.stem_channels=4", "--output", "runs/tiny", "--overwrite")
    assert balenas("search", "tiny.yml", *arguments, folder=folder).code == 2
    assert contents(copy_of_finished) == before


# -- what a config can say --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["nni.DARTS", "{name: nni.GumbelDARTS, temperature: [1, 0.5]}", "Proxyless"])
def test_strategies_of_nni_run(strategy: str, folder: Path) -> None:
    """That they repeat themselves is in nni/test_diagnostics.py, that they resume in test_resume.py."""
    arguments = ("--set", f"strategy={strategy}", "--set", "evaluator.epochs=2")
    ended = balenas("search", "tiny.yml", *arguments, folder=folder)
    assert ended.code == 0, ended.errors
    run = folder / "runs" / "tiny"
    (record,) = read_json(run / "architectures.json")
    assert nasbench201.to_nni(nasbench201.parse(record["notation"]["nasbench201"])) == record["choices"]
    assert read_json(run / "manifest.json")["strategy"] in strategy or strategy == "Proxyless"
    rows = list(csv.DictReader((run / "history.csv").open()))
    assert len(rows) == 2
    if "temperature" in strategy:
        assert [float(row["gumbel_temperature"]) for row in rows] == [1.0, 0.75]


def test_enas_runs_or_says_what_it_needs(folder: Path) -> None:
    ended = balenas("search", "tiny.yml", "--set", "strategy={name: nni.ENAS, batches_per_update: 2}", folder=folder)
    if has_tianshou:
        assert ended.code == 0, ended.errors
        (record,) = read_json(folder / "runs" / "tiny" / "architectures.json")
        assert nasbench201.to_nni(nasbench201.parse(record["notation"]["nasbench201"])) == record["choices"]
        assert "val_acc" in (folder / "runs" / "tiny" / "history.csv").read_text()
    else:
        assert ended.code == 2
        assert "pip install 'tianshou<0.5'" in ended.errors


def test_trainer_options_reach_the_trainer(folder: Path) -> None:
    """Lightning may choose the devices, too."""
    options = "{limit_train_batches: 1, enable_progress_bar: false, devices: auto, accelerator: cpu, epochs: 3}"
    arguments = ("--set", f"evaluator={options}")
    ended = balenas("search", "tiny.yml", *arguments, folder=folder)
    assert ended.code == 0
    assert ended.errors == ""
    checkpoint = checkpoint_of(folder / "runs" / "tiny")
    vadam = checkpoint["optimizer_states"][1]
    assert {state["step"] for state in vadam["state"].values()} == {3}


def test_a_space_of_the_users_own(whole_of_stopping: Path) -> None:
    assert len(read_json(whole_of_stopping / "architectures.json")) == 3


def test_a_network_that_needs_the_default_memory_format(folder: Path) -> None:
    ended = balenas("search", "tiny.yml", "--set", "space='faulty_spaces:Viewing'", folder=folder)
    assert ended.code == 0, ended.errors
    assert ended.errors.count("channels_last is off: the network does not run in that memory format (view size") == 1


def test_choices_among_numpys_numbers(folder: Path) -> None:
    selection = "strategy.selection={n: 3, proxy: params}"
    options = ("--set", "space='faulty_spaces:NumbersOfNumpy'", "--set", selection)
    ended = balenas("search", "tiny.yml", *options, folder=folder)
    assert ended.code == 0, ended.errors
    records = read_json(folder / "runs" / "tiny" / "architectures.json")
    assert {record["choices"]["width"] for record in records} <= {4, 8}


def test_selection_ranks_the_architectures(folder):
    ended = balenas("search", "tiny.yml", "--set", "strategy.selection={n: 10, proxy: [synflow, snip]}", folder=folder)
    assert ended.code == 0, ended.errors
    found = read_json(folder / "runs" / "tiny" / "architectures.json")
    assert [record["chosen_by"] for record in found] == ["synflow, snip"] * 3
    assert all(set(record["scores"]) == {"synflow", "snip"} for record in found)


# -- options for speed ------------------------------------------------------------------------------------------------


SMALL_SPACE = """
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import nn

class Small(ModelSpace):
    def __init__(self):
        super().__init__()
        self.op = LayerChoice({"conv": nn.Conv2d(3, 3, 3, padding=1), "skip": nn.Identity()}, label="op")
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.op(x).mean((2, 3)))
"""


def test_gpu_options_fall_back_with_a_message_each(folder: Path) -> None:
    options = {
        "evaluator.precision": "bf16-mixed",
        "strategy.compile": "reduce-overhead",
        "space": "small_space:Small",
        "data": f"{{name: folder, root: {folder / 'pictures'}, image_size: 8, batch_size: 4, on_device: true}}",
    }
    _write_pictures(folder / "pictures")
    (folder / "small_space.py").write_text(SMALL_SPACE)
    arguments = [word for name, value in options.items() for word in ("--set", f"{name}={value}")]
    ended = balenas(
        "search", "tiny.yml", *arguments, folder=folder, PATH=str(folder), TORCHINDUCTOR_CACHE_DIR=str(folder)
    )
    assert ended.code == 0, ended.errors
    assert ended.errors.count("the images are not kept on cpu, because its images are read from files") == 1
    assert ended.errors.count("compile='reduce-overhead' captures CUDA graphs, but this is not a GPU") == 1
    assert ended.errors.count("compile: Small cannot be compiled, so it runs as it is") == 1
    assert "Traceback" not in ended.errors
    posterior = Posterior.load(folder / "runs" / "tiny" / "posterior.json")
    assert {value.dtype for value in posterior.precision.values()} == {torch.float32}


def test_images_on_the_device_or_not_are_both_searched_from_the_seed(finished: Path, folder: Path) -> None:
    ended = balenas("search", "tiny.yml", "--set", "data.on_device=true", folder=folder)
    assert ended.code == 0, ended.errors
    run = folder / "runs" / "tiny"
    assert (run / "history.csv").read_text() == (finished / "history.csv").read_text()  # "auto" did the same
    ended = balenas("search", "tiny.yml", "--set", "data.on_device=false", "--output", "loader", folder=folder)
    assert ended.code == 0, ended.errors
    assert (folder / "loader" / "history.csv").read_text() != (finished / "history.csv").read_text()


def _write_pictures(root: Path) -> None:
    for kind in range(2):
        (root / f"kind{kind}").mkdir(parents=True)
        for k in range(8):
            Image.new("RGB", (8, 8), (20 * k, 100 * kind, 50)).save(root / f"kind{kind}" / f"{k}.png")


# -- what is trained at the end ---------------------------------------------------------------------------------------

TRAINED = ("--set", "train={options: {epochs: 1, batch_size: 64}, random: 2}", "--set", "data.limit=96")


def test_the_winner_is_trained_beside_random_architectures_and_an_interruption_costs_nothing(folder: Path) -> None:
    ended = balenas("search", "tiny.yml", *TRAINED, folder=folder)
    assert ended.code == 0, ended.errors
    sentence = re.search(r"Trained for 1 epochs on 96 images and tested on 297 others, .*?(?=\n\n)", ended.output, re.S)
    assert sentence
    run = folder / "runs" / "tiny"
    found = read_json(run / "compared" / "compared.json")
    accuracies = [network["test_accuracy"] for network in found["random"]]
    said = " ".join(sentence[0].split())
    assert f"the winner has a test accuracy of {found['winner']['test_accuracy']:.1%} (95 % interval " in said
    assert f"2 random architectures of the space, trained alike, {statistics.fmean(accuracies):.1%} ± " in said
    assert ("nothing better than chance" in said) == (found["winner"]["test_accuracy"] <= statistics.fmean(accuracies))
    assert [network["seed"] for network in (found["winner"], *found["random"])] == [0, 0, 0]
    described = [
        yaml.safe_load((run / "compared" / name / "train.yml").read_text())["architecture"]
        for name in ("winner", "random_1", "random_2")
    ]
    assert described[0] == read_json(run / "architectures.json")[0]["choices"]
    assert described[1] != described[2]

    (run / "compared" / "random_2" / "train.json").unlink()
    again = balenas("search", "tiny.yml", *TRAINED, "--resume", folder=folder)
    assert again.code == 0, again.errors
    assert sentence[0] in again.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["train={recipe: smal}"], "there is no recipe 'smal'; did you mean"),
        (["train={options: {epoch: 1}}"], "epoch"),
        (["train={}", "strategy=nni.DARTS"], "train needs a posterior, and nni.DARTS leaves none"),
        (["train={}", "evaluator.devices=2"], "train follows a search on one device"),
    ],
)
def test_what_could_not_be_trained_is_refused_before_the_search(folder: Path, options: list[str], message: str) -> None:
    assert message in refused("search", "tiny.yml", *(word for o in options for word in ("--set", o)), folder=folder)
    assert not (folder / "runs").exists() or not any((folder / "runs").iterdir())
