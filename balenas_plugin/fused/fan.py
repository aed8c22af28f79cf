"""All candidate operations that leave one tensor, towards one target or several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balenas_plugin.errors import SpaceError
from balenas_plugin.fused.chains import Chain, Opaque, Unwrap, Zero, read_chain
from balenas_plugin.fused.lanes import Lanes, parameterless
from balenas_plugin.fused.sums import Made, weighted_sum
from balenas_plugin.mixed_ops.drawn_path import Gates, Others, evaluated_backwards


@dataclass(frozen=True, eq=False)
class Branch:
    """One candidate operation.

    Args:
        operation: the candidate.
        target: number of the node that its result is added to.
        name: what the user calls it.
    """

    operation: nn.Module
    target: int
    name: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({type(self.operation).__name__})"


@dataclass
class Contribution:
    """What one tensor contributes to a node: sum(ready) + sum_k weights[k] terms[k]."""

    ready: list[Tensor] = field(default_factory=list)
    terms: list[Tensor] = field(default_factory=list)
    made: list[Made | None] = field(default_factory=list)
    """Of each term, what it is made of where that is kept and the term is not."""
    weights: list[Tensor] = field(default_factory=list)
    numbers: list[Tensor] = field(default_factory=list)
    """Of shape (), added to every element."""
    gates: list[Gates] = field(default_factory=list)
    """Branches that are computed in the backward pass."""


def combine(contributions: Sequence[Contribution], zeros: Callable[[], Tensor] | None = None) -> Tensor:
    """Return the sum of all contributions to a node, accumulated without stacking.

    Args:
        contributions: each of one shape.
        zeros: returns the node if nothing contributes to it.
    """
    ready = [tensor for contribution in contributions for tensor in contribution.ready]
    terms = [term for contribution in contributions for term in contribution.terms]
    made = [m for contribution in contributions for m in contribution.made]
    weights = [weight for contribution in contributions for weight in contribution.weights]
    numbers = [number for contribution in contributions for number in contribution.numbers]
    if not terms and not ready:
        assert zeros is not None, "nothing contributes to a node of unknown shape"
        ready.append(zeros())
    if numbers:
        ready.append(torch.stack(numbers).sum())
    if terms:
        total = weighted_sum(torch.stack(weights), terms, made)
    elif len(ready) > 1:
        total = ready[0] + ready[1]
        ready = ready[2:]
    else:
        (total,) = ready
        ready = []
    for tensor in ready:
        total = total.add_(tensor) if tensor.dtype == total.dtype else total + tensor
    gates = [gate for contribution in contributions for gate in contribution.gates]
    return cast(Tensor, evaluated_backwards(total, gates)) if gates else total


class Fan:
    """The branches that leave one tensor, planned once and computed together.

    Zeros are left out, an identity is its input, equal pooling is done once, the first ReLU is shared, and chains of
    one signature run side by side (`Lanes`). What is not understood is called as it is.

    Args:
        branches: all of them; their order is that of the weights, and those to one target follow each other.
        unwrap: see `read_chain`.
        chains: what `read_chain` returned for each, if that is known.
    """

    def __init__(
        self,
        branches: Sequence[Branch],
        unwrap: Mapping[type[nn.Module], Unwrap] | None = None,
        chains: Sequence[Chain | Zero | Opaque] | None = None,
    ) -> None:
        self.branches = tuple(branches)
        self._read = [read_chain(b.operation, unwrap) for b in branches] if chains is None else chains
        self.called: dict[int, Opaque] = {}
        """Branches whose operation is called as it is."""
        self.zeros: list[int] = []
        self.towards: dict[int, list[int]] = {}
        """Target -> branches to it."""
        self.shared: dict[tuple[object, ...], list[int]] = {}
        """Signature -> branches that compute the same."""
        self.chains: dict[int, Chain] = {}
        lanes: dict[tuple[object, ...], list[int]] = {}
        for k, chain in enumerate(self._read):
            self.towards.setdefault(self.branches[k].target, []).append(k)
            if isinstance(chain, Zero):
                self.zeros.append(k)
                continue
            if isinstance(chain, Opaque):
                self.called[k] = chain
                continue
            self.chains[k] = chain
            (lanes if chain.has_parameters else self.shared).setdefault(chain.signature, []).append(k)
        self.lanes = [(Lanes([self.chains[k] for k in members]), members) for members in lanes.values()]
        """Chains that run side by side, and their branches."""

    def layers(self) -> Iterator[nn.Module]:
        """Yield the plain layers of the branches that are understood."""
        for chain in self.chains.values():
            yield from chain.layers

    @property
    def saves(self) -> bool:
        """Whether anything is left out, shared or run side by side."""
        return len(self.called) < len(self.branches)

    def __call__(self, x: Tensor, weights: Sequence[Tensor], *, again: bool = False) -> dict[int, Contribution]:
        """Return target -> contribution; a target that only zeros lead to is missing.

        Args:
            x: the tensor, (N, C, H, W) if any chain has layers.
            weights: mixing weights of each target, in the order of the targets; a weight behind those of the branches
                is that of choosing none of them.
            again: compute the chains once more in the backward pass, in the place of keeping what is in them.
        """
        found: dict[int, Contribution] = {}
        counts = map(len, self.towards.values())
        of_branches = [w if len(w) == n else w[:n] for w, n in zip(weights, counts, strict=True)]
        each = (of_branches[0] if len(of_branches) == 1 else torch.cat(of_branches)).unbind()

        def add(k: int, term: Tensor, made: Made | None = None) -> None:
            contribution = found.setdefault(self.branches[k].target, Contribution())
            contribution.terms.append(term)
            contribution.made.append(made)
            contribution.weights.append(each[k])

        rectified: Tensor | None = None
        for members in self.shared.values():
            layers = self.chains[members[0]].layers
            make = partial(reduce, parameterless, layers)
            result = make(x)
            for k in members:
                add(k, result, (x, make) if again and layers else None)
        if x.dim() != 4:  # without a batch dimension lanes could not be distinguished
            for k in (k for _, members in self.lanes for k in members):
                add(k, self.branches[k].operation(x))
        again = again and torch.is_grad_enabled()
        one = again and sum(lanes.starts_with_relu for lanes, _ in self.lanes) == 1
        for lanes, members in self.lanes if x.dim() == 4 else ():
            inside = one and lanes.starts_with_relu and not lanes.alike  # then x is kept, which others may read too
            if lanes.starts_with_relu and rectified is None and not inside:
                rectified = F.relu(x)
            source = rectified if lanes.starts_with_relu and rectified is not None else x
            common = lanes.common(source) if len(members) > 1 else None
            if common is not None:
                for k in members:
                    add(k, common)
                continue
            run = partial(lanes.again, rectify=inside) if again else lanes
            if lanes.can_scale:
                for k, result in zip(members, run(source, torch.stack([each[k] for k in members])), strict=True):
                    found.setdefault(self.branches[k].target, Contribution()).ready.append(result)
            else:
                for k, result in zip(members, run(source), strict=True):
                    add(k, result)
        for k in self.called:
            add(k, self._call(self.branches[k], x, found))
        return found

    def drawn(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        drawn: Sequence[tuple[Sequence[int], Others | Sequence[int]]],
        *,
        again: bool = False,
    ) -> dict[int, Contribution]:
        """Return what `__call__` does, of the drawn branches to each target alone.

        Args:
            x: the tensor.
            weights: mixing weights of each target, in the order of the targets.
            drawn: which of a target's branches are computed, behind the last one: none of them; and how the others take
                part, see `drawn_path`: "none" where several are computed.
            again: see `__call__`.
        """
        edges = list(zip(self.towards.items(), weights, drawn, strict=True))
        picked: list[int] = []
        of_picked: list[Tensor] = []
        for (_, branches), w, (computed, _) in edges:
            there = [k for k in computed if k < len(branches)]
            if there:
                picked += [branches[k] for k in there]
                of_picked.append(w if len(there) == len(w) else torch.cat([w[k : k + 1] for k in there]))
        found: dict[int, Contribution] = {}
        if picked:
            fan = Fan([self.branches[k] for k in picked], chains=[self._read[k] for k in picked])
            found = fan(x, of_picked, again=again)
        for (target, branches), w, (computed, others) in edges:
            if others == "none" or not w.requires_grad:
                continue
            contribution = found.setdefault(target, Contribution())
            if others == "scalar":
                contribution.numbers.append(w.sum() - w[computed[0]])
                continue
            closed = [j for j, branch in enumerate(branches) if j in others and branch not in self.zeros]
            contribution.gates.append(Gates(w, closed, partial(self._alone, branches, x)))
        return found

    def _alone(self, branches: Sequence[int], x: Tensor, k: int) -> Tensor:
        return cast(Tensor, self.branches[branches[k]].operation(x))

    def _call(self, branch: Branch, x: Tensor, found: Mapping[int, Contribution]) -> Tensor:
        """Return what an operation that is not understood does; it must be what `departing` has seen of it."""
        watched = not torch.compiler.is_compiling() and not x.is_inference()
        version = x._version if watched else 0
        result: Tensor = branch.operation(x)
        before = found.get(branch.target, Contribution())
        other = next(iter((*before.ready, *before.terms)), result)
        why = _why_not_a_term(result, like=other)
        if why is None and watched and x._version != version:
            why = "changes its input in place"
        if why is not None:
            raise SpaceError(
                f"the candidate {branch} {why}, which it did not do when it was tried; "
                "build the strategy with fused=False"
            )
        return result


def departing(fans: Sequence[Fan], nodes: dict[int, Tensor]) -> str | None:
    """Call all operations as they are, one by one; return why their results may not be computed together, if any.

    Args:
        fans: the fan of each node but the last.
        nodes: those that are given, each of which is copied before it is used; the others are added.
    """
    for source, fan in enumerate(fans):
        x = nodes[source].clone()
        for branch in fan.branches:
            result = branch.operation(x)
            why = _why_not_a_term(result, like=nodes.get(branch.target))
            if why is not None or x._version:
                return f"{branch} {why or 'changes its input in place'}"
            nodes[branch.target] = result
    return None


def _why_not_a_term(result: object, *, like: Tensor | None) -> str | None:
    if type(result) is not Tensor:
        return f"returns a {type(result).__name__}"
    if not result.is_floating_point():
        return f"returns {str(result.dtype).removeprefix('torch.')} numbers"
    if like is not None and result.shape != like.shape:
        return f"returns the shape {tuple(result.shape)}, another candidate {tuple(like.shape)}"
    return None
