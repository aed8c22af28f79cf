"""The YAML file of a search: read, overridden from the command line, validated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from balenas_plugin.bounded_yaml import MAX_BYTES, MAX_DEPTH, NOT_YAML, BoundedLoader, yaml_problem
from balenas_plugin.data import DataConfig
from balenas_plugin.diagnostics import DiagnosticsOptions
from balenas_plugin.errors import OptionError, quoted
from balenas_plugin.files import read_text
from balenas_plugin.search_spaces import DEFAULT_SPACE
from balenas_plugin.validation import MAX_FLOAT, require_keys, require_seed, require_whole, require_word

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MAX_THREADS = 1024  # torch cannot start many more
MAX_TOP = 10_000
DEFAULT_OPTIMIZER = {"name": "SGD", "lr": 0.025, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
DEFAULT_SCHEDULE = {"name": "cosine", "min_lr": 0.001}


class _Loader(BoundedLoader):
    """A loader that also reads 5e-4 as a number, as everybody expects (YAML 1.1 wants 5.0e-4)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass(frozen=True, kw_only=True)
class EvaluatorConfig:
    """How the supernet is trained.

    Args:
        epochs: passes over the weight half of the data, at least 1.
        optimizer: name of a class in `torch.optim` and its options.
        schedule: {"name": "cosine", "min_lr": ...} over all epochs, or {"name": "constant"}.
        logger: "csv", "tensorboard" or "none".
        trainer: any further option of Lightning's `Trainer`.
    """

    epochs: int = 15
    optimizer: Mapping[str, Any] = field(default_factory=lambda: dict(DEFAULT_OPTIMIZER))
    schedule: Mapping[str, Any] = field(default_factory=lambda: dict(DEFAULT_SCHEDULE))
    logger: str = "csv"
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_whole("evaluator.epochs", self.epochs, least=1)
        require_word("evaluator.logger", self.logger, ("csv", "tensorboard", "none"))
        require_named("evaluator.optimizer", self.optimizer)
        require_named("evaluator.schedule", self.schedule)
        require_word("evaluator.schedule.name", self.schedule["name"], ("cosine", "constant"))
        require_keys("evaluator.schedule", self.schedule, ("name", "min_lr"))
        min_lr = self.schedule.get("min_lr", 0)
        if isinstance(min_lr, bool) or not isinstance(min_lr, int | float) or not 0 <= min_lr <= MAX_FLOAT:
            raise OptionError(f"evaluator.schedule.min_lr must be a number of at least 0, got {quoted(min_lr)}")
        if self.schedule["name"] == "cosine":
            object.__setattr__(self, "schedule", {"min_lr": 0.0, **self.schedule})


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """A whole search.

    Args:
        name: of the run; its folder is runs/<name>.
        seed: of everything random.
        space: name of a model space and its options.
        data: which images.
        strategy: name of a one-shot strategy and its options.
        evaluator: how the supernet is trained.
        diagnostics: what is watched, and when to stop early.
        top_k: how many architectures architectures.json lists.
        threads: CPU threads of torch; None leaves torch's own choice. Small networks run best with one, and the last
            digits of a result depend on it.
    """

    name: str
    seed: int = 0
    space: Mapping[str, Any] = field(default_factory=lambda: {"name": DEFAULT_SPACE})
    data: DataConfig = field(default_factory=DataConfig)
    strategy: Mapping[str, Any] = field(default_factory=lambda: {"name": "BaLeNAS"})
    evaluator: EvaluatorConfig = field(default_factory=EvaluatorConfig)
    diagnostics: DiagnosticsOptions = field(default_factory=DiagnosticsOptions)
    top_k: int = 10
    threads: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise OptionError(
                f"name must be letters, digits, '.', '_' or '-' (it names a folder), got {quoted(self.name)}"
            )
        require_seed("seed", self.seed)
        require_whole("top_k", self.top_k, least=1, most=MAX_TOP)
        if self.threads is not None:
            require_whole("threads", self.threads, least=1, most=MAX_THREADS)
        require_named("space", self.space)
        require_named("strategy", self.strategy)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, with every default filled in, from which `from_dict` makes an equal config."""
        return {
            **{f.name: getattr(self, f.name) for f in fields(self)},
            "space": dict(self.space),
            "strategy": dict(self.strategy),
            "data": asdict(self.data),
            "diagnostics": asdict(self.diagnostics),
            "evaluator": {
                **{
                    k: dict(v) if isinstance(v, Mapping) else v
                    for k, v in vars(self.evaluator).items()
                    if k != "trainer"
                },
                **self.evaluator.trainer,
            },
        }

    def to_yaml(self) -> str:
        """Return the resolved config as YAML."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> SearchConfig:
        """Validate a document and fill in defaults; `evaluator` keys that are not its own are trainer options.

        Raises:
            OptionError: a key is unknown (the nearest valid one is named) or a value is of a wrong type or range.
        """
        known = tuple(f.name for f in fields(cls))
        require_keys("the config", document, known)
        values = dict(document)
        for section, default in (("space", {"name": DEFAULT_SPACE}), ("strategy", {"name": "BaLeNAS"})):
            if section in values:
                values[section] = named(values[section], default)
        for section in ("data", "evaluator"):
            if section in values and not isinstance(values[section], Mapping):
                raise OptionError(f"{section} must be a mapping of options, got {quoted(values[section])}")
        if "data" in values:
            require_keys("data", values["data"], tuple(f.name for f in fields(DataConfig)))
            values["data"] = DataConfig(**values["data"])
        if "diagnostics" in values:
            values["diagnostics"] = DiagnosticsOptions.of(values["diagnostics"])
        if "evaluator" in values:
            own = tuple(f.name for f in fields(EvaluatorConfig) if f.name != "trainer")
            given = dict(values["evaluator"])
            mine = {key: given.pop(key) for key in own if key in given}
            for key, default in (("optimizer", DEFAULT_OPTIMIZER), ("schedule", DEFAULT_SCHEDULE)):
                if key in mine:
                    mine[key] = named(mine[key], default)
            values["evaluator"] = EvaluatorConfig(**mine, trainer=given)
        return cls(**values)


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
        raise OptionError(f"--set wants KEY=VALUE, e.g. evaluator.epochs=5, got {quoted(override)}")
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


def named(given: Any, default: Mapping[str, Any]) -> Any:
    """Return `given` with its shorthands written out: a text is a name; options without a name add to the default's."""
    if isinstance(given, str):
        return {"name": given}
    if isinstance(given, Mapping) and "name" not in given:
        return {**default, **given}
    return given


def require_named(where: str, given: object) -> None:
    """Raise OptionError unless `given` is a mapping with a name."""
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise OptionError(f"{where} must be a mapping with a name, e.g. {{name: ...}}, got {quoted(given)}")


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
