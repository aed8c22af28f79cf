"""Call a constructor with options from a config: what it refuses becomes one clear error."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl

from balenas_plugin.errors import BalenasError, OptionError, quoted


def construct(what: str, factory: Callable[..., Any], arguments: Mapping[str, Any], *positional: Any) -> Any:
    """Return ``factory(*positional, **arguments)``.

    Args:
        what: what is being made, for messages.
        factory: a class or function.
        arguments: from the config, checked.
        positional: not from the config.

    Raises:
        OptionError: the arguments are refused.
    """
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
