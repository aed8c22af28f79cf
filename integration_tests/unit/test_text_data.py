"""Texts of a language model: what is read of them, what is refused, and how they are cut; genotypes of their cells."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from balenas_plugin.config import SearchConfig
from balenas_plugin.data import DataConfig
from balenas_plugin.data.text import Lengths, TextConfig, TextLoader, TextStreams, load_test_text, load_text_data
from balenas_plugin.data.text.text_data import build_vocabulary
from balenas_plugin.data.text.text_sources import split_lines
from balenas_plugin.errors import BalenasError, DataError, OptionError, SpaceError
from balenas_plugin.search_spaces import read_architecture
from balenas_plugin.search_spaces.darts_rnn import DARTS_RNN, genotype_of, make_recurrent_genotype

TEXTS = {"train": "the cat sat\non the mat\n" * 4, "valid": "the dog sat\n" * 6, "test": "a cat\n" * 8}


@pytest.fixture(params=["", "ptb."])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for part, text in TEXTS.items():
        (tmp_path / f"{request.param}{part}.txt").write_text(text)
    return tmp_path


def config(folder: Path, **options: object) -> TextConfig:
    return TextConfig(**{"name": "text", "root": str(folder), "batch_size": 2, "bptt": 4, **options})


def test_words_are_numbered_by_the_training_text_and_read_row_by_row(folder: Path) -> None:
    data = load_text_data(config(folder))
    assert data.vocabulary == ("<eos>", "<unk>", "the", "cat", "sat", "on", "mat")
    words, targets = data.weight_text.sequence(0)
    assert [[data.vocabulary[k] for k in row] for row in words.tolist()] == [["the", "cat", "sat", "<eos>"]] * 2
    assert [data.vocabulary[k] for k in targets[0].tolist()] == ["cat", "sat", "<eos>", "on"]
    unknown = data.architecture_text.sequence(0)[0][0].tolist()
    assert [data.vocabulary[k] for k in unknown] == ["the", "<unk>", "sat", "<eos>"]
    assert data.description["architecture_unknown"] == pytest.approx(0.25)
    assert load_test_text(config(folder), data.vocabulary).words.shape == (2, 12)
    assert build_vocabulary(["b", "a", "b", "c", "a"], most=4) == ("<eos>", "<unk>", "b", "a")
    assert load_text_data(config(folder, limit=10)).weight_text.words.shape == (2, 5)
    assert {tuple(split_lines(f"a b{end}{end}c{end}")) for end in ("\n", "\r\n", "\r")} == {
        ("a", "b", "<eos>", "<eos>", "c", "<eos>")
    }


def test_a_loader_walks_through_the_whole_text() -> None:
    streams = TextStreams(torch.arange(23), rows=2, bptt=4)
    batches = list(TextLoader(streams, name="weights"))
    assert [batch.words.shape[1] for batch in batches] == [4, 4, 2]
    assert torch.cat([batch.words for batch in batches], 1).tolist() == [[*range(10)], [*range(11, 21)]]
    assert all(torch.equal(batch.targets, batch.words + 1) for batch in batches)
    assert [(batch.sequence, batch.all_rows, batch.rows.tolist()) for batch in batches] == [
        (k, 2, [0, 1]) for k in range(3)
    ]
    assert len(streams) == 4
    assert [streams[k][0][0].item() for k in range(len(streams))] == [0, 4, 11, 15]
    assert len(TextLoader(streams, name="weights").sampler) == streams.predicted == 20


def test_lengths_are_random_and_the_same_for_one_seed() -> None:
    streams = TextStreams(torch.arange(2 * 4001), rows=2, bptt=35)

    def lengths(epoch: int, rule: Lengths = "normal", seed: int = 3) -> list[int]:
        loader = TextLoader(streams, name="weights", lengths=rule, seed=seed)
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader)
        assert torch.equal(torch.cat([batch.words for batch in batches], 1), streams.words[:, :-1])
        found = [batch.words.shape[1] for batch in batches]
        assert [batch.rate for batch in batches] == [length / 35 for length in found]
        return found

    first, second = lengths(0), lengths(1)
    assert first == lengths(0)
    assert first != second
    assert sorted(first) == sorted(second)
    assert first != lengths(0, seed=4)
    drawn = torch.tensor(first[:-1]).float()
    usual = drawn[drawn > 26]
    assert abs(usual.mean() - 34.5) < 1.5  # whole numbers, rounded down
    assert 3.5 < usual.std() < 6
    assert 5 <= drawn.min() < 26 < drawn.max() <= 55
    assert set(lengths(0, "halved")[:-1]) == {17, 35}
    fixed = list(TextLoader(streams, name="weights"))
    assert {batch.rate for batch in fixed} == {1.0}


def test_python_docs_are_three_different_texts() -> None:
    data = load_text_data(TextConfig(vocabulary=500))
    assert data.num_classes == 500
    assert data.description["weight_words"] > 5 * data.description["architecture_words"] > 10_000
    assert 0 < data.description["weight_unknown"] < 0.2


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        (
            "valid.txt",
            None,
            {},
            r"learn the architecture on is valid\.txt or NAME\.valid\.txt, and .* has no such file",
        ),
        ("train.txt", b" \n\n", {}, r"train\.txt is empty"),
        ("train.txt", b"caf\xe9 au lait\n", {}, r"train\.txt is not in UTF-8 \(byte 3 does not belong there\)"),
        ("a.valid.txt", b"x", {}, ""),
        (
            "valid.txt",
            b"too short\n",
            {},
            r"the text to learn the architecture on has 3 words, fewer than one batch needs: data\.batch_size 2 x",
        ),
        ("train.txt", b"x" * 9, {"root": "nowhere"}, r"nowhere is no folder"),
    ],
)
def test_bad_texts_are_refused(
    tmp_path: Path, name: str, content: bytes | None, options: dict[str, str], message: str
) -> None:
    for part, text in TEXTS.items():
        (tmp_path / f"{part}.txt").write_text(text)
    (tmp_path / name).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    options = {key: str(tmp_path / value) for key, value in options.items()}
    if not message:  # beside valid.txt it does not matter, alone it is ambiguous
        load_text_data(config(tmp_path))
        (tmp_path / "valid.txt").rename(tmp_path / "b.valid.txt")
        message = r"has several texts for it, a\.valid\.txt, b\.valid\.txt: keep one"
    with pytest.raises(DataError, match=message):
        load_text_data(config(tmp_path, **options))


def test_the_name_of_the_data_says_which_options_they_have() -> None:
    def data(given: object) -> object:
        return SearchConfig.from_dict({"name": "x", "data": given}).data

    assert isinstance(data({"name": "text", "bptt": 7}), TextConfig)
    assert isinstance(data({"name": "cifar10"}), DataConfig)
    assert isinstance(data({}), DataConfig)
    config = SearchConfig.from_dict({"name": "x", "data": {"name": "python_docs", "bptt": 7}})
    assert SearchConfig.from_dict(config.to_dict()).data == config.data
    for given, message in {
        "python_doc": r"data\.name must be one of digits, .*text, python_docs, got 'python_doc'.*'python_docs'",
        "text": r"data has no option 'image_size'",
        "digits": r"data has no option 'bptt'",
    }.items():
        options = {"text": {"image_size": 8}, "digits": {"bptt": 3}}.get(given, {})
        with pytest.raises(OptionError, match=message):
            data({"name": given, **options})


PUBLISHED = "DARTS_V2 = Genotype(recurrent=[('sigmoid', 0), ('relu', 1), ('relu', 1), ('identity', 1), ('tanh', 2), "
PUBLISHED += "('sigmoid', 5), ('tanh', 3), ('relu', 5)], concat=range(1, 9))"


def test_genotypes_are_written_as_they_are_read() -> None:
    reading = DARTS_RNN.read(PUBLISHED)
    assert reading.read_as == ""
    assert f"DARTS_V2 = {DARTS_RNN.notation(reading.sample)}" == PUBLISHED
    assert DARTS_RNN.read(str(reading.sample)).sample == reading.sample
    assert DARTS_RNN.size == 2_642_411_520
    some = make_recurrent_genotype([("relu", 0), ("tanh", 1), ("relu", 1)], [3, 1])
    assert genotype_of(DARTS_RNN.read(str(some)).sample) == some
    edges = [(edge.source, edge.target, edge.operation) for edge in DARTS_RNN.cells(reading.sample)["recurrent"]]
    assert edges[:2] + edges[8:] == [(0, 1, "sigmoid"), (1, 2, "relu"), *((node, 9, "concat") for node in range(1, 9))]
    assert DARTS_RNN.read("darts-v2").sample == reading.sample
    assert {read_architecture(name)[0].name for name in DARTS_RNN.published} == {"darts-reference", "darts-rnn"}
    named = [genotype_of(DARTS_RNN.read(name).sample) for name in DARTS_RNN.published]
    assert [len(genotype.recurrent) for genotype in named] == [11, 8, 8]
    assert named[0].concat == (2, 5, 6, 9, 10, 11)
    long = make_recurrent_genotype([("relu", 0)] * 60)
    assert genotype_of(DARTS_RNN.read(str(long)).sample) == long


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Genotype(recurrent=[('rel', 0)], concat=[1])", "node 1: unknown activation 'rel'.*did you mean 'relu'"),
        ("Genotype(recurrent=[('relu', 1)], concat=[1])", "node 1: its input is one of the states 0 to 0, not 1"),
        ("Genotype(recurrent=[('relu', 0)], concat=[2])", "can join the states 1 to 1, not"),
        ("Genotype(recurrent=[('relu', 0)], cat=[2])", "and no 'cat'"),
        ("Genotype(recurrent=[], concat=[2])", "needs a pair"),
        ("{'recurrent/op_1_0': 'relu', 'recurrent/input_1_0': [0], 'recurrent/op_3_0': 'relu'}", "op_3_0.*no choice"),
        ("Genotype(normal=[])", "is no recurrent cell"),
        ("__import__('os')", "is no recurrent cell"),
    ],
)
def test_other_texts_are_no_recurrent_cells(text: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message) as refusal:
        DARTS_RNN.read(text)
    assert isinstance(refusal.value, BalenasError)
