"""Call a constructor with options from a config: unknown names, wrong types and refusals become one clear error."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl

from balenas_plugin.errors import BalenasError, OptionError, quoted
from balenas_plugin.validation import require_keys


def construct(
    what: str,
    factory: Callable[..., Any],
    arguments: Mapping[str, Any],
    *positional: Any,
    inherited: Mapping[str, inspect.Parameter] | None = None,
) -> Any:
    """Return ``factory(*positional, **arguments)``.

    Args:
        what: what is being made, for messages.
        factory: a class or function.
        arguments: from the config.
        positional: not from the config.
        inherited: further parameters, which `factory` takes through **kwargs; without them **kwargs takes anything.

    Raises:
        OptionError: an option is unknown, of a wrong type, or refused.
    """
    own = inspect.signature(written_init(factory)).parameters
    parameters = {**(inherited or {}), **own}
    if inherited is not None or all(p.kind is not p.VAR_KEYWORD for p in own.values()):
        named = (n for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
        require_keys(what, arguments, [name for name in named if name not in ("self", "params")])
    for name, value in arguments.items():
        default = parameters[name].default if name in parameters else None
        number = isinstance(default, int | float) and not isinstance(default, bool)
        if number and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise OptionError(f"{what}: {name} must be a number, got {quoted(value)}")
    try:
        return factory(*positional, **arguments)
    except BalenasError:
        raise
    except (
        TypeError,
        ValueError,
        AssertionError,
        RuntimeError,
        ArithmeticError,
        LookupError,
        MemoryError,
        pl.utilities.exceptions.MisconfigurationException,
    ) as error:
        raise OptionError(f"{what} does not accept {quoted(dict(arguments))}: {str(error)[:500]}") from error


def written_init(factory: Callable[..., Any]) -> Callable[..., Any]:
    """Return the constructor as its author wrote it: NNI hides it in the closures of its own wrappers."""
    function = factory.__init__ if inspect.isclass(factory) else factory
    while getattr(function, "__name__", "") in ("new_init", "init_with_context"):
        contents = [cell.cell_contents for cell in function.__closure__ or ()]
        function = next(filter(inspect.isfunction, contents))
    return function
