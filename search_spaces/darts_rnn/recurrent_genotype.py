"""Genotypes of recurrent cells, and the ways of writing them.

========  ==============================================================================
notation  example
========  ==============================================================================
name      ``DARTS_V2``: that of a published genotype
genotype  ``Genotype(recurrent=[('relu', 0), ('tanh', 1), ...], concat=range(1, 9))``
nni       ``{"recurrent/op_1_0": "relu", "recurrent/input_1_0": [0], ...}`` in JSON or Python
========  ==============================================================================

State 0 is made of the input and the hidden state; node i makes state i of one state before it. Text is parsed, never
run.

Source: Liu et al. 2019 (DARTS, `rnn/genotypes.py` of quark0/darts).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from balenas_plugin.bayes.decisions import NO_CONNECTION, Architecture
from balenas_plugin.errors import SpaceError, UnreadableError, nearest
from balenas_plugin.search_spaces import Reading
from balenas_plugin.search_spaces.darts.genotype import Pair, joined_states, literal_of, only_state, parts_of, read_in
from balenas_plugin.search_spaces.darts.published import pairs_and_joined, published_name

CELL = "recurrent"

OPERATIONS = (NO_CONNECTION, "tanh", "relu", "sigmoid", "identity")
"""In the order of the reference's alphas."""

NODES = 8
"""Of a cell that is searched; read are cells of any number of them."""

LABELS = {node: tuple(f"{CELL}/{node}_{source}" for source in range(node)) for node in range(1, NODES + 1)}
"""Node -> labels of its edges in a search."""

NOTATIONS = {"genotype": "", "nni": "a mapping as in NNI", "name": "the published genotype"}

_CELLS = {  # activation and state, a pair a node; behind an arrow, the states that are joined where not all are
    "ENAS": "tanh 0, tanh 1, relu 1, tanh 3, tanh 3, relu 3, relu 4, relu 7, relu 8, relu 8, relu 8 -> 2 5 6 9 10 11",
    "DARTS_V1": "relu 0, relu 1, tanh 2, relu 3, relu 4, identity 1, relu 5, relu 1",
    "DARTS_V2": "sigmoid 0, relu 1, relu 1, identity 1, tanh 2, sigmoid 5, tanh 3, relu 5",
}
"""Name -> cell: of Pham et al. 2018 (ENAS) as the reference writes it, and of Liu et al. 2019."""

PUBLISHED = tuple(_CELLS)
"""Names of the genotypes."""

_MOST_NODES = 64
_CONCAT = f"{CELL}/concat"
_EXAMPLE = "Genotype(recurrent=[('relu', 0), ('tanh', 1), ...], concat=range(1, 9))"


class RecurrentGenotype(NamedTuple):
    """A recurrent cell; printed, it is in the reference's form.

    Attributes:
        recurrent: (activation, state) of node 1, 2, ...
        concat: states whose mean is the cell's output.
    """

    recurrent: tuple[Pair, ...]
    concat: tuple[int, ...]

    def __str__(self) -> str:
        """Return the genotype as Python code of the reference."""
        first, last = self.concat[0], self.concat[-1]
        plain = self.concat == tuple(range(first, last + 1))
        joined = f"range({first}, {last + 1})" if plain else str(list(self.concat))
        return f"Genotype(recurrent={list(self.recurrent)}, concat={joined})"


def make_recurrent_genotype(recurrent: Any, concat: Any = None) -> RecurrentGenotype:
    """Return the genotype of these nodes, checked; a concat of None joins all of them.

    Raises:
        SpaceError: it is no genotype; the message says what of which node.
    """
    if not isinstance(recurrent, list | tuple) or not 1 <= len(recurrent) <= _MOST_NODES:
        raise SpaceError(f"a recurrent cell needs a pair (activation, state) a node, got {str(recurrent)[:80]}")
    pairs = tuple(_pair(node, pair) for node, pair in enumerate(recurrent, start=1))
    joined = joined_states(concat, range(1, len(pairs) + 1))
    if joined is None:
        raise SpaceError(f"a cell of {len(pairs)} nodes can join the states 1 to {len(pairs)}, not {str(concat)[:40]}")
    return RecurrentGenotype(pairs, joined)


