"""The YAML file of a search: what it can say, its shorthands, and what is refused before anything is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from balenas_plugin.cli import main
from balenas_plugin.cli.inputs import require_config
from balenas_plugin.config import SearchConfig, load_config
from balenas_plugin.errors import OptionError
from balenas_plugin.files import CONFIGS


def config_of(text: str, tmp_path: Path, *overrides: str, **options: Any) -> SearchConfig:
    path = tmp_path / "search.yml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides, **options)


def test_an_empty_mapping_is_a_whole_search(tmp_path: Path) -> None:
    config = config_of("{}", tmp_path)
    assert config.name == "search"  # the file's
    assert config.seed == 0
    assert config.space == {"name": "NasBench201"}
    assert config.strategy == {"name": "BaLeNAS"}
    assert config.data.name == "digits"
    assert config.evaluator.optimizer["name"] == "SGD"


def test_every_section_is_read(tmp_path: Path) -> None:
    text = """
name: mine
seed: 5
top_k: 4
threads: 2
space: {name: NasBench201, stem_out_channels: 4}
data: {name: digits, batch_size: 16}
strategy: {name: DARTS, arc_learning_rate: 1e-3}
evaluator:
  epochs: 7
  optimizer: {name: Adam, lr: 5e-4}
  schedule: {name: constant}
  logger: none
  precision: bf16-mixed
