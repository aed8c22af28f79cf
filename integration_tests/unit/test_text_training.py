"""Training a language model: the reference's steps by hand, exact resumes, and what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from balenas_plugin.data.text import Excerpt, TextStreams, TextTask, TrainingTexts
from balenas_plugin.errors import OptionError
from balenas_plugin.export.onnx_file import onnx_runner
from balenas_plugin.search_spaces.darts_rnn import (
    Dropouts,
    build_language_model,
    genotype_of,
    read_recurrent_genotype,
)
from balenas_plugin.training import Recipe, TrainedNetwork, train, train_network
from balenas_plugin.training.checkpoints import read_checkpoint
from balenas_plugin.training.language_models.text_training import TextTraining

CELL = "Genotype(recurrent=[('relu', 0), ('tanh', 1)], concat=[1, 2])"
NO_DROPOUT = {f"{name}dropout": 0 for name in ("", "hidden_", "input_", "embedding_", "word_")}


def texts(rows: int = 3) -> TrainingTexts:
    words = torch.randint(7, (150,), generator=torch.Generator().manual_seed(2))
    others = torch.randint(7, (70,), generator=torch.Generator().manual_seed(1)).split((40, 30))
    of = dict(zip(("training", "validation", "test"), (words, *others), strict=True))
    parts = {name: TextStreams(part, rows=rows, bptt=8) for name, part in of.items()}
    task = TextTask(vocabulary=("<eos>", "<unk>", *"abcde"), split="text")
    return TrainingTexts(**parts, task=task, description={"name": "abc"})


def language_model() -> nn.Module:
    torch.manual_seed(3)
    genotype = genotype_of(read_recurrent_genotype(CELL).sample)
    return build_language_model(genotype, size=4, vocabulary=7, dropouts=Dropouts(0, 0, 0, 0, 0.2))


def test_a_killed_training_ends_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(epochs=3, optimizer={"name": "SGD", "lr": 20}, text={"bptt": 8, "averaging": 1})

    def run(folder: str, **options: Any) -> TrainedNetwork:
        return train_network(language_model(), texts(), recipe, folder=tmp_path / folder, progress=False, **options)

    whole = run("whole")
    step, steps = TextTraining.training_step, iter(range(1000))

    def killed(self: TextTraining, batch: Excerpt, number: int) -> Any:
        if next(steps) == 15:
            raise RuntimeError("killed")
        return step(self, batch, number)

    monkeypatch.setattr(TextTraining, "training_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        run("killed")
    assert run("killed", resume=True).test_perplexity == whole.test_perplexity
    for file in ("weights.safetensors", "metrics.csv"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "killed" / file).read_bytes()
    assert run("killed", resume=True) == TrainedNetwork.load(tmp_path / "killed"), "finished: read"


def test_a_reference_training_of_a_cell_has_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of DARTS's `rnn/train.py` by hand: hidden states, a rate for each length, slowness, and ASGD."""
    options = {"bptt": 8, "averaging": 1, "slowness": 0.3}
    recipe = Recipe(
        epochs=9, optimizer={"name": "SGD", "lr": 20}, schedule="constant", gradient_clip_val=0.25, text=options
    )
    network, reference = language_model(), language_model()
    for each in (network, reference):
        each.dropouts = each.dropouts._replace(word=0.0)
    batches: list[Excerpt] = []
    step = TextTraining.training_step

    def recorded(self: TextTraining, batch: Excerpt, number: int) -> Any:
        batches.append(batch)
        return step(self, batch, number)

    monkeypatch.setattr(TextTraining, "training_step", recorded)
    found = train_network(network, texts(), recipe, folder=tmp_path, progress=False)
    begun = read_checkpoint(tmp_path / "last.ckpt")["callbacks"]["AveragedFromPlateau"]["before"]
    assert 0 < begun < len(batches)
    assert len({batch.rate for batch in batches}) > 2

    optimizer: torch.optim.Optimizer = torch.optim.SGD(reference.parameters(), 20.0)
    last = torch.zeros(3, 4)
    for number, batch in enumerate(batches):
        if number == begun:
            optimizer = torch.optim.ASGD(reference.parameters(), 20.0, lambd=0.0, t0=0)
        hidden = last.detach() if batch.sequence else torch.zeros(3, 4)
        logits, outputs, last = reference(batch.words, hidden)
        loss = F.cross_entropy(logits, batch.targets) + 0.3 * outputs.diff(dim=1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reference.parameters(), 0.25)
        for group in optimizer.param_groups:
            group["lr"] = 20.0 * batch.words.shape[1] / 8
        if number >= begun:  # ASGD reads its rate from its state
            for parameter in reference.parameters():
                if optimizer.state[parameter]:
                    optimizer.state[parameter]["eta"].fill_(group["lr"])
        optimizer.step()
    for mine, own in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, optimizer.state[own]["ax"], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        logits, *_ = network.eval()(texts(1).test.words[:, :-1], torch.zeros(1, 4))
    expected = F.cross_entropy(logits, texts(1).test.words[:, 1:])
    again = train_network(
        network,
        texts(1),
        recipe.replace(epochs=1, optimizer={"name": "SGD", "lr": 0.0}),
        folder=tmp_path / "1",
        progress=False,
    )
    assert again.test_perplexity == pytest.approx(float(expected.exp()), rel=1e-5)
    assert found.parameters == sum(parameter.numel() for parameter in reference.parameters())


def test_a_cell_is_trained_on_a_folder_of_texts(tmp_path: Path) -> None:
    for part, text in {
        "train": "the cat sat\n" * 40,
        "valid": "the dog sat\n" * 9,
        "test": "the cat sat\n" * 9,
    }.items():
        (tmp_path / f"{part}.txt").write_text(text)
    tiny = [*(f"text.{name}=0" for name in NO_DROPOUT), "text.bptt=3", "network.size=4", "batch_size=2", "epochs=4"]
    options: dict[str, Any] = {"data": str(tmp_path), "overrides": tiny, "progress": False}
    result = train(CELL, output=tmp_path / "out", onnx=True, **options)
    assert result.recipe == "text-small"
    assert 1 < result.test_perplexity < 2, "each word follows from the one before it"
    assert json.loads((tmp_path / "out/train.json").read_text())["test_perplexity"] == result.test_perplexity
    namespace: dict[str, Any] = {"__file__": str(tmp_path / "out/network.py"), "__name__": "network"}
    exec((tmp_path / "out/network.py").read_text(), namespace)  # written by us
    words = namespace["encode"]("the cat")
    assert namespace["decode"](namespace["load"]().eval()(words)[..., :2].argmax(1)) == ["cat", "sat"]
    batch = torch.tensor([[0, 1, 2]] * 2)
    logits = onnx_runner((tmp_path / "out/network.onnx").read_bytes())(batch.numpy())
    torch.testing.assert_close(torch.from_numpy(logits), result.network(batch).detach())
    for given, message in (
        ({"recipe": "small", "overrides": []}, "recipe small is for images, and the data are a text"),
        ({"overrides": ["cutout=3"]}, "recipe's cutout is for images"),
        ({"data": "digits"}, "darts-rnn are for language modelling, and these data are not: take one of text"),
        ({"int8": True}, "and this is a language model"),
    ):
        with pytest.raises(OptionError, match=message):
            train(CELL, output=tmp_path / "bad", **{**options, **given})
    with pytest.raises(OptionError, match="text-small is for a text, and the data are images"):
        train("DARTS_V2", recipe="text-small", output=tmp_path / "bad")
