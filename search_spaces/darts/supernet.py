"""The supernets of the DARTS space and of S1 to S5, as model spaces of NNI."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast

from nni.nas.hub.pytorch.nasnet import CellPostprocessor
from nni.nas.nn.pytorch import Cell, ModelSpace
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from torch import Tensor, nn

from balenas_plugin.options import PositiveInt

from .edges import EDGES, NODES, OPERATIONS
from .genotype import CELLS, from_nni
from .network import GenotypeNetwork, Preprocess, build_network, reductions
from .operations import build_operation

Factory = Callable[[int, int, int | None], nn.Module | None]
"""Makes a candidate of the edge (node, _, input), or None where it is none; with no input it stands for all edges."""


class Candidates(dict[str, Factory]):
    """The candidates of a cell by name."""

    complete = True
    """An edge has a logit for each of its candidates and no other (see `DrawnCell`)."""


class DartsSupernet(ModelSpace):  # type: ignore[misc]  # NNI has no types
    """The supernet of the DARTS space.

    Args:
        width: C, the channels of the first cells.
        num_cells: L, those at L/3 and 2L/3 halve the resolution and double the channels.
        num_labels: number of classes.
        form: "reference": batch-norms in cells have no weights, and one follows each pooling; "nni": as in NNI's DARTS
            and in evaluation, they have, and none does.
    """

    edges = EDGES["darts-reference"]

    def __init__(
        self,
        width: PositiveInt = 16,
        num_cells: PositiveInt = 8,
        num_labels: PositiveInt = 10,
        form: Literal["reference", "nni"] = "reference",
    ) -> None:
        super().__init__()
        self.width, self.num_cells, self.num_labels, self.form = width, num_cells, num_labels, form
        before_last = last = 3 * width
        self.stem = nn.Sequential(nn.Conv2d(3, last, 3, padding=1, bias=False), nn.BatchNorm2d(last))
        self.cells = nn.ModuleList()
        channels, reduced = width, False
        for k in range(num_cells):
            reduction = k in reductions(num_cells)
            channels *= 1 + reduction
            cell = CELLS[reduction]
            self.cells.append(
                Cell(
                    cast(Any, self._candidates(cell, channels)),
                    num_nodes=len(NODES),
                    num_ops_per_node=2,
                    num_predecessors=2,
                    preprocessor=Preprocess(before_last, last, channels, reduced=reduced, affine=form == "nni"),
                    postprocessor=CellPostprocessor(),
                    label=cell,
                )
            )
            before_last, last, reduced = last, len(NODES) * channels, reduction
        self.classifier = nn.Linear(last, num_labels)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(N, 3, H, W)`` to logits ``(N, num_labels)``."""
        states = [self.stem(images)] * 2
        for cell in self.cells:
            states = cell(states)
        logits: Tensor = self.classifier(states[-1].mean(dim=(2, 3)))
        return logits

    def freeze(self, sample: dict[str, Any]) -> GenotypeNetwork:
        """Return the network that an architecture is evaluated by, newly made.

        Of a supernet in training: the network in the supernet's own form, with a copy of its weights; where a mixed
        operation has built other operations, with these.
        """
        build = partial(
            build_network, from_nni(sample), channels=self.width, cells=self.num_cells, num_classes=self.num_labels
        )
        if not isinstance(self.cells[0], BaseSuperNetModule):
            return build()
        network = build(form="supernet" if self.form == "reference" else "evaluation").to(self.classifier.weight)
        for name in ("stem", "classifier"):
            getattr(network, name).load_state_dict(getattr(self, name).state_dict())
        for mine, own in zip(cast(Any, network.cells), cast(Any, self.cells), strict=True):
            mine.preprocessor.load_state_dict(own.preprocessor.state_dict())
            pairs = zip((op for node in mine.ops for op in node), mine.pairs, strict=True)
            for k, (operation, (name, source)) in enumerate(pairs):
                if getattr(own, "mixed_op", None) is None:
                    operation.load_state_dict(own.ops[k // 2][source][name].state_dict())
                else:  # of fewer channels, say
                    mine.ops[k // 2][k % 2] = own.alone(k // 2, source, name)
        return network.train(self.training)

    def _candidates(self, cell: str, channels: int) -> Candidates:
        used = {name for edge in self.edges[cell].values() for name in edge}
        return Candidates({k: partial(self._candidate, k, cell, channels) for k in OPERATIONS if k in used})

    def _candidate(self, name: str, cell: str, channels: int, node: int, _: int, source: int | None) -> Any:
        if source is not None and name not in self.edges[cell][node, source]:
            return None
        stride = 2 if cell == "reduce" and source is not None and source < 2 else 1
        own = self.form == "reference"
        return build_operation(name, channels, stride, affine=not own, normalise_pools=own)


class S1Supernet(DartsSupernet):
    """The supernet of S1."""

    edges = EDGES["darts-s1"]


class S2Supernet(DartsSupernet):
    """The supernet of S2."""

    edges = EDGES["darts-s2"]


class S3Supernet(DartsSupernet):
    """The supernet of S3."""

    edges = EDGES["darts-s3"]


class S4Supernet(DartsSupernet):
    """The supernet of S4."""

    edges = EDGES["darts-s4"]


class S5Supernet(DartsSupernet):
    """The supernet of S5."""

    edges = EDGES["darts-s5"]