"""
    config = config_of(text, tmp_path)
    assert (config.name, config.seed, config.top_k, config.threads) == ("mine", 5, 4, 2)
    assert config.space["stem_out_channels"] == 4
    assert config.data.batch_size == 16
    assert config.strategy == {"name": "DARTS", "arc_learning_rate": 1e-3}  # a number, not the text that YAML 1.1 reads
    assert config.evaluator.epochs == 7
    assert config.evaluator.optimizer == {"name": "Adam", "lr": 5e-4}
    assert config.evaluator.trainer == {"precision": "bf16-mixed"}


def test_the_resolved_config_is_the_same_config(tmp_path: Path) -> None:
    config = config_of("{strategy: {betas: [0.5, 0.99]}, evaluator: {deterministic: true}, seed: 3}", tmp_path)
    assert SearchConfig.from_dict(yaml.safe_load(config.to_yaml())).to_dict() == config.to_dict()


def test_a_shipped_config_is_found_by_its_name_unless_a_file_is_called_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert require_config(Path("quickstart")) == CONFIGS / "quickstart.yml"
    assert load_config(require_config(Path("quickstart"))).name == "quickstart"
    Path("quickstart").write_text("{}")
    assert require_config(Path("quickstart")) == Path("quickstart")
    with pytest.raises(OptionError, match="cannot read the config quickstrt"):
        require_config(Path("quickstrt"))


def test_a_schedule_without_its_options_has_their_defaults(tmp_path: Path) -> None:
    config = config_of("evaluator: {schedule: cosine}", tmp_path)
    assert config.to_dict()["evaluator"]["schedule"] == {"name": "cosine", "min_lr": 0.0}
    assert config_of("evaluator: {schedule: constant}", tmp_path).evaluator.schedule.name == "constant"


def test_options_given_later_win(tmp_path: Path) -> None:
    config = config_of("seed: 1", tmp_path, "seed=2", "seed=3", "evaluator.epochs=4", "data.limit=null")
    assert config.seed == 3
    assert config.evaluator.epochs == 4
    assert config.data.limit is None
    assert config_of("seed: 1", tmp_path, "seed=2", seed=9).seed == 9


def test_a_name_alone_and_options_alone(tmp_path: Path) -> None:
    config = config_of("{space: NasBench101, strategy: DARTS, evaluator: {optimizer: Adam}}", tmp_path)
    assert config.space == {"name": "NasBench101"}
    assert config.strategy == {"name": "DARTS"}
    assert config.evaluator.optimizer == {"name": "Adam"}
    config = config_of("{}", tmp_path, "strategy.order=second", "evaluator.optimizer.lr=0.1")
    assert config.strategy == {"name": "BaLeNAS", "order": "second"}
    assert config.evaluator.optimizer["name"] == "SGD"
    assert config.evaluator.optimizer["lr"] == 0.1
    assert config.evaluator.optimizer["momentum"] == 0.9
    config = config_of("strategy: DARTS", tmp_path, "strategy.warmup_epochs=2")
    assert config.strategy == {"name": "DARTS", "warmup_epochs": 2}


def test_overriding_the_strategy_drops_the_options_of_the_former(tmp_path: Path) -> None:
    config = config_of("strategy: {name: BaLeNAS, num_mc_samples: 3}", tmp_path, "strategy=DARTS")
    assert config.strategy == {"name": "DARTS"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sed: 1", "did you mean 'seed'?"),
        ("SEED: 1", "did you mean 'seed'?"),
        ("data: {limits: 1}", "did you mean 'limit'?"),
        ("data: digits", "data must be a mapping"),
        ("evaluator: 3", "evaluator must be a mapping"),
        ("evaluator: {schedule: {min: 1}}", "did you mean 'min_lr'?"),
        ("evaluator: {schedule: {min_lr: low}}", "number of at least 0, got 'low'"),
        ("evaluator: {logger: csvv}", "did you mean 'csv'?"),
        ("evaluator: {epochs: 0}", "at least 1, got 0"),
        ("evaluator: {epochs: 2.5}", "at least 1, got 2.5"),
        ("evaluator: {epochs: true}", "at least 1, got True"),
        ("seed: -1", "at least 0, got -1"),
        ("seed: 4294967296", "at most 4294967295"),
        ("seed: abc", "whole number"),
        ("top_k: 0", "at least 1"),
        ("threads: 0", "at least 1"),
        ("threads: 1025", "at most 1024, got 1025"),
        ("name: 2024-02-30", "not valid YAML: day is out of range"),
        ("name: a/b", "it names a folder"),
        ("name: ..", "it names a folder"),
        ("space: [1]", "space must be a mapping with a name"),
        ("strategy: {name: 3}", "strategy must be a mapping with a name"),
        ("- a list", "must hold a mapping"),
        ("", "must hold a mapping"),
        ("seed: [1", "line 1, column"),
        ("a: b: c", "line 1, column 5"),
        ("seed: 1\n\tname: x", "line 2, column 1"),
        ("seed: !!python/object/apply:os.system ['touch executed']", "not valid YAML"),
    ],
)
def test_refused(text: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError) as raised:
        config_of(text, tmp_path)
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "expects KEY=VALUE"),
        ("=1", "expects KEY=VALUE"),
        ("seed=[1", "not valid YAML: line 1, column"),
        ("seed.a=1", "'seed' holds a value"),
        ("name=2024-02-30", "not valid YAML: day is out of range"),
        ("seed=0b_", "not valid YAML: invalid literal"),
    ],
)
def test_refused_override(override: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as raised:
        config_of("seed: 1", tmp_path, override)
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_command_line_prints_the_message_and_returns_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin1.yml").write_bytes("name: é".encode("latin-1"))
    (tmp_path / "broken.yml").write_text("seed: [1")
    for path, expected in {
        "missing.yml": "cannot read the config missing.yml: No such file or directory",
        str(tmp_path): "Is a directory",
        "latin1.yml": "not valid YAML",
        "broken.yml": "not valid YAML: line 1",
    }.items():
        assert main(["search", path]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("balenas: ")
        assert printed.err.count("\n") == 1
        assert expected in printed.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "COMMAND"),
        (["serch", "x.yml"], "invalid choice: 'serch'"),
        (["search"], "CONFIG.yml"),
        (["search", "x.yml", "--seed", "abc"], "invalid int value: 'abc'"),
        (["search", "x.yml", "--sed", "1"], "--sed"),
        (["search", "x.yml", "--resume", "--overwrite"], "not allowed with"),
    ],
)
def test_wrong_command_lines(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err


NINE_LINES = "\n".join(
    ["a0: &a0 [lol, lol]", *(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 10))]
)

HOSTILE = {
    "aliases that multiply": (NINE_LINES, "line 6, column 5: aliases"),
    "a list that holds itself": ("seed: &a [*a]", "line 1, column 7: aliases"),
    "long text, often": (f"a: &a {'x' * 1000}\nb: [{', '.join(['*a'] * 300)}]", "line 2, column 4: aliases"),
    "depth": ("seed: " + "[" * 100 + "]" * 100, "nested more than 30 levels deep"),
    "endless depth": ("[" * 50_000, "nested more than 30 levels deep"),
    "a key twice": ("seed: 1\nname: x\nseed: 2", "line 3, column 1: the key 'seed' is given twice"),
    "an option twice": ("data: {limit: 100, 'limit': 200}", "line 1, column 20: the key 'limit' is given twice"),
    "a huge number": ("seed: 0x" + "f" * 10_000, "line 1, column 7: a number of more than 100 characters"),
    "no text": ('name: "\\ud800"', "a character that no text has"),
    "no path": ('data: {name: folder, root: "a\\0b"}', "a character that no text has"),
    "no truth": ("seed: !!bool maybe", "is not valid YAML"),
    "no time": ("seed: !!timestamp soon", "is not valid YAML"),
    "no number": ('seed: !!int ""', "is not valid YAML"),
    "large": ("#" * 200_000, "larger than the 131072 bytes"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_yaml_that_nobody_would_write(case: str, tmp_path: Path) -> None:
    text, message = HOSTILE[case]
    with pytest.raises(OptionError) as reported:
        config_of(text, tmp_path)
    assert message in str(reported.value)
    assert len(str(reported.value)) < 700


def test_an_override_is_bounded_as_a_file_is(tmp_path: Path) -> None:
    for override in (f"a={'[' * 1000}", f"{'a.' * 1000}b=1", "space={name: A, name: B}", "seed=!!bool maybe"):
        with pytest.raises(OptionError) as reported:
            config_of("{}", tmp_path, override)
        assert len(str(reported.value)) < 700


def test_an_alias_may_be_used(tmp_path: Path) -> None:
    text = "strategy: &s {name: DARTS, warmup_epochs: 2}\nspace: {<<: *s, name: NasBench201}"
    assert config_of(text, tmp_path).space == {"name": "NasBench201", "warmup_epochs": 2}


def test_a_value_is_quoted_in_part(tmp_path: Path) -> None:
    for text in (f"name: '{'x' * 100_000}!'", f"top_k: [{', '.join(['1'] * 30_000)}]", f"seed: '{'y' * 100_000}'"):
        with pytest.raises(OptionError) as reported:
            config_of(text, tmp_path)
        assert len(str(reported.value)) < 700


@pytest.mark.parametrize("option", ["top_k", "threads", "data.num_workers", "data.image_size"])
def test_what_no_machine_can_do_is_refused(option: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="at most"):
        config_of("{}", tmp_path, f"{option}=100000")
