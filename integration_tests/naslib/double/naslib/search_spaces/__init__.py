"""The two benchmark spaces: NAS-Bench-201 with one cell a stage, and a DARTS space of two cells of four nodes."""

from collections import Iterable  # noqa: F401, UP035  (the break: gone since Python 3.10)

from torch import nn

from naslib.search_spaces.core import primitives as ops
from naslib.search_spaces.core.graph import Graph
from naslib.search_spaces.core.query_metrics import Metric


class NasBench201SearchSpace(Graph):
    OPTIMIZER_SCOPE = ["stage_1", "stage_2", "stage_3"]  # noqa: RUF012
    QUERYABLE = True

    def __init__(self):
        super().__init__()
        self.name, self.num_classes, self.channels = "makrograph", 10, [2, 2, 2]
        self.connect(1, 2, ops.Layers("Stem", nn.Conv2d(3, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2)))
        first = None
        for stage, scope in enumerate(self.OPTIMIZER_SCOPE):
            cell = _cell(
                "cell", scope, [(i, j) for i in range(1, 5) for j in range(i + 1, 5)], _nb201_operations, first
            )
            first = first or cell
            self.connect(stage + 2, stage + 3, cell)
        self.connect(5, 6, ops.Layers("Head", nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 10)))

    def get_hash(self):
        cell = next(self.inner())
        names = [op.get_op_name for op in _nb201_operations()]
        return tuple(
            names.index(data.op.get_op_name) for *_, data in sorted(cell.edges(data=True), key=lambda e: e[:2])
        )

    def query(self, metric, dataset, path=None, dataset_api=None):
        assert metric is Metric.TEST_ACCURACY
        if dataset_api is None:
            raise NotImplementedError("Must pass in dataset_api to query NAS-Bench-201")
        return dataset_api["nb201_data"][self.get_hash()]["eval_acc1es"][-1]


class NasBench301SearchSpace(Graph):
    OPTIMIZER_SCOPE = ["n_stage_1", "r_stage_1"]  # noqa: RUF012
    QUERYABLE = False

    def __init__(self):
        super().__init__()
        self.name, self.num_classes = "makrograph", 10
        edges = [(source, target) for target in (3, 4) for source in range(1, target)]
        for node, (name, scope) in enumerate([("normal_cell", "n_stage_1"), ("reduction_cell", "r_stage_1")], start=3):
            cell = _cell(name, scope, edges, _nb301_operations)
            cell.connect(3, 5, ops.Identity())
            cell.connect(4, 5, ops.Identity())
            self.add_node(node, subgraph=cell)
        self.connect(1, 2, ops.Layers("Stem", nn.Conv2d(3, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2)))
        self.connect(2, 3, ops.Identity())
        self.connect(3, 4, ops.Identity())
        for node in (5, 6):  # 5 is the auxiliary head
            self.connect(4, node, ops.Layers("Head", nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 10)))

    def auxiliary_logits(self):
        return self.graph["out_from_5"]

    def prepare_discretization(self):
        """Keep the two strongest edges of every node, and never `Zero`."""
        for cell in self.inner():
            for node in cell.nodes:
                entering = [data for *_, data in sorted(cell.in_edges(node, data=True)) if data.has("alpha")]
                for data in entering:
                    data.alpha.data[1] = -float("inf")
                entering.sort(key=lambda data: -data.alpha.softmax(-1).max().item())
                for data in entering[2:]:
                    data.delete()
            cell.remove_edges_from([(u, v) for u, v, data in list(cell.edges(data=True)) if data.removed])

    def get_hash(self):
        return tuple(
            (cell.name, u, v, data.op.get_op_name)
            for cell in self.inner()
            for u, v, data in sorted(cell.edges(data=True), key=lambda e: e[:2])
        )


def _cell(name, scope, edges, operations, shared_with=None):
    cell = Graph()
    cell.name, cell.scope = name, scope
    for source, target in edges:
        cell.connect(source, target, operations())
        if shared_with is not None:
            cell.edges[source, target].shared = shared_with.edges[source, target].shared
    return cell


def _nb201_operations():
    return [
        ops.Identity(),
        ops.Zero(),
        ops.convolution("ReLUConvBN3x3", 2, 3),
        ops.convolution("ReLUConvBN1x1", 2, 1),
        ops.average_pooling("AvgPool1x1"),
    ]


def _nb301_operations():
    return [ops.Identity(), ops.Zero(), ops.average_pooling("AvgPool"), ops.convolution("SepConv3x3", 2, 3)]
