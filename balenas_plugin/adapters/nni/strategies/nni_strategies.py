"""One-shot strategies by name: BaLeNAS, and NNI's own made to follow the seed and to refuse in one clear sentence."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
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

from balenas_plugin.adapters.nni.one_shot.distribution_module import DistributionModule
from balenas_plugin.adapters.nni.one_shot.memory_format import ChannelsLast
from balenas_plugin.adapters.nni.run.construct import construct
from balenas_plugin.adapters.nni.strategies.second_order_darts import SecondOrderDARTS
from balenas_plugin.adapters.nni.strategies.strategy import BaLeNAS
from balenas_plugin.adapters.nni.supernets.fused import fusing_hooks
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters, supernet_modules
from balenas_plugin.errors import BalenasError, MissingDependencyError, OptionError, SpaceError, nearest, quoted
from balenas_plugin.validation import MAX_FLOAT, require_flag, require_whole

STRATEGIES: dict[str, type[OneShotStrategy]] = {
    "BaLeNAS": BaLeNAS,
    "SecondOrderDARTS": SecondOrderDARTS,
    **{strategy.__name__: strategy for strategy in (DARTS, GumbelDARTS, Proxyless, RandomOneShot, ENAS)},
}

FUSIBLE = ("DARTS", "GumbelDARTS", "SecondOrderDARTS")
"""NNI's strategies whose supernet is a weighted sum, which is computed as fast as BaLeNAS's: equal to rounding.

A comparison of methods then compares the methods, not the kernels. ``fused: false, channels_last: false`` is NNI's own.
"""

_ENAS_DEFAULTS = {"reward_metric_name": "val_acc"}
"""What our evaluator needs other than NNI has it."""

_PYTHON_OBJECTS = ("mutation_hooks", "filter", "policy_fn", "penalty")
"""Options that take objects, which no config can hold."""


def build_strategy(options: Mapping[str, Any]) -> OneShotStrategy:
    """Return `BaLeNAS` or one of NNI's one-shot strategies by name.

    Raises:
        OptionError: the name or an option is unknown or refused.
        MissingDependencyError: ENAS is asked for without tianshou.
    """
    name = options["name"]
    if name not in STRATEGIES:
        raise OptionError(
            f"strategy {name!r} is unknown{nearest(name, STRATEGIES)} Strategies: {', '.join(STRATEGIES)}"
        )
    arguments = {key: value for key, value in options.items() if key != "name"}
    for key in arguments:
        if key in _PYTHON_OBJECTS:
            raise OptionError(
                f"strategy option {key!r} takes a Python object, so only a script can give it, not a config"
            )
    if name == "ENAS":
        if not has_tianshou:
            raise MissingDependencyError(
                "strategy ENAS needs a package that is not installed: pip install 'tianshou<0.5'"
            )
        arguments = {**_ENAS_DEFAULTS, **arguments}
    if name == "GumbelDARTS" and "temperature" in arguments:
        arguments["temperature"] = _temperature(arguments["temperature"])
    fused, channels_last = _acceleration(arguments) if name in FUSIBLE else (False, False)
    strategy = construct(
        f"strategy {name}", STRATEGIES[name], arguments, inherited=_inherited_options(STRATEGIES[name])
    )
    if fused:
        strategy.extra_mutation_hooks = fusing_hooks()
    if not isinstance(strategy, BaLeNAS):
        _require_sound(name, arguments)
        _keep_channels_last(strategy, channels_last)
        nni.mutable.mutable.RandomState = _seeded_random_state
        _order_by_label(strategy)
        if name == "ENAS":
            _mark_batches(strategy)
    _refuse_clearly(strategy, name)
    return strategy


def with_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a strategy's options with the defaults of all others that a config can give filled in.

    Raises:
        KeyError: there is no strategy of that name.
    """
    name = options["name"]
    defaults = {
        key: parameter.default
        for key, parameter in _inherited_options(STRATEGIES[name]).items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and parameter.default is not parameter.empty
    }
    if name in FUSIBLE:
        defaults |= {"fused": True, "channels_last": None}
    if name == "ENAS":
        defaults |= _ENAS_DEFAULTS
    return {"name": name, **defaults, **options}


def _acceleration(arguments: dict[str, Any]) -> tuple[bool, bool | None]:
    """Take `fused` and `channels_last` out of the options; they mean what they mean for `BaLeNAS`."""
    fused, channels_last = arguments.pop("fused", True), arguments.pop("channels_last", None)
    require_flag("fused", fused)
    if channels_last is not None:
        require_flag("channels_last", channels_last)
    return fused, channels_last


def _keep_channels_last(strategy: OneShotStrategy, given: bool | None) -> None:
    """Give the search module the callback that puts its images into channels-last memory."""
    configure = strategy.configure_oneshot_module

    def configured(training_module: Any) -> Any:
        module = configure(training_module)
        if isinstance(module, DistributionModule):  # it has the callback
            module.options = replace(module.options, channels_last=given)
            return module
        network, callbacks = module.training_module, module.configure_callbacks
        channels_last = ChannelsLast(network, given, lambda batch: [lambda: network(batch["train"][0])])
        module.configure_callbacks = lambda: [*callbacks(), channels_last]
        return module

    strategy.configure_oneshot_module = configured


def _require_sound(name: str, arguments: Mapping[str, Any]) -> None:
    if "log_prob_every_n_step" in arguments:
        require_whole(f"strategy {name}: log_prob_every_n_step", arguments["log_prob_every_n_step"], least=1)
    for key, value in arguments.items():
        if isinstance(value, int | float) and not 0 <= value <= MAX_FLOAT:  # NaN neither
            raise OptionError(f"strategy {name}: {key} must be at least 0, got {quoted(value)}")


def _inherited_options(strategy_class: type) -> dict[str, inspect.Parameter]:
    """Return the keyword options of the base classes, which NNI passes through **kwargs."""
    found: dict[str, inspect.Parameter] = {}
    for base in strategy_class.__mro__:
        if base is not object and "__init__" in vars(base):
            for name, parameter in inspect.signature(base.__init__).parameters.items():
                if name not in ("self", "model_space", "engine", *_PYTHON_OBJECTS):
                    found.setdefault(name, parameter)
    return found


def _temperature(given: Any) -> Any:
    """Return the annealing of GumbelDARTS as NNI wants it: a float, or a tuple of two."""
    if isinstance(given, list | tuple) and len(given) == 2 and all(isinstance(t, int | float) for t in given):
        return float(given[0]), float(given[1])
    if isinstance(given, int | float) and not isinstance(given, bool):
        return float(given)
    raise OptionError(f"strategy GumbelDARTS: temperature must be a number or [first, last], got {given!r}")


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
