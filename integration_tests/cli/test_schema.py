"""The JSON schema of configs: what the command prints is what is shipped, and it says what a search says."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from balenas_plugin.cli import main
from balenas_plugin.config import load_config, read_yaml
from balenas_plugin.training import list_recipes

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "configs" / "schema.json"
POINTS_TO_IT = re.compile(r"# yaml-language-server: \$schema=(\S+)")


ANEW = "make it anew: balenas schema > configs/schema.json"
OF_OTHERS = ("EvaluatorConfig", "optimizer.", "space.", "strategy.nni.")
"""How definitions begin that hold options of Lightning, torch and NNI."""


def own_definitions(document: dict[str, Any]) -> dict[str, Any]:
    return {name: options for name, options in document["$defs"].items() if not name.startswith(OF_OTHERS)}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json.loads(SHIPPED.read_text())


def test_the_shipped_schema_is_what_the_command_prints(
    schema: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """All of it under the versions that it was made with; under others, what is this package's own."""
    assert main(["schema"]) == 0
    printed = capsys.readouterr().out
    assert own_definitions(json.loads(printed)) == own_definitions(schema), ANEW
    made_with = dict(re.findall(r"(\S+) (\d[\w.+]*)", schema["$comment"]))
    if all(version(package) == number for package, number in made_with.items()):
        assert printed == SHIPPED.read_text(), ANEW


CONFIGS = [path for path in (ROOT / "configs").rglob("*.yml") if POINTS_TO_IT.match(path.read_text())]


def test_a_shipped_config_points_to_the_schema_and_fits_it() -> None:
    recipes = {path.name for path in CONFIGS if path.parent.name == "recipes"}
    assert {path.name for path in CONFIGS} - recipes == {"quickstart.yml", "nb201_search.yml", "rnn.yml"}
    assert recipes == {f"{name}.yml" for name in list_recipes()}
    for path in CONFIGS:
        found = POINTS_TO_IT.match(path.read_text())
        assert found
        own = json.loads((path.parent / found[1]).read_text())
        Draft202012Validator.check_schema(own)
        assert list(Draft202012Validator(own).iter_errors(read_yaml(path))) == []


def test_the_shipped_schema_of_recipes_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "recipe"]) == 0
    shipped, printed = (
        json.loads((ROOT / "configs/recipes/schema.json").read_text()),
        json.loads(capsys.readouterr().out),
    )
    assert own_definitions(printed) == own_definitions(shipped), ANEW.replace("schema >", "schema recipe >")
    assert printed["properties"].keys() == shipped["properties"].keys()
    assert not Draft202012Validator(printed).is_valid({"epoch": 3})
    assert not Draft202012Validator(printed).is_valid({"schedule": {"name": "cosin"}})


def test_a_resolved_config_fits_it(schema: dict[str, Any], tmp_path: Path) -> None:
    """As a run's folder holds it, and as former versions have written it."""
    (tmp_path / "x.yml").write_text("strategy: {selection: {n: 3}, betas: [0.5, 0.9]}")
    document = yaml.safe_load(load_config(tmp_path / "x.yml").to_yaml())
    Draft202012Validator(schema).validate(document)


FIT = (
    "{}",
    "strategy: DARTS",
    "strategy: {order: second}",
    "strategy: ENAS",
    "strategy: {name: DistributionStrategy, distribution: dirichlet, anchor: kl}",
    "strategy: {selection: synflow}",
    "strategy: {perturbation: sdarts-rs}",
    "strategy: {name: DrNAS, perturbation: {name: sdarts-adv, steps: 3}}",
    "strategy: {name: BaLeNAS, mixed_op: {name: partial-channels, k: 2}}",
    "space: 'my_module:Space'",
    "space: {name: 'my_module:Space', width: 1}",
    "evaluator: {devices: 2, precision: bf16-mixed, optimizer: {lr: 0.1}, schedule: constant}",
    "diagnostics: false",
)

FIT_NOT = (
    "sed: 1",
    "name: a/b",
    "data: {limt: 1}",
    "data: {limit: 1}",
    "strategy: BaLeNES",
    "strategy: {anchor: l2}",
    "strategy: {name: DrNAS, anchr: l2}",
    "strategy: {name: DistributionStrategy}",
    "strategy: {selection: synflo}",
    "strategy: {perturbation: {name: sdarts-rs, steps: 3}}",
    "strategy: {mixed_op: {name: merged-convolutions, k: 2}}",
    "space: NasBench2O1",
    "space: {stem_channels: 3}",
    "evaluator: {epoch: 1}",
    "evaluator: {optimizer: {lrr: 1}}",
    "evaluator: {schedule: cosin}",
    "diagnostics: {draws: true}",
)


@pytest.mark.parametrize(("text", "fits"), [*((text, True) for text in FIT), *((text, False) for text in FIT_NOT)])
def test_what_fits_it(text: str, fits: bool, schema: dict[str, Any]) -> None:
    assert Draft202012Validator(schema).is_valid(yaml.safe_load(text)) is fits


def test_every_option_of_ours_is_described(schema: dict[str, Any]) -> None:
    foreign = ("optimizer.", "space.", "strategy.nni.")
    options = {"": schema, **{key: part for key, part in schema["$defs"].items() if not key.startswith(foreign)}}
    assert [
        f"{key}.{name}"
        for key, part in options.items()
        for name, option in part.get("properties", {}).items()
        if not {"description", "$ref"} & option.keys() and name not in ("name", "distribution")
    ] == []


def test_the_docs_have_every_option(schema: dict[str, Any]) -> None:
    """The reference lists each class of options, which mkdocstrings writes out; the guide has no others."""
    listed = (ROOT / "docs" / "api.md").read_text()
    ours = [part["title"] for part in (schema, *schema["$defs"].values()) if "title" in part]
    assert {"SearchConfig", "DataConfig", "Schedule", "DiagnosticsOptions", "ProxySelection"} <= {*ours}
    assert [name for name in ours if name not in listed] == []
    guide = (ROOT / "docs" / "hyperparameters.md").read_text()
    named = {word for heading in re.findall(r"^## .*", guide, re.MULTILINE) for word in re.findall(r"`(\w+)`", heading)}
    assert named <= schema["$defs"]["strategy.BaLeNAS"]["properties"].keys()
