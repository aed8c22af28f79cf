"""Recurrent cells on text: the supernet, the hidden state that is carried on, and whole searches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch
from nni.mutable.exception import SampleValidationError
from nni.nas.space import RawFormatModelSpace

from balenas_plugin import DARTS
from balenas_plugin.adapters.nni.run.build import build_space
from balenas_plugin.adapters.nni.run.config_run import run_search
from balenas_plugin.adapters.nni.run.finished_run import FinishedRun
from balenas_plugin.adapters.nni.run.tasks.language_model import LanguageModelModule
from balenas_plugin.adapters.nni.supernets.drawn import DrawnLayer
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters
from balenas_plugin.adapters.nni.supernets.trained_supernet import inherited_network
from balenas_plugin.config import SearchConfig
from balenas_plugin.data.text import TextLoader, TextStreams
from balenas_plugin.errors import OptionError
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.search_spaces import get_space
from balenas_plugin.search_spaces.darts_rnn import DARTS_RNN, make_recurrent_genotype

WORDS = 11
PLAIN = {"dropout": 0.0, "hidden_dropout": 0.0, "input_dropout": 0.0, "embedding_dropout": 0.0}


def supernet(**options: Any) -> Any:
    torch.manual_seed(0)
    model = build_space({"name": "darts-rnn", "size": 3, **PLAIN, **options}, num_classes=WORDS)
    return DARTS().mutate_model(model)


def set_alphas(network: Any, chosen: dict[str, str] | None = None) -> None:
    with torch.no_grad():
        for label, alpha in architecture_parameters(network).items():
            if chosen is None:
                alpha.normal_()
            else:
                alpha.fill_(-1e4)[DARTS_RNN.choices[label].index(chosen.get(label, "none"))] = 1e4


def module_of(network: Any) -> LanguageModelModule:
    make = lambda parameters: torch.optim.SGD(parameters, lr=1.0)  # noqa: E731
    module = LanguageModelModule(make_optimizer=make, schedule={"name": "constant"}, num_classes=WORDS)
    module.set_model(network)
    module.log = lambda *_, **__: None
    return module


def test_edges_are_computed_together_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    network, words = supernet().double(), torch.randint(WORDS, (4, 5))
    set_alphas(network)
    network.eval()
    together = network(words)
    monkeypatch.setattr(DrawnLayer, "weights_in_full", lambda self: None)
    torch.testing.assert_close(together, network(words), rtol=0, atol=1e-12)


def test_a_network_inherits_what_its_supernet_computes() -> None:
    network, words = supernet(), torch.randint(WORDS, (4, 5))
    genotype = make_recurrent_genotype(
        [("tanh", 0), ("relu", 0), ("identity", 2), ("sigmoid", 1), ("tanh", 4), ("relu", 3), ("tanh", 2), ("tanh", 7)]
    )
    set_alphas(network, {f"recurrent/{k}_{j}": name for k, (name, j) in enumerate(genotype.recurrent, start=1)})
    architecture = DARTS_RNN.read(str(genotype)).sample
    found = inherited_network(network, get_space("darts-rnn"), architecture)
    torch.testing.assert_close(found(words), network(words))  # in training mode: by the statistics of the batch
    assert found.decoder.weight is found.embedding.weight
    torch.testing.assert_close(found.eval()(words), network.eval()(words))


def test_the_architectures_that_a_search_lists_are_networks() -> None:
    network = supernet()
    architecture = DARTS_RNN.read("Genotype(recurrent=" + str([("tanh", 0)] * 8) + ", concat=range(1, 9))").sample
    found = RawFormatModelSpace(network, Mock()).freeze(architecture)
    assert found.executable_model()(torch.zeros(2, 3, dtype=torch.int64)).shape == (2, WORDS, 3)
    with pytest.raises(SampleValidationError, match="sine"):
        RawFormatModelSpace(network, Mock()).freeze(architecture | {"recurrent/op_3_0": "sine"})


def test_the_hidden_state_goes_on_for_each_text_apart() -> None:
    network = supernet(slowness=0.0).eval()
    module, text = module_of(network), TextStreams(torch.randint(WORDS, (43,)), rows=3, bptt=4)
    first, second, *_ = TextLoader(text, name="weights")
    other = next(iter(TextLoader(TextStreams(torch.randint(WORDS, (43,)), rows=3, bptt=4), name="architecture")))
    logits = network(torch.cat([first.words, second.words], 1))[..., 4:]
    expected = torch.nn.functional.cross_entropy(logits, second.targets)
    module.training_step(first, 1)
    module.training_step(other, 0)
    for batch in (second, second):  # several evaluations begin in the same state
        torch.testing.assert_close(module.training_step(batch, 3), expected)
    module.validation_step(first, 0)  # and a validation in between changes nothing
    torch.testing.assert_close(module.training_step(second, 3), expected)
    parts = [
        second._replace(words=second.words[k], targets=second.targets[k], rows=second.rows[k])
        for k in (slice(0, 1), slice(1, 3))
    ]
    split = [module.training_step(part, 3) * len(part.words) for part in parts]
    torch.testing.assert_close(sum(split) / 3, expected)
    assert not any(state.requires_grad for states in module.states.by_text.values() for state in states.values())
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    again = module_of(network)
    again.on_load_checkpoint(checkpoint)
    torch.testing.assert_close(again.training_step(second, 3), expected)


def config(**changes: Any) -> SearchConfig:
    return SearchConfig.from_dict(
        {
            "name": "tiny",
            "threads": 1,
            "space": {"name": "darts-rnn", "size": 3},
            "data": {"name": "python_docs", "batch_size": 4, "bptt": 3, "vocabulary": 12, "limit": 32},
            "strategy": {"name": "BaLeNAS", "num_mc_samples": 2, "arc_learning_rate": 0.1, "gradient_clip_val": 0.25},
            "evaluator": {"epochs": 2, "optimizer": {"name": "SGD", "lr": 5}, "enable_progress_bar": False},
            **changes,
        }
    )


class KilledError(Exception):
    """Ends a search in the middle."""


class Killer(pl.Callback):
    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1:
            raise KilledError


def searched(config: SearchConfig, folder: Path, **options: Any) -> list[dict[str, Any]]:
    return run_search(config, RunFolder(folder), resume=options.pop("resume", False), show_progress=False, **options)


@pytest.mark.parametrize("strategy", [{}, {"name": "DARTS", "order": "second", "arc_learning_rate": 0.1}])
def test_a_search_resumes_exactly_and_is_exported(strategy: dict[str, Any], tmp_path: Path) -> None:
    settings = config(**({"strategy": strategy} if strategy else {}))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    records = searched(settings, whole)
    assert records[0]["notation"]["darts-rnn"].startswith("Genotype(recurrent=[(")
    with pytest.raises(KilledError):
        searched(settings, stopped, callbacks=[Killer()])
    assert searched(settings, stopped, resume=True) == records
    for name in ("history.csv", "posterior.json", "architectures.json"):
        assert (whole / name).read_bytes() == (stopped / name).read_bytes()
    assert "val_perplexity" in (whole / "history.csv").read_text().splitlines()[0]
    run = FinishedRun.load(RunFolder(whole))
    network = run.network(records[0]["choices"], run.trained_supernet())
    assert network(run.batch[0]).shape == (4, run.data.num_classes, 3)
    assert json.loads((whole / "manifest.json").read_text())["data"]["weight_words"] == 28


@pytest.mark.parametrize("name", ["GDAS", "DrNAS", "nni.DARTS"])
def test_other_methods_search_recurrent_cells(name: str, tmp_path: Path) -> None:
    (found, *_) = searched(config(strategy={"name": name}, evaluator={"epochs": 1, "logger": "none"}), tmp_path / "run")
    assert "recurrent/op_8_0" in found["choices"]


def test_a_space_and_data_of_different_tasks_are_refused(tmp_path: Path) -> None:
    for changes, message in (
        ({"data": {"name": "digits"}}, "darts-rnn is for language modelling.*take one of text, python_docs"),
        ({"space": "NasBench201"}, "nasbench201 is for image classification, and data.name python_docs"),
    ):
        with pytest.raises(OptionError, match=message):
            searched(config(**changes), tmp_path / "run")
