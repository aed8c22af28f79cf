"""The posterior over labelled logits, its file, and the exact enumeration of architectures."""

from __future__ import annotations

import itertools
import json
import math
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balenas_plugin.bayes.noise import SeededNoise
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.bayes.ranking import Listed, iterate_best_first
from balenas_plugin.errors import FileFormatError, SpaceError, StorageError


def example(dtype=torch.float32, reverse=False):
    mean = {"b": [0.1, 0.7, -0.2], "a": [1.0, 0.9]}
    precision = {"b": [1.0, 4.0, 2.0], "a": [9.0, 1.0]}
    choices = {"b": ["none", "skip", "conv"], "a": ["3", "5"]}
    labels = sorted(mean, reverse=reverse)
    return Posterior(
        {k: torch.tensor(mean[k], dtype=dtype) for k in labels},
        {k: torch.tensor(precision[k], dtype=dtype) for k in labels},
        choices,
    )


def test_draws_do_not_depend_on_the_order_of_labels():
    one, other = example(), example(reverse=True)
    assert one.labels == other.labels == ("a", "b")
    first, second = one.sample(SeededNoise(5)), other.sample(SeededNoise(5))
    assert list(first) == ["a", "b"]
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_draws_have_the_posterior_moments():
    posterior = example(torch.float64)
    draws = posterior.draws("b", 20_000)["b"]
    torch.testing.assert_close(draws.mean(0), posterior.mean["b"], atol=0.03, rtol=0)
    torch.testing.assert_close(draws.std(0), posterior.std["b"], atol=0.03, rtol=0)


def test_entropy_equals_torch_distributions():
    posterior = example(torch.float64)
    expected = sum(
        torch.distributions.Normal(posterior.mean[k], posterior.std[k]).entropy().sum().item() for k in posterior.labels
    )
    assert posterior.entropy() == pytest.approx(expected, rel=1e-12)


def test_log_probability_adds_up_to_one_over_all_architectures():
    posterior = example()
    total = sum(
        math.exp(posterior.log_probability(dict(zip(posterior.labels, combination, strict=True))))
        for combination in itertools.product(*posterior.choices.values())
    )
    assert total == pytest.approx(1.0, abs=1e-12)


def test_most_probable_equals_exhaustive_sorting():
    posterior = example()
    everything = sorted(
        (
            posterior.log_probability(dict(zip(posterior.labels, combination, strict=True)))
            for combination in itertools.product(*posterior.choices.values())
        ),
        reverse=True,
    )
    found = posterior.most_probable(100)
    assert [r.log_probability for r in found] == pytest.approx(everything)
    assert len({tuple(architecture.items()) for architecture in found}) == 6
    assert posterior.most_probable(2) == found[:2]


def test_win_probability_is_by_name_and_its_logarithm_never_underflows():
    posterior = Posterior({"a": torch.tensor([0.0, 60.0, 60.0])}, {"a": torch.ones(3)}, {"a": ["x", "y", "y"]})
    found = posterior.win_probability()["a"]
    assert list(found) == ["x", "y"]
    assert found == pytest.approx({"x": 0, "y": 1})
    assert found["x"].log() == pytest.approx(float(posterior.log_win_probability()["a"][0]), rel=1e-12)
    assert found["x"].log() < -800
    assert found[1] is found["y"]
    assert json.loads(json.dumps(found)) == found
    with pytest.raises(KeyError):
        found["z"]


def test_repr_is_short_however_many_labels_there_are():
    assert repr(example()) == "Posterior(2 labels, 5 choices, entropy 4.956 nats, largest means: a=3, b=skip)"
    many = Posterior(
        {f"label{k}": torch.zeros(5) for k in range(100)}, {f"label{k}": torch.ones(5) for k in range(100)}
    )
    assert len(repr(many)) < 250


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(-20, 0), min_size=1, max_size=4), min_size=1, max_size=4), st.integers(1, 40))
def test_best_first_equals_sorting(groups, k):
    named = {g: Listed(enumerate(values)) for g, values in enumerate(groups)}
    expected = sorted((sum(combination) for combination in itertools.product(*groups)), reverse=True)[:k]
    assert [r.log_probability for r in itertools.islice(iterate_best_first(named), k)] == pytest.approx(expected)


