"""One-shot strategies by name: ours, and NNI's own, made to follow the seed and to refuse in one clear sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import nni.mutable.mutable
import numpy as np
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.differentiable import DartsLightningModule
from nni.nas.oneshot.pytorch.sampling import has_tianshou
from nni.nas.oneshot.pytorch.strategy import (  # nni.nas.strategy holds placeholders if it is imported after this
    DARTS,
    ENAS,
    GumbelDARTS,
    OneShotStrategy,
    Proxyless,
    RandomOneShot,
)

from balenas_plugin.adapters.nni.strategies.of_presets import strategy_class
from balenas_plugin.adapters.nni.strategies.strategy import DistributionStrategy
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters, supernet_modules
from balenas_plugin.errors import BalenasError, MissingDependencyError, OptionError, SpaceError, nearest, quoted
from balenas_plugin.options import MAX_FLOAT, default_options, given_options, signature_options
from balenas_plugin.presets import list_presets
from balenas_plugin.training.optimizers import construct

NNIS: dict[str, type[OneShotStrategy]] = {s.__name__: s for s in (DARTS, GumbelDARTS, Proxyless, RandomOneShot, ENAS)}
"""NNI's own one-shot strategies, which a config calls ``nni.DARTS`` and so on."""

_OWN = DistributionStrategy.__name__

_ENAS_DEFAULTS = {"reward_metric_name": "val_acc"}
"""What our evaluator needs other than NNI has it."""

_PYTHON_OBJECTS = ("mutation_hooks", "filter", "policy_fn", "penalty")
"""Options that take objects, which no config can hold."""


def list_strategies() -> list[str]:
    """Return the names of all strategies that a config can give."""
    return [*list_presets(), _OWN, *(f"nni.{name}" for name in NNIS)]


def full_name(name: str) -> str:
    """Return the name of a strategy; NNI's that no preset shadows may be called without ``nni.`` before them.

    Raises:
        OptionError: there is no such strategy.
    """
    known = list_strategies()
    if name not in known and f"nni.{name}" in known:
        return f"nni.{name}"
    if name not in known:
        raise OptionError(f"strategy {quoted(name)} is unknown{nearest(name, known)} Strategies: {', '.join(known)}")
    return name


def is_nnis(name: str) -> bool:
    """Return whether a strategy is one of NNI's own.

    Raises:
        OptionError: there is no such strategy.
    """
    return full_name(name).startswith("nni.")


def build_strategy(options: Mapping[str, Any]) -> OneShotStrategy:
    """Return a strategy by name: a preset of ours, `DistributionStrategy`, or one of NNI's own.

    Raises:
        OptionError: the name or an option is unknown or refused.
        MissingDependencyError: ENAS is asked for without tianshou.
    """
    name = full_name(options["name"])
    arguments = {key: value for key, value in options.items() if key != "name"}
    for key in arguments:
        if key in _PYTHON_OBJECTS and (key != "penalty" or is_nnis(name)):
            raise OptionError(
                f"strategy option {key!r} takes a Python object, so only a script can give it, not a config"
            )
    if not name.startswith("nni."):
        strategy = strategy_class(name)(**arguments)
        _refuse_clearly(strategy, name)
        return strategy
    return _build_nnis(name.removeprefix("nni."), arguments)


def _build_nnis(name: str, arguments: dict[str, Any]) -> OneShotStrategy:
    if name == "ENAS":
        if not has_tianshou:
            raise MissingDependencyError(
                "strategy nni.ENAS needs a package that is not installed: pip install 'tianshou<0.5'"
            )
        arguments = {**_ENAS_DEFAULTS, **arguments}
    strategy = construct(f"strategy nni.{name}", NNIS[name], given_options(_nnis_options(name), arguments))
    _require_sound(f"nni.{name}", arguments)
    nni.mutable.mutable.RandomState = _seeded_random_state
    _order_by_label(strategy)
    if name == "ENAS":
        _mark_batches(strategy)
    _refuse_clearly(strategy, f"nni.{name}")
    return strategy


