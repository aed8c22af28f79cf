"""The JSON schemas of a search's config and of a recipe, by which editors complete and check them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from balenas_plugin.adapters.nni.run.build import (
    evaluator_options,
    hub_spaces,
    space_class,
    space_options,
)
from balenas_plugin.adapters.nni.strategies.nni_strategies import full_name, list_strategies, strategy_options
from balenas_plugin.adapters.nni.strategies.strategy import DistributionStrategy
from balenas_plugin.config import SearchConfig
from balenas_plugin.distributions import list_distributions
from balenas_plugin.options import Schema, json_schema
from balenas_plugin.search_spaces import SPACES
from balenas_plugin.training.optimizers import optimizer_options, optimizers
from balenas_plugin.training.recipe import Recipe

Member = tuple[Mapping[str, list[str]], type[Any]]
"""What a section that has a name can be: its name, or names, and what else says it; and its options."""

MADE_WITH = ("nni", "pytorch-lightning", "torch")
"""Packages whose options a config can give, so that the schema depends on their versions."""

_OWN_SPACE = {"type": "string", "pattern": "^[^:]+:[^:]+$", "description": "a space of your own: module:Class"}


def config_schema() -> Schema:
    """Return the schema; sections that have a name are described for every name."""
    schema = json_schema(SearchConfig)
    sections, shared = schema["properties"], schema["$defs"]
    shared["EvaluatorConfig"] = evaluator = _own_part(evaluator_options(), shared)
    _describe(evaluator["properties"], "optimizer", _optimizers("evaluator.optimizer"), shared)
    _describe(sections, "strategy", _strategies(), shared)
    _describe(sections, "space", _spaces(), shared)
    own_space = {"type": "object", "properties": {"name": _OWN_SPACE}, "required": ["name"]}
    sections["space"]["anyOf"] += [_OWN_SPACE, own_space]
    del schema["required"]  # a config without a name is called as its file is
    return _headed("schema", schema)


def recipe_schema() -> Schema:
    """Return the schema of the recipes of `balenas train`."""
    schema = json_schema(Recipe)
    sections, shared = schema["properties"], schema["$defs"]
    _describe(sections, "optimizer", _optimizers("optimizer"), shared)
    sections["base"] = {"type": "string", "description": "recipe whose options are taken where none are given here"}
    return _headed("schema recipe", schema)


def _headed(command: str, schema: Schema) -> Schema:
    made_with = ", ".join(f"{package} {version(package)}" for package in MADE_WITH)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"made by `balenas {command}` with {made_with}",
        **schema,
    }


def _describe(sections: dict[str, Any], section: str, members: Iterator[Member], shared: dict[str, Any]) -> None:
    """Put all that a section can be in the place of its schema; `shared` gets the definitions."""
    default = sections[section].pop("default_name")
    del sections[section]["errorMessage"]  # an editor would show it in the place of what is wrong within one of them
    names: list[str] = []
    forms: list[Schema] = []
    described: dict[str, str] = {}  # an option as JSON -> where it is written out
    for fixed, options in members:
        part = _own_part(options, shared)
        part["properties"] = {key: {"enum": values} for key, values in fixed.items()} | part["properties"]
        part["required"] = [key for key in fixed if default not in fixed["name"]] + part.get("required", [])
        key = ".".join([section, *(values[0] for values in fixed.values())])
        for name, option in part["properties"].items():
            first = described.setdefault(json.dumps(option), f"{key}/properties/{name}")
            if first != f"{key}/properties/{name}" and "description" in option:
                part["properties"][name] = {"$ref": f"#/$defs/{first}"}
        shared[key] = part
        names += [name for name in fixed["name"] if name not in names]
        forms.append({"$ref": f"#/$defs/{key}"})
    sections[section]["anyOf"] = [{"enum": names}, *forms]


def _own_part(options: type[Any], shared: dict[str, Any]) -> Schema:
    part = json_schema(options)
    shared |= part.pop("$defs", {})
    part.pop("title")
    return part


def _strategies() -> Iterator[Member]:
    for name in list_strategies():
        if name == DistributionStrategy.__name__:
            for distribution in list_distributions():
                yield {"name": [name], "distribution": [distribution]}, strategy_options(name, distribution)
        else:
            short = name.removeprefix("nni.")
            yield (
                {"name": list(dict.fromkeys([name, short] if full_name(short) == name else [name]))},
                strategy_options(name),
            )


def _optimizers(where: str) -> Iterator[Member]:
    return (({"name": [name]}, optimizer_options(optimizer, where)) for name, optimizer in optimizers().items())


def _spaces() -> Iterator[Member]:
    names: dict[type[Any], list[str]] = {}
    for name, supernet in [*hub_spaces().items(), *((space.name, space_class(space.name)) for space in SPACES.all)]:
        names.setdefault(supernet, []).append(name)
    return (({"name": called}, space_options(called[0], supernet)) for supernet, called in names.items())