def _pair(node: int, pair: Any) -> Pair:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise SpaceError(f"recurrent cell, node {node}: {str(pair)[:80]} is no pair (activation, state)")
    activation, state = pair
    if activation not in OPERATIONS[1:]:
        raise SpaceError(
            f"recurrent cell, node {node}: unknown activation {str(activation)[:40]!r}; allowed: "
            f"{', '.join(OPERATIONS[1:])}{nearest(str(activation)[:40], OPERATIONS[1:])}"
        )
    if type(state) is not int or not 0 <= state < node:
        raise SpaceError(
            f"recurrent cell, node {node}: its input is one of the states 0 to {node - 1}, not {str(state)[:40]}"
        )
    return activation, state


def architecture_of(genotype: RecurrentGenotype) -> Architecture:
    """Return the architecture (label -> choice); states that are joined are named where not all are."""
    architecture: Architecture = {}
    for node, (activation, state) in enumerate(genotype.recurrent, start=1):
        architecture[f"{CELL}/op_{node}_0"] = activation
        architecture[f"{CELL}/input_{node}_0"] = [state]
    if genotype.concat != tuple(range(1, len(genotype.recurrent) + 1)):
        architecture[_CONCAT] = list(genotype.concat)
    return architecture


def genotype_of(architecture: Mapping[str, Any]) -> RecurrentGenotype:
    """Return the genotype of an architecture; the order of its keys is free.

    Raises:
        SpaceError: a label is missing or unknown, or a choice impossible.
    """
    left, pairs = dict(architecture), list[tuple[Any, Any]]()
    while (label := f"{CELL}/op_{len(pairs) + 1}_0") in left:
        source = left.pop(label.replace("/op_", "/input_"), None)
        pairs.append((left.pop(label), only_state(source)))
    concat = left.pop(_CONCAT, None)
    if left:
        raise SpaceError(
            f"the architecture names {str(next(iter(left)))[:40]!r}, which is no choice of a recurrent cell: those are "
            f"{CELL}/op_1_0, {CELL}/input_1_0, {CELL}/op_2_0, ..."
        )
    return make_recurrent_genotype(pairs, concat)


def read_recurrent_genotype(text: str, *, notation: str | None = None) -> Reading:
    """Return the architecture that a text names.

    Args:
        text: in one of `NOTATIONS`; ``NAME = `` before it is passed over.
        notation: which; None finds out.

    Raises:
        SpaceError: it is none of them, or malformed.
        OptionError: there is no such notation.
    """
    found, (name, genotype) = read_in(text, notation, NOTATIONS, _read)
    return Reading(found, sample=architecture_of(genotype), read_as=f"{NOTATIONS[found]} {name}".rstrip(), name=name)


def _read(text: str) -> tuple[str, tuple[str, RecurrentGenotype]]:
    """Return the notation, the published name or "", and the genotype."""
    name = published_name(text, {**dict(zip(PUBLISHED, PUBLISHED, strict=True)), "DARTS": "DARTS_V2"})
    if name is not None:
        return "name", (name, make_recurrent_genotype(*pairs_and_joined(_CELLS[name])))
    found, genotype = _written(text)
    return found, ("", genotype)


def _written(text: str) -> tuple[str, RecurrentGenotype]:
    value = literal_of(text, RecurrentGenotype._fields, _unreadable)
    if isinstance(value, Mapping):
        inner = value.get("choices", value)  # a record of architectures.json, too
        if isinstance(inner, Mapping) and "recurrent" in inner:
            return "genotype", make_recurrent_genotype(*parts_of(inner, RecurrentGenotype._fields))
        if isinstance(inner, Mapping) and any(str(key).startswith(f"{CELL}/") for key in inner):
            return "nni", genotype_of(inner)
    raise _unreadable(text)


def _unreadable(text: str) -> UnreadableError:
    return UnreadableError(
        f"{text[:200]!r} is no recurrent cell. Give a genotype, {_EXAMPLE}; or NNI's dict, or the name "
        f"of a published one ({', '.join(PUBLISHED)})"
    )