def with_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a strategy's options with the defaults of all others that a config can give filled in.

    Raises:
        OptionError: there is no strategy of that name.
    """
    name = full_name(options["name"])
    defaults = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in default_options(strategy_options(name, options.get("distribution"))).items()
        if key not in _PYTHON_OBJECTS
    }
    if name == "nni.ENAS":
        defaults |= _ENAS_DEFAULTS
    return {**defaults, **options}


def strategy_options(name: str, distribution: Any = None) -> type[Any]:
    """Return the options class of a strategy: all that a config can give it.

    Args:
        name: in full.
        distribution: of the strategy that has none of its own.

    Raises:
        OptionError: there is no strategy, or distribution, of that name.
    """
    if name.startswith("nni."):
        return _nnis_options(name.removeprefix("nni."))
    return strategy_class(name).options_class(distribution)


def _nnis_options(name: str) -> type[Any]:
    without = ("model_space", "engine", *_PYTHON_OBJECTS)
    return signature_options(NNIS[name], "strategy", called=f"strategy nni.{name}", without=without)


def _require_sound(name: str, arguments: Mapping[str, Any]) -> None:
    if arguments.get("log_prob_every_n_step") == 0:
        raise OptionError("strategy.log_prob_every_n_step must be a whole number of at least 1, got 0")
    for key, value in arguments.items():
        if isinstance(value, int | float) and not 0 <= value <= MAX_FLOAT:  # NaN neither
            raise OptionError(f"strategy.{key} must be at least 0, got {quoted(value)}")


def _seeded_random_state() -> np.random.RandomState:
    """Return a generator seeded by NumPy's global one: NNI's own are seeded by the operating system (no resume)."""
    return np.random.RandomState(np.random.randint(2**32, dtype=np.uint32))


def _order_by_label(strategy: OneShotStrategy) -> None:
    """Give NNI's own differentiable strategies parameters in label order: theirs depends on addresses (no resume)."""
    configure = strategy.configure_oneshot_module

    def configured(training_module: Any) -> Any:
        module = configure(training_module)
        if isinstance(module, DartsLightningModule):
            module.arch_parameters = lambda: list(architecture_parameters(module).values())
        return module

    strategy.configure_oneshot_module = configured


class _Marked:
    """A loader whose batches come as (batch, mark)."""

    def __init__(self, loader: Any, mark: str) -> None:
        self.loader, self.mark = loader, mark

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Any, str]]:
        return ((batch, self.mark) for batch in self.loader)


def _mark_batches(strategy: OneShotStrategy) -> None:
    """Tell NNI's ENAS which loader a batch comes from: it reads that where only Lightning 2.0 had put it."""
    combine = strategy.train_dataloader

    def combined(train: Callable[[], Any], val: Callable[[], Any]) -> Any:
        return combine(lambda: _Marked(train(), "train"), lambda: _Marked(val(), "val"))

    strategy.train_dataloader = combined


def _refuse_clearly(strategy: OneShotStrategy, name: str) -> None:
    """Turn what NNI raises about a space or an option into an error of ours."""
    mutate, configure = strategy.mutate_model, strategy.configure_oneshot_module

    def mutated(model: ModelSpace) -> ModelSpace:
        try:
            supernet = mutate(model)
        except BalenasError:
            raise
        except (TypeError, ValueError, NotImplementedError) as error:
            raise SpaceError(f"strategy {name} cannot search {type(model).__name__}: {error}") from error
        if next(supernet_modules(supernet), None) is None:
            raise SpaceError(f"{type(model).__name__} has no choices, so there is nothing to search")
        return supernet

    def configured(training_module: Any) -> Any:
        try:
            return configure(training_module)
        except BalenasError:
            raise
        except (TypeError, ValueError, AssertionError) as error:
            raise OptionError(f"strategy {name} does not accept its options: {error}") from error

    strategy.mutate_model = mutated
    strategy.configure_oneshot_module = configured