def test_enumeration_of_a_huge_space_is_immediate():
    groups = {label: Listed({choice: -0.1 * choice for choice in range(8)}) for label in range(100)}  # 8^100
    assert len(list(itertools.islice(iterate_best_first(groups), 500))) == 500


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_file_round_trip_is_exact(tmp_path, dtype):
    posterior = example(dtype)
    posterior.save(tmp_path / "posterior.json")
    loaded = Posterior.load(tmp_path / "posterior.json")
    assert loaded.choices == posterior.choices
    for label in posterior.labels:
        assert loaded.mean[label].dtype == dtype
        assert torch.equal(loaded.mean[label], posterior.mean[label])
        assert torch.equal(loaded.precision[label], posterior.precision[label])


HEAD = '{"format": "balenas-posterior", "version": 1, "dtype": "float32", "labels": '


def of_one(*, mean: str = "[0, 0]", precision: str = "[1, 1]") -> str:
    return f'{HEAD}{{"a": {{"choices": ["x", "y"], "mean": {mean}, "precision": {precision}}}}}}}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot read the posterior"),
        (b"\x80\x04\x95\xff\xfe", "cannot read the posterior"),
        ('{"format": "balenas-post', "cannot read the posterior"),
        ('{"something": "else"}', "is not a posterior of this package"),
        ("[1, 2]", "is not a posterior of this package"),
        ('"balenas-posterior"', "is not a posterior of this package"),
        ('{"format": "balenas-posterior", "version": 99}', "posterior version 99"),
        ('{"format": "balenas-posterior", "version": 1}', "is damaged"),
        ('{"format": "balenas-posterior", "version": 1, "dtype": "int8", "labels": {}}', "is damaged"),
        (HEAD + "{}}", r"posterior\.json"),
        (HEAD + "[1]}", "is damaged"),
        (HEAD + '{"a": 1}}', "is damaged"),
        (of_one(mean="[0, NaN]"), "finite"),
        (of_one(precision="[-1, 1]"), "positive"),
        (of_one(mean='["x", 0]'), "is damaged"),
        (of_one(mean="[{}, 0]"), "is damaged"),
        (of_one(mean=f"[1{'0' * 400}, 0]"), r"posterior\.json"),
    ],
)
def test_corrupt_and_foreign_files_are_refused(tmp_path, content, message):
    path = tmp_path / "posterior.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FileFormatError, match=message):
        Posterior.load(path)


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "posterior.json"
    example().save(path)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, len(whole) // 7):
        path.write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match=r"posterior\.json"):
            Posterior.load(path)


def test_failed_save_leaves_the_previous_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "posterior.json"
    example().save(path)
    before = path.read_text()

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(StorageError, match="No space left on device"):
        example(torch.float64).save(path)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["posterior.json"]


def test_mismatched_parts_are_refused():
    mean = {"a": torch.zeros(2)}
    with pytest.raises(SpaceError, match="same labels"):
        Posterior(mean, {"b": torch.ones(2)})
    with pytest.raises(SpaceError, match="one length"):
        Posterior(mean, {"a": torch.ones(3)})
    with pytest.raises(SpaceError, match="positive"):
        Posterior(mean, {"a": torch.zeros(2)})


def test_unknown_labels_and_choices_name_the_nearest():
    posterior = example()
    with pytest.raises(SpaceError, match=r"has no choice 'skp'.*did you mean 'skip'"):
        posterior.log_probability({"a": "3", "b": "skp"})
    with pytest.raises(SpaceError, match="'b' is missing"):
        posterior.log_probability({"a": "3"})


def test_saved_file_is_plain_json(tmp_path):
    example().save(tmp_path / "p.json")
    document = json.loads((tmp_path / "p.json").read_text())
    assert list(document["labels"]) == ["a", "b"]


def test_an_edited_file_is_noticed_and_one_made_by_hand_is_not(tmp_path):
    path = tmp_path / "posterior.json"
    example().save(path)
    document = json.loads(path.read_text())
    document["labels"]["a"]["mean"][0] = 0.5
    path.write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match="damaged: its content differs"):
        Posterior.load(path)
    del document["sha256"]
    path.write_text(json.dumps(document))
    assert Posterior.load(path).mean["a"][0] == 0.5


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "posterior.json")
    with pytest.raises(FileFormatError, match="not a regular file"):
        Posterior.load(tmp_path / "posterior.json")


def test_a_choice_among_nothing_is_refused():
    with pytest.raises(SpaceError, match="at least 1"):
        Posterior({"a": torch.zeros(0)}, {"a": torch.ones(0)}, {"a": []})
