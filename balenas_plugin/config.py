"""The YAML file of a search: read, overridden from the command line, validated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, GetJsonSchemaHandler
from pydantic_core import core_schema

from balenas_plugin.bounded_yaml import MAX_BYTES, MAX_DEPTH, NOT_YAML, BoundedLoader, yaml_problem
from balenas_plugin.data import DataConfig
from balenas_plugin.data.sources import SOURCES
from balenas_plugin.data.text import TextConfig
from balenas_plugin.data.text.text_sources import TEXTS
from balenas_plugin.diagnostics.diagnostics_options import DiagnosticsOptions, DiagnosticsSection
from balenas_plugin.errors import OptionError, nearest, quoted
from balenas_plugin.files import read_text
from balenas_plugin.options import NonNegative, PositiveInt, Schema, Seed, declared_options, read_options
from balenas_plugin.search_spaces import DEFAULT_SPACE, LANGUAGE_MODELLING

DEFAULT_OPTIMIZER = {"name": "SGD", "lr": 0.025, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}


class _Loader(BoundedLoader):
    """A loader that also reads 5e-4 as a number, as everybody expects (YAML 1.1 expects 5.0e-4)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass(frozen=True, eq=False)
class Part:
    """For `Annotated[Mapping[str, Any], Part(default)]`: the name of something, and its options.

    A text is a name without options; options without a name add to those of the default.
    """

    default: Mapping[str, Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return core_schema.no_info_plain_validator_function(self._read)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> Schema:
        options = {"type": "object", "properties": {"name": {"type": "string"}}}
        message = "a mapping with a name, e.g. {name: ...}"
        return {"anyOf": [{"type": "string"}, options], "errorMessage": message, "default_name": self.default["name"]}

    def _read(self, given: Any) -> dict[str, Any]:
        if isinstance(given, Mapping):
            given = {**given} if "name" in given else {**self.default, **given}
        whole = {"name": given} if isinstance(given, str) else given
        if not isinstance(whole, Mapping) or not isinstance(whole["name"], str):
            raise ValueError
        return dict(whole)


@declared_options("evaluator.schedule")
@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the learning rate of the weights falls over the epochs.

    Args:
        name: "cosine", or "constant" for none.
        min_lr: where "cosine" ends.
    """

    name: Literal["cosine", "constant"] = "cosine"
    min_lr: NonNegative = 0.0


_Space = Annotated[Mapping[str, Any], Part({"name": DEFAULT_SPACE})]
_Strategy = Annotated[Mapping[str, Any], Part({"name": "BaLeNAS"})]
_Optimizer = Annotated[Mapping[str, Any], Part(DEFAULT_OPTIMIZER)]
_Schedule = Annotated[
    Schedule,
    BeforeValidator(
        lambda given: {"name": given} if isinstance(given, str) else given,
        json_schema_input_type=Literal["cosine", "constant"] | Schedule,
    ),
]


@declared_options("evaluator")
@dataclass(frozen=True, kw_only=True)
class EvaluatorConfig:
    """How the supernet is trained.

    Args:
        epochs: passes over the weight half of the data, at least 1.
        optimizer: name of a class in `torch.optim` and its options.
        schedule: {"name": "cosine", "min_lr": ...} over all epochs, or {"name": "constant"}.
        logger: "csv", "tensorboard" or "none".
        trainer: any further option of Lightning's `Trainer`; in a file they stand beside the others.
    """

    epochs: PositiveInt = 15
    optimizer: _Optimizer = field(default_factory=lambda: dict(DEFAULT_OPTIMIZER))
    schedule: _Schedule = field(default_factory=lambda: Schedule(min_lr=0.001))
    logger: Literal["csv", "tensorboard", "none"] = "csv"
    trainer: Mapping[str, Any] = field(default_factory=dict)


def _evaluator(given: Any) -> Any:
    """Return the evaluator's section of a file with what is not the section's own as options of the trainer."""
    if not isinstance(given, Mapping):
        return given
    own = {field.name for field in fields(EvaluatorConfig)} - {"trainer"}
    trainer = {key: value for key, value in given.items() if key not in own}
    return {**{key: value for key, value in given.items() if key in own}, "trainer": trainer}


@declared_options("train")
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What is trained when the search has ended, in the sizes of the search.

    Args:
        recipe: of `balenas train`: a name (`balenas recipes`), or the path of a YAML file.
        options: of the recipe, in the place of its own.
        random: how many random architectures of the same space are trained as the winner is, to compare it with.
    """

    recipe: str = "small"
    options: Mapping[str, Any] = field(default_factory=dict)
    random: Annotated[int, Field(ge=0, le=1000)] = 5


_Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        json_schema_extra={"errorMessage": "letters, digits, '.', '_' or '-' (it names a folder)"},
    ),
]
_Evaluator = Annotated[EvaluatorConfig, BeforeValidator(_evaluator)]

DATA: Mapping[str, type[DataConfig] | type[TextConfig]] = dict.fromkeys(SOURCES, DataConfig) | dict.fromkeys(
    TEXTS, TextConfig
)
"""Name of a data set -> its options."""


