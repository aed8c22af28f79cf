"""Architecture parameters of an NNI supernet, as an ordered mapping label -> alpha.

NNI's own `arch_parameters()` returns `list(set(...))`, whose order depends on addresses: an optimizer state restored
after a resume may land on the wrong alpha. Here the order is that of the labels, and a label that several modules
share appears once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.oneshot.pytorch.supermodule.differentiable import (
    DifferentiableMixedCell,
    DifferentiableMixedInput,
    DifferentiableMixedLayer,
)
from torch import nn

from balenas_plugin.mixed_ops.dropped import Dropped

NOT_CHOSEN = "(edge not chosen)"
"""Name of the extra logit that NNI's supernet cells give to every edge."""


def supernet_modules(model: nn.Module) -> Iterator[tuple[str, BaseSuperNetModule]]:
    """Yield (name, module) of every supernet module, in module order."""
    for name, module in model.named_modules():
        if isinstance(module, BaseSuperNetModule):
            yield name, module


def labelled_alphas(module: BaseSuperNetModule, name: str) -> dict[str, nn.Parameter]:
    """Return label -> alpha of one supernet module, following NNI's conventions.

    Args:
        module: a LayerChoice, InputChoice, Repeat, Cell or native operation turned supernet, or the user's own.
        name: its name in the model, the label of parameters that have none.
    """
    alpha = getattr(module, "_arch_alpha", None)
    if isinstance(alpha, nn.Parameter):
        return {str(getattr(module, "label", name)): alpha}
    if isinstance(alpha, nn.ParameterDict):
        return {str(label): parameter for label, parameter in alpha.items()}
    if hasattr(module, "arch_parameters"):  # the user's own supernet module
        mine = {id(p) for p in module.arch_parameters()}
        return {f"{name}.{key}": p for key, p in module.named_parameters() if id(p) in mine}
    return {}


def architecture_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return label -> alpha (logits, shape (number of candidates,)) of a supernet, in label order.

    Two different alphas under one label (a choice inside a cell and one outside it) are distinguished by a suffix.
    """
    found: dict[str, nn.Parameter] = {}
    cells_last = sorted(supernet_modules(model), key=lambda pair: isinstance(pair[1], DifferentiableMixedCell))
    for name, module in cells_last:
        for label, alpha in labelled_alphas(module, name).items():
            if any(alpha is other for other in found.values()):
                continue
            found[label if label not in found else f"{label}/in_cell"] = alpha
    return dict(sorted(found.items()))


def read_directly(
    modules: Iterable[nn.Module], mixing: nn.Module, alphas: Mapping[str, nn.Parameter]
) -> dict[str, nn.Parameter]:
    """Return label -> alpha of those that a module of the user's reads itself, in the place of asking `mixing`.

    Args:
        modules: of a supernet.
        mixing: what mixed modules ask for their weights.
        alphas: label -> alpha.
    """
    read: set[int] = set()
    for module in modules:
        if getattr(module, "_softmax", None) is not mixing:
            read.update(id(parameter) for parameter in module.parameters(recurse=False))
            read.update(id(p) for p in getattr(module, "arch_parameters", list)())
    return {label: alpha for label, alpha in alphas.items() if id(alpha) in read}


def parameterised_candidates(model: nn.Module) -> dict[str, tuple[bool, ...]]:
    """Return label -> which candidates have weights, of the choices among layers and in cells, in label order.

    An operation of a cell is one of its name: a skip connection has weights where it halves the image, but is counted
    as one without, since it has none elsewhere in the cell. A label that several modules share is treated alike.
    """
    found: dict[int, tuple[bool, ...]] = {}
    for name, module in supernet_modules(model):
        edges: list[dict[str, nn.Module]] = []
        if isinstance(module, DifferentiableMixedLayer):
            edges = [{str(n): module[n] for n in module.names}]
        elif isinstance(module, DifferentiableMixedCell):
            edges = [dict(edge) for node in cast(Any, module.ops) for edge in node]  # in the order of its labels
        without = {n for edge in edges for n, operation in edge.items() if not _has_weights(operation)}
        for alpha, edge in zip(labelled_alphas(module, name).values() if edges else (), edges, strict=True):
            flags = [n not in without for n in edge]
            flags += [False] * (len(alpha) - len(flags))  # the edge is not chosen
            found[id(alpha)] = tuple(map(all, zip(flags, found.get(id(alpha), flags), strict=True)))
    return {label: found[id(a)] for label, a in architecture_parameters(model).items() if id(a) in found}


def _has_weights(candidate: nn.Module) -> bool:
    parts = (part.before if isinstance(part, Dropped) else part for part in candidate.modules())
    return any(next(part.parameters(), None) is not None for part in parts)


def choice_names(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return label -> names of what each logit stands for, in label order (see `architecture_parameters`)."""
    by_parameter: dict[int, tuple[str, ...]] = {}
    for name, module in supernet_modules(model):
        spaces = module.simplify()
        for label, alpha in labelled_alphas(module, name).items():
            if isinstance(module, DifferentiableMixedLayer):
                names = [str(n) for n in module.names]
            elif isinstance(module, DifferentiableMixedInput):
                names = [str(k) for k in range(module.n_candidates)]
            elif isinstance(module, DifferentiableMixedCell):
                node, j = map(int, label.rpartition("/")[2].split("_"))
                operations = cast(Any, module.ops[node - module.num_predecessors])[j]
                names = [*map(str, operations), *[NOT_CHOSEN] * (len(alpha) - len(operations))]
            elif hasattr(spaces.get(label), "values"):
                names = [str(v) for v in spaces[label].values]
            else:
                names = [str(k) for k in range(alpha.numel())]
            by_parameter.setdefault(id(alpha), tuple(names))
    return {label: by_parameter[id(alpha)] for label, alpha in architecture_parameters(model).items()}
