"""Where in a supernet a choice makes a difference, and where it makes none.

NNI's frozen network keeps the chosen candidate of a LayerChoice and the first blocks of a Repeat. What stands in the
others is in no network, so its choices make no difference; nor do those of modules that only feed inputs of an
InputChoice that it does not take. Of these last NNI's `freeze` asks for a value all the same, and so it does of all
choices inside a ParametrizedModule, which it makes anew with the candidates that it does not choose.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from nni.mutable import Mutable
from nni.nas.nn.pytorch import LayerChoice, ParametrizedModule, Repeat
from nni.nas.oneshot.pytorch.supermodule.differentiable import DifferentiableMixedCell
from torch import nn

from balenas_plugin.adapters.nni.supernets.dataflow import fed_of
from balenas_plugin.adapters.nni.supernets.parameters import labelled_alphas
from balenas_plugin.bayes.conditional import Among, Condition, Conditional, Includes, Use
from balenas_plugin.bayes.decisions import CellNode, Decision, OneOf, TopSet

Key = tuple[str, ...]
"""What a decision is found by."""

Found = Mapping[Key, Decision]


def uses_of(module: nn.Module, found: Found, keys: Mapping[nn.Module, Sequence[Key]]) -> dict[Key, list[Use]]:
    """Return, for each decision, the conditions under which each of its modules is in the network.

    Conditions name their parts by their positions in `found`.

    Args:
        module: the supernet.
        found: its decisions.
        keys: supernet module -> its decisions.
    """
    places = {key: place for place, key in enumerate(found)}
    uses: dict[Key, list[Use]] = {key: [] for key in found}
    picks = {m: places[key] for m, (key, *_) in keys.items() if isinstance(found[key], TopSet)}
    fed = fed_of(module, picks) if len(found) > 1 else {}

    def walk(module: nn.Module, use: Use, *, outermost: bool, made_anew: bool) -> None:
        alternatives = fed.get(module, {()}) if outermost else {()}
        own = keys.get(module, ())
        for alternative in sorted(alternatives, key=repr):
            inside = (*alternative, *use)
            for key in own:
                plain = tuple(condition for condition in inside if not condition.named)
                uses[key].append(inside if _unused(found[key]) is not None else plain)
            for child, condition in _children(module, [(places[key], found[key]) for key in own]):
                own_use = () if condition is None else (replace(condition, named=made_anew),)
                walk(
                    child,
                    (*inside, *own_use),
                    outermost=outermost and not own,
                    made_anew=made_anew or isinstance(child, ParametrizedModule),
                )

    walk(module, (), outermost=True, made_anew=False)
    return uses


def _children(module: nn.Module, own: Sequence[tuple[int, Decision]]) -> Iterator[tuple[nn.Module, Condition | None]]:
    """Yield the children of a module, each with what the module's own decisions must be for it to be in the network."""
    conditions: dict[nn.Module, Condition | None] = {}
    decisions = [decision for _, decision in own]
    match decisions:
        case [OneOf()] if isinstance(module, LayerChoice) and type(module).freeze is LayerChoice.freeze:
            for outcome, name in enumerate(module.names):
                candidate = module._modules[str(name)]
                # a candidate that stands there twice is in the network with either
                conditions[candidate] = None if candidate in conditions else _among(own, {(outcome,)})
        case [OneOf(), *_] if isinstance(module, Repeat) and type(module).freeze is Repeat.freeze:
            yield from zip(module.blocks, _depths(module, own), strict=True)
            return
    if isinstance(module, DifferentiableMixedCell):
        yield from _operations(module, own)
    for child in module.children():
        if not isinstance(module, DifferentiableMixedCell) or child is not module.ops:
            yield child, conditions.get(child)


def _among(own: Sequence[tuple[int, Decision]], allowed: set[tuple[int, ...]]) -> Condition | None:
    """Return the condition, None if it always holds."""
    sizes = [len(decision.values) for _, decision in own if isinstance(decision, OneOf)]
    return None if len(allowed) == math.prod(sizes) else Among(tuple(place for place, _ in own), frozenset(allowed))


def _depths(repeat: Repeat, own: Sequence[tuple[int, Decision]]) -> list[Condition | None]:
    """Return for each block the condition that the depth, which several values may decide, reaches it."""
    values = [decision.values for _, decision in own if isinstance(decision, OneOf)]
    depth = repeat.depth_choice
    assert isinstance(depth, Mutable)
    labels = list(labelled_alphas(repeat, ""))
    depths = {
        outcome: depth.freeze({label: v[k] for label, v, k in zip(labels, values, outcome, strict=True)})
        for outcome in itertools.product(*(range(len(v)) for v in values))
    }
    return [
        _among(own, {outcome for outcome, reached in depths.items() if reached > i}) for i in range(len(repeat.blocks))
    ]


def _operations(
    cell: DifferentiableMixedCell, own: Sequence[tuple[int, Decision]]
) -> Iterator[tuple[nn.Module, Condition | None]]:
    """Yield the operations of a cell: each is in the network if its node takes it on that input."""
    for (place, node), inputs in zip(own, cell.ops, strict=True):
        for j, operations in enumerate(inputs):
            for k, operation in enumerate(operations.values()):
                yield operation, Includes((place,), (j, k)) if isinstance(node, CellNode) else None


def conditional(found: Found, uses: Mapping[Key, Sequence[Use]]) -> list[Decision]:
    """Return the decisions, those that depend on each other's outcomes put together, in the order of their first."""
    decisions = list(found.values())
    needed = [_simplified(uses[key]) for key in found]
    group = list(range(len(decisions)))  # of each decision, the first decision of its group

    def root(place: int) -> int:
        while group[place] != place:
            place = group[place]
        return place

    for place, alternatives in enumerate(needed):
        for parent in {parent for use in alternatives for condition in use for parent in condition.parts}:
            first, second = sorted((root(place), root(parent)))
            group[second] = first
    members: dict[int, list[int]] = {}
    for place in range(len(decisions)):
        members.setdefault(root(place), []).append(place)
    return [
        decisions[places[0]] if len(places) == 1 else _together(places, decisions, needed)
        for places in members.values()
    ]


def _together(places: Sequence[int], decisions: Sequence[Decision], needed: Sequence[Sequence[Use]]) -> Conditional:
    inside = {place: position for position, place in enumerate(places)}

    def moved(condition: Condition) -> Condition:
        return replace(condition, parts=tuple(inside[place] for place in condition.parts))

    return Conditional(
        tuple(decisions[place] for place in places),
        tuple(tuple(tuple(map(moved, use)) for use in needed[place]) for place in places),
        tuple(_unused(decisions[place]) for place in places),
    )


def _unused(decision: Decision) -> int | tuple[int, ...] | None:
    """Return the outcome to name where a decision is in the network and makes no difference; None: it is always taken
    to make one."""
    match decision:
        case OneOf():
            return 0
        case TopSet(n_chosen=n):
            return tuple(range(n))
    return None


def _simplified(uses: Sequence[Use]) -> list[Use]:
    """Return the uses without those that hold only where another does."""
    distinct = list(dict.fromkeys(uses))
    return [use for use in distinct if not any(set(other) < set(use) for other in distinct)]
