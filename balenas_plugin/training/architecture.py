"""Find out what is to be trained: a notation, a run's folder, a file of `balenas export`, or a function."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.config import SearchConfig
from balenas_plugin.data import DataConfig
from balenas_plugin.data.text import TextConfig, TrainingTexts
from balenas_plugin.errors import FileFormatError, OptionError, SpaceError, first_line, nearest
from balenas_plugin.files import read_text
from balenas_plugin.ground_truth import require_benchmark
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.search_spaces import SearchSpace, find_space, read_architecture, space_of_notation
from balenas_plugin.training.recipe import Recipe
from balenas_plugin.training.training_data import TrainingData

Data = TrainingData | TrainingTexts
Build = Callable[[Recipe, Data | None], nn.Module]
"""Makes the network, with weights from torch's global generator."""

_SEARCHED = "balenas_plugin.training.searched"
"""Needs NNI: it is imported for runs of spaces that only NNI can build, and for the weights of a supernet."""


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """Something that can be trained.

    Attributes:
        title: its notation, or what else it is called.
        build: makes the network.
        inherited: makes it with the weights of the supernet, or of an exported file; None where there are none.
        data: that it was searched on.
        space: that it is of; None where that is not known.
        choices: of the space; None where they are not known.
    """

    title: str
    build: Build
    inherited: Build | None = None
    data: DataConfig | TextConfig | None = None
    space: SearchSpace | None = None
    choices: Architecture | None = None


def find_architecture(given: str | Path | Callable[[], nn.Module], *, rank: int = 1) -> Trainable:
    """Return what a user means by an architecture.

    Args:
        given: the folder of a run, a file of `balenas export` (.json, or a stand-alone .py, which is run), an
            architecture in a notation of any search space, or a function without arguments that makes a network.
        rank: which of the architectures of a run or of a .json file.

    Raises:
        OptionError: there is no such rank.
        SpaceError: the text is no architecture.
        FileFormatError: a file is not what it should be.
    """
    if callable(given):
        name = getattr(given, "__qualname__", type(given).__name__)
        return Trainable(title=name, build=lambda recipe, data: given())
    path = Path(given)
    text = str(given)
    if isinstance(given, Path) or os.path.exists(text):  # noqa: PTH110 - pathlib's raises where a name is too long
        if path.is_dir():
            return _of_run(RunFolder(path), rank)
        if path.suffix == ".py":
            return _of_module(path)
        return _of_records(path, rank)
    missing = ""
    if re.fullmatch(r"[^|()\[\]{},;:~]{1,200}", text) and not text.isdecimal():
        beside = [str(each) for each in path.parent.iterdir()] if path.parent.is_dir() else []
        missing = f"there is no folder or file {text}{nearest(text, beside)}"
        if re.search(r"/|\.(json|py|yml)$", text):
            raise OptionError(missing)
    try:
        space, reading = read_architecture(text)
    except SpaceError as error:
        raise SpaceError(f"{missing} As an architecture: {error}" if missing else str(error)) from error
    sample = reading.sample
    if sample is None:
        sample = space.read(str(require_benchmark(space).architecture(reading.index or 0))).sample
        assert sample is not None
    return _of_space(space, sample)


def _of_space(space: SearchSpace, architecture: Architecture) -> Trainable:
    def build(recipe: Recipe, data: Data | None) -> nn.Module:
        return sized_space(space, recipe, data).training_network(
            architecture,
            auxiliary=recipe.auxiliary > 0,
            auxiliary_last_norm=recipe.auxiliary_last_norm,
            drop_path=recipe.drop_path,
        )

    title = space.notation(architecture) or json.dumps(architecture)
    return Trainable(title=title, build=build, space=space, choices=architecture)


def sized_space(space: SearchSpace, recipe: Recipe, data: Data | None) -> SearchSpace:
    """Return a space in the sizes of a recipe, of those that its networks have, for the classes and images of data."""
    of_text = {} if recipe.text is None else asdict(recipe.text)
    fixed = {} if data is None else data.sizes
    given = {name: size for name, size in {**recipe.network.given, **of_text}.items() if name in space.sizes()}
    return space.sized(**{**given, **fixed})


def _of_run(folder: RunFolder, rank: int) -> Trainable:
    config = folder.read_config()
    choices = _ranked(folder.read_architectures(), rank, folder.architectures)["choices"]

    def inherited(recipe: Recipe, data: Data | None) -> nn.Module:
        network: nn.Module = import_module(_SEARCHED).inherited_network(folder, choices, data)
        return network

    return replace(searched_architecture(config, choices), inherited=inherited)


def searched_architecture(config: SearchConfig, choices: Architecture) -> Trainable:
    """Return an architecture that a search has found, and its data: all of the images, or the text."""
    data = config.data if isinstance(config.data, TextConfig) else replace(config.data, limit=None)
    space = find_space(config.space["name"])

    def frozen(recipe: Recipe, data: Data | None) -> nn.Module:
        network: nn.Module = import_module(_SEARCHED).frozen_network(config, choices, data)
        return network

    if space is not None:
        return replace(_of_space(space, choices), data=data)
    return Trainable(title=json.dumps(choices), build=frozen, data=data)


def _of_records(path: Path, rank: int) -> Trainable:
    try:
        records = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise FileFormatError(
            f"{path} is neither the folder of a run nor a file of `balenas export` (.json or .py): {first_line(error)}"
        ) from error
    record = _ranked(records if isinstance(records, list) else [records], rank, path)
    space = space_of_notation(record.get("notation", {}))
    if not space.name:
        raise SpaceError(f"{path} names no space that this package can build: train the folder of the run instead")
    return _of_space(space, record["choices"])


def _ranked(records: list[Any], rank: int, path: Path) -> Mapping[str, Any]:
    try:
        found = {record["rank"]: record for record in records if isinstance(record["choices"], dict)}
    except (TypeError, KeyError) as error:
        raise FileFormatError(f"{path} does not list architectures as `balenas export` does") from error
    if rank not in found:
        raise OptionError(f"{path} has no architecture of rank {rank}: it has {len(found)} of them")
    record: Mapping[str, Any] = found[rank]
    return record


def _of_module(path: Path) -> Trainable:
    """Return the network of a stand-alone module; the user names the file, so it is run as `python FILE` would."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
        build, load = module.build, module.load
    except Exception as error:  # whatever the file stumbles over
        raise FileFormatError(
            f"{path} is no stand-alone module of `balenas export --format python`: {first_line(error)}"
        ) from error
    return Trainable(title=str(path), build=lambda recipe, data: build(), inherited=lambda recipe, data: load())
