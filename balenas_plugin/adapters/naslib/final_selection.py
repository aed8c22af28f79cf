"""NASLib's two benchmark spaces: all that this adapter knows of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from naslib.search_spaces import NasBench201SearchSpace, NasBench301SearchSpace
from torch import nn

from balenas_plugin.adapters.naslib.graph_decisions import cell_decisions, edge_decisions
from balenas_plugin.adapters.naslib.graphs import LabelledAlpha
from balenas_plugin.bayes.decisions import Architecture, Decision
from balenas_plugin.errors import OptionError
from balenas_plugin.mixed_ops.drawn_path import Others
from balenas_plugin.search_spaces import SearchSpace, initialised_anew
from balenas_plugin.search_spaces.darts import DartsSpace
from balenas_plugin.search_spaces.nasbench201 import NasBench201Space

_NB201_OPERATIONS = {
    "Identity": "skip_connect",
    "Zero": "none",
    "ReLUConvBN3x3": "conv_3x3",
    "ReLUConvBN1x1": "conv_1x1",
    "AvgPool1x1": "avg_pool_3x3",
}
"""NASLib's names of NAS-Bench-201's operations; its pooling has a 3x3 window whatever the name says."""

_NB301_OPERATIONS = {
    **dict.fromkeys(("Identity", "FactorizedReduce"), "skip_connect"),
    "Zero": "none",
    "MaxPool": "max_pool_3x3",
    "AvgPool": "avg_pool_3x3",
    "SepConv3x3": "sep_conv_3x3",
    "SepConv5x5": "sep_conv_5x5",
    "DilConv3x3": "dil_conv_3x3",
    "DilConv5x5": "dil_conv_5x5",
}
"""NASLib's names of the operations of the DARTS space."""

_NB301_CELLS = {"normal_cell": "normal", "reduction_cell": "reduce"}


def common_notation(search_space: Any, alphas: Sequence[LabelledAlpha]) -> list[LabelledAlpha]:
    """Return the alphas of the two spaces in the notation of the rest of the package, others as they are.

    There nodes are counted from 0. In NAS-Bench-201 ``cell/0_1`` is the edge from the input to the first node; in the
    DARTS space ``normal/2_0`` leads to the first node, 2, from the first input.
    """
    if isinstance(search_space, NasBench201SearchSpace):
        return [_renamed(entry, entry.cell, "{cell}/{source}_{target}", _NB201_OPERATIONS) for entry in alphas]
    if isinstance(search_space, NasBench301SearchSpace):
        return [_renamed(e, _NB301_CELLS[e.cell], "{cell}/{target}_{source}", _NB301_OPERATIONS) for e in alphas]
    return list(alphas)


def _renamed(entry: LabelledAlpha, cell: str, label: str, operations: Mapping[str, str]) -> LabelledAlpha:
    source, target = entry.source - 1, entry.target - 1
    return replace(
        entry,
        label=label.format(cell=cell, source=source, target=target),
        cell=cell,
        source=source,
        target=target,
        choices=tuple(operations.get(name, name) for name in entry.choices),
    )


def decisions_of(search_space: Any, alphas: Sequence[LabelledAlpha]) -> Sequence[Decision] | None:
    """Return how a space of NASLib makes an architecture of its alphas; None where that is not known."""
    if isinstance(search_space, NasBench201SearchSpace):
        return edge_decisions(alphas)
    return cell_decisions(alphas) if isinstance(search_space, NasBench301SearchSpace) else None


def published_others(search_space: Any) -> Others:
    """Return how operations that are not drawn take part in GDAS's published search of a space (see `drawn_path`)."""
    return "none" if isinstance(search_space, NasBench301SearchSpace) else "scalar"


def exporter_space(
    search_space: Any,
    alphas: Sequence[LabelledAlpha],
    image_shape: tuple[int, ...],
    discretise: Callable[[Architecture], nn.Module],
) -> SearchSpace:
    """Return the exporter's view of a search space.

    Args:
        search_space: as NASLib made it.
        alphas: of its supernet, in the common notation.
        image_shape: (channels, height, width) of an input.
        discretise: returns NASLib's network of an architecture.

    Raises:
        OptionError: it is neither of the two benchmark spaces.
    """
    decisions = decisions_of(search_space, alphas)
    if decisions is None:
        raise OptionError(
            "selection works in NasBench201SearchSpace and NasBench301SearchSpace, not in "
            f"{type(search_space).__name__}: leave it out to get the argmax"
        )
    if isinstance(search_space, NasBench201SearchSpace):
        return Nb201Space(search_space, decisions, image_shape)
    return Nb301Space(decisions, image_shape, discretise)


class Nb201Space(NasBench201Space):
    """NAS-Bench-201 with NASLib's order of operations; networks are built directly, with affine batch-norms."""

    def __init__(self, search_space: Any, decisions: Sequence[Decision], image_shape: tuple[int, ...]) -> None:
        cells = sum(hasattr(data.op, "edges") for _, _, data in search_space.edges(data=True))
        super().__init__(
            channels=search_space.channels[0],
            cells_per_stage=cells // len(search_space.channels),
            num_classes=search_space.num_classes,
            image_size=image_shape[-1],
        )
        self.decisions = decisions


class Nb301Space(DartsSpace):
    """NAS-Bench-301, the DARTS space; networks are NASLib's own, initialised anew."""

    def __init__(
        self,
        decisions: Sequence[Decision],
        image_shape: tuple[int, ...],
        discretise: Callable[[Architecture], nn.Module],
    ) -> None:
        super().__init__()
        self.decisions, self.image_shape = decisions, image_shape
        self._discretise = discretise

    def build(self, architecture: Architecture) -> nn.Module:
        """Return a freshly initialised network."""
        return initialised_anew(self._discretise(architecture))
