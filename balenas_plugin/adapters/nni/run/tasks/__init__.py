"""What a search is for: how its data are read, and what trains a supernet on them. A new task is a line here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from balenas_plugin.adapters.nni.run.tasks.classification import ClassificationModule, SupernetModule
from balenas_plugin.adapters.nni.run.tasks.image_loaders import search_loaders
from balenas_plugin.adapters.nni.run.tasks.language_model import LanguageModelModule, text_loaders
from balenas_plugin.config import DATA, SearchConfig
from balenas_plugin.data import DataConfig, load_search_data
from balenas_plugin.data.checking import check_files
from balenas_plugin.data.summary import summary
from balenas_plugin.data.text import TextConfig, TextData, load_text_data
from balenas_plugin.errors import OptionError
from balenas_plugin.search_spaces import IMAGE_CLASSIFICATION, LANGUAGE_MODELLING, find_space


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is done with the data of one kind.

    Attributes:
        name: as spaces call it (`SearchSpace.task`).
        options: of the data, the section `data` of a config.
        load: reads the data: ``load(options)``.
        examine: reads every file once and returns what a run's description says of them: ``examine(data, progress=)``.
        summary: returns title -> text of the data, for people.
        module: trains the supernet: ``module(make_optimizer=, schedule=, num_classes=)``.
        loaders: of the weights and of the architecture: ``loaders(options, data, seed=, device=, verbose=)``.
        named: name -> value for people, of what `module` has reported to NNI: ``named(metric)``.
    """

    name: str
    options: type[Any]
    load: Callable[..., Any]
    examine: Callable[..., dict[str, Any]]
    summary: Callable[[Any], Mapping[str, str]]
    module: type[SupernetModule]
    loaders: Callable[..., tuple[Any, Any]]
    named: Callable[[float], dict[str, float]]


_LARGEST_LOSS = 700.0
"""In nats, of which the perplexity is a number."""

TASKS = (
    Task(
        name=IMAGE_CLASSIFICATION,
        options=DataConfig,
        load=load_search_data,
        examine=lambda data, progress: check_files(data.weight_set, data.architecture_set, progress=progress),
        summary=summary,
        module=ClassificationModule,
        loaders=search_loaders,
        named=lambda accuracy: {"accuracy": accuracy},
    ),
    Task(
        name=LANGUAGE_MODELLING,
        options=TextConfig,
        load=load_text_data,
        examine=lambda data, progress: {},
        summary=TextData.summary,
        module=LanguageModelModule,
        loaders=text_loaders,
        named=lambda gain: {"perplexity": math.exp(-gain) if gain > -_LARGEST_LOSS else math.inf},
    ),
)


def task_of(config: SearchConfig) -> Task:
    """Return the task of a search, which its data tell.

    Raises:
        OptionError: its space is for another task.
    """
    task = next(task for task in TASKS if isinstance(config.data, task.options))
    space = find_space(config.space["name"])
    if space is not None and space.task != task.name:
        wanted = next((other.options for other in TASKS if other.name == space.task), None)
        names = ", ".join(name for name, options in DATA.items() if options is wanted)
        raise OptionError(
            f"the space {space.name} is for {space.task}, and data.name {config.data.name} is for {task.name}; take "
            f"one of {names}"
        )
    return task
