"""Search spaces by name: the packages of search_spaces/, and what other packages offer as entry points.

A space is a package that defines a `SearchSpace` (or several) in its ``__init__.py``. Another project adds one in its
pyproject.toml, with no change here::

    [project.entry-points."balenas_plugin.search_spaces"]
    my_space = "my_package.my_space:SPACE"
"""

from __future__ import annotations

from collections.abc import Iterable

from balenas_plugin.errors import OptionError, SpaceError, UnreadableError
from balenas_plugin.files import SEARCH_SPACES
from balenas_plugin.parts import Parts
from balenas_plugin.search_spaces._graph import JOINED, CellEdge, cells_of, cells_with_outputs
from balenas_plugin.search_spaces._literal import read_literal
from balenas_plugin.search_spaces._space import (
    IMAGE_CLASSIFICATION,
    LANGUAGE_MODELLING,
    NONE,
    PARAMETER_FREE,
    PARAMETRIC,
    SKIP,
    Networks,
    Reading,
    SearchSpace,
    SeededNetworks,
    SkipRule,
    initialised_anew,
)

__all__ = [
    "DEFAULT_SPACE",
    "IMAGE_CLASSIFICATION",
    "JOINED",
    "LANGUAGE_MODELLING",
    "NONE",
    "PARAMETER_FREE",
    "PARAMETRIC",
    "SKIP",
    "SPACES",
    "CellEdge",
    "Networks",
    "Reading",
    "SearchSpace",
    "SeededNetworks",
    "SkipRule",
    "cells_of",
    "cells_with_outputs",
    "find_space",
    "get_space",
    "initialised_anew",
    "list_spaces",
    "read_architecture",
    "read_literal",
    "space_of",
    "space_of_notation",
]

if str(SEARCH_SPACES) not in __path__:  # in a checkout the spaces are beside the package, installed they are here
    __path__.append(str(SEARCH_SPACES))

DEFAULT_SPACE = "NasBench201"
"""What a config searches that does not say, and whose architectures `balenas query` reads first."""


SPACES: Parts[SearchSpace] = Parts("space", "balenas_plugin.search_spaces", SearchSpace)
list_spaces = SPACES.names


def find_space(name: str) -> SearchSpace | None:
    """Return the space that a config calls so: its name, an alias or its supernet; None if it is none of these."""
    found = (space for space in SPACES.all if name in (space.name, *space.aliases, space.supernet))
    return next(found, None)


def get_space(name: str) -> SearchSpace:
    """Return the space that a config calls so.

    Raises:
        OptionError: there is none, or the package that offers it is broken.
    """
    return find_space(name) or SPACES.get(name)


def read_architecture(
    text: str, *, name: str | None = None, notation: str | None = None
) -> tuple[SearchSpace, Reading]:
    """Return the first space that can read an architecture, the default one before others, and what it has read.

    Args:
        text: of whatever somebody has typed.
        name: of the space; None finds out.
        notation: as for `SearchSpace.read`.

    Raises:
        SpaceError: no space can read it.
        OptionError: there is no such space or notation.
    """
    first = get_space(name or DEFAULT_SPACE)
    problems: list[SpaceError | OptionError] = []
    for space in (first, *(space for space in SPACES.all if name is None and space is not first)):
        try:
            return space, space.read(text, notation=notation)
        except (SpaceError, OptionError) as error:
            problems.append(error)
    raise next((p for p in problems if not isinstance(p, UnreadableError | OptionError)), problems[0])


def space_of(supernet: object) -> SearchSpace:
    """Return the space of a model space of NNI, or of a supernet made of one; an unknown one is a `SearchSpace()`.

    Where a class derives from that of another space, it is of its own.
    """
    classes = [f"{each.__module__}:{each.__qualname__}" for each in type(supernet).__mro__]
    found = [space for space in SPACES.all if space.supernet in classes]
    return min(found, key=lambda space: classes.index(space.supernet), default=SearchSpace())


def space_of_notation(notation: Iterable[str]) -> SearchSpace:
    """Return the space of an architecture whose notation a file gives under these keys, or a `SearchSpace()`."""
    names = set(notation)
    return next((space for space in SPACES.all if space.name in names), SearchSpace())