def _data(given: Any) -> Any:
    """Return the section `data` of a file as options of images or of a text, as its name says."""
    if not isinstance(given, Mapping):
        return given
    name = given.get("name", DataConfig.name)
    if isinstance(name, str) and name not in DATA:
        raise OptionError(f"data.name must be one of {', '.join(DATA)}, got {quoted(name)}{nearest(name, DATA)}")
    return read_options(DATA.get(name, DataConfig) if isinstance(name, str) else DataConfig, given)


_Data = Annotated[DataConfig | TextConfig, BeforeValidator(_data)]


@declared_options(called="the config")
@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """A whole search.

    Args:
        name: of the run; its folder is runs/<name>.
        seed: of everything random.
        space: name of a model space and its options.
        data: which images, or which text.
        strategy: name of a one-shot strategy and its options.
        evaluator: how the supernet is trained.
        diagnostics: what is watched, and when to stop early.
        train: what is trained when the search has ended; None: nothing.
        top_k: how many architectures architectures.json lists.
        threads: CPU threads of torch; None: one, or one a core, whichever makes the first iterations faster. The last
            digits of a result depend on it.
    """

    name: _Name
    seed: Seed = 0
    space: _Space = field(default_factory=lambda: {"name": DEFAULT_SPACE})
    data: _Data = field(default_factory=DataConfig)
    strategy: Annotated[Mapping[str, Any], Part({"name": "BaLeNAS"})] = field(
        default_factory=lambda: {"name": "BaLeNAS"}
    )
    evaluator: _Evaluator = field(default_factory=EvaluatorConfig)
    diagnostics: DiagnosticsSection = field(default_factory=DiagnosticsOptions)
    train: TrainConfig | None = None
    top_k: Annotated[int, Field(ge=1, le=10_000)] = 10
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None  # torch cannot start many more

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, with every default filled in, from which `from_dict` makes an equal config."""
        whole = asdict(self)
        whole["evaluator"] |= whole["evaluator"].pop("trainer")
        return whole

    def to_yaml(self) -> str:
        """Return the resolved config as YAML."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def images(self, what: str) -> DataConfig:
        """Return the images that are searched on.

        Args:
            what: needs them, as the beginning of the message.

        Raises:
            OptionError: the search is on a text.
        """
        if isinstance(self.data, DataConfig):
            return self.data
        raise OptionError(f"{what} needs a search on images, and this one is for {LANGUAGE_MODELLING}")

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> SearchConfig:
        """Validate a document and fill in defaults; `evaluator` keys that are not its own are trainer options.

        Raises:
            OptionError: a key is unknown (the nearest valid one is named) or a value is of a wrong type or range.
        """
        return read_options(cls, document)


def load_config(
    path: Path, overrides: Iterable[str] = (), *, seed: int | None = None, name: str | None = None
) -> SearchConfig:
    """Read a YAML file and apply overrides.

    Args:
        path: the file; its stem is the default `name`.
        overrides: "a.b=value" with the value in YAML, the later winning.
        seed: in the place of the file's.
        name: in the place of the file's.

    Raises:
        OptionError: the file is missing or not YAML, or the config is invalid.
    """
    document = read_yaml(path)
    document.setdefault("name", path.stem)
    for override in overrides:
        apply_override(document, override)
    if seed is not None:
        document["seed"] = seed
    if name is not None:
        document["name"] = name
    return SearchConfig.from_dict(document)


def read_yaml(path: Path, keys: Sequence[str] = ("space", "data", "strategy", "evaluator")) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; an error names the `keys` of such files.

    Raises:
        OptionError: the file is missing, not YAML or no mapping.
    """
    try:
        document = yaml.load(read_text(path, most=MAX_BYTES), Loader=_Loader)  # a SafeLoader
    except OSError as error:
        raise OptionError(f"cannot read the config {path}: {error.strerror or error}") from error
    except NOT_YAML as error:
        raise OptionError(f"{path} is not valid YAML: {yaml_problem(error)}") from error
    if not isinstance(document, dict):
        raise OptionError(f"{path} must hold a mapping with the keys {', '.join(keys)}; see configs/")
    return document


def apply_override(document: dict[str, Any], override: str) -> None:
    """Set one "a.b=value" in a nested document.

    Raises:
        OptionError: the override has no "=", or goes through a value that is not a mapping.
    """
    key, equals, text = override.partition("=")
    *path, last = key.strip().split(".")
    if not equals or not key.strip() or len(path) >= MAX_DEPTH or len(override) > MAX_BYTES:
        raise OptionError(f"--set expects KEY=VALUE, e.g. evaluator.epochs=5, got {quoted(override)}")
    target = document
    for part in path:
        if isinstance(target.get(part), str):
            target[part] = {"name": target[part]}
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            raise OptionError(f"--set {quoted(override)}: {part!r} holds a value, not a mapping")
    try:
        target[last] = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except NOT_YAML as error:
        raise OptionError(f"--set {quoted(override)}: the value is not valid YAML: {yaml_problem(error)}") from error


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return where two configs of plain values differ, in words; nothing if they are equal."""
    found = list(_differences(before, now))
    more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
    return "; ".join(found[:5]) + more


def _differences(before: Any, now: Any, where: str = "") -> Any:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(set(before) | set(now), key=str):
            yield from _differences(before.get(key), now.get(key), f"{where}.{key}" if where else str(key))
    elif before != now:
        yield f"{where} was {quoted(before)}, is {quoted(now)}"
