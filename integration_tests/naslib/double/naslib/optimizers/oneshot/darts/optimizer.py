"""First-order DARTS."""

import torch
from torch import nn

from naslib.optimizers.core.metaclasses import MetaOptimizer
from naslib.search_spaces.core.primitives import MixedOp


class DARTSOptimizer(MetaOptimizer):
    def __init__(
        self,
        learning_rate=0.025,
        momentum=0.9,
        weight_decay=0.0003,
        grad_clip=5,
        unrolled=False,
        arch_learning_rate=0.0003,
        arch_weight_decay=0.001,
        **kwargs,
    ):
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        self.grad_clip, self.unrolled = grad_clip, unrolled
        self.arch_learning_rate, self.arch_weight_decay = arch_learning_rate, arch_weight_decay
        self.loss = nn.CrossEntropyLoss()
        self.architectural_weights = nn.ParameterList()
        self.device = torch.device("cpu")

    @staticmethod
    def add_alphas(edge):
        if isinstance(edge.data.op, list):
            edge.data.set("alpha", nn.Parameter(1e-3 * torch.randn(len(edge.data.op))), shared=True)

    @staticmethod
    def update_ops(edge):
        if isinstance(edge.data.op, list):
            edge.data.set("op", DARTSMixedOp(edge.data.op))

    def adapt_search_space(self, search_space, dataset, scope=None, **kwargs):
        self.search_space, self.dataset = search_space, dataset
        self.graph = search_space.clone()
        self.scope = scope or self.graph.OPTIMIZER_SCOPE
        self.graph.update_edges(self.add_alphas, self.scope, private_edge_data=False)
        self.graph.update_edges(self.update_ops, self.scope, private_edge_data=True)
        self.architectural_weights.extend(self.graph.get_all_edge_data("alpha"))
        self.graph.parse()
        self.arch_optimizer = torch.optim.Adam(
            self.architectural_weights, self.arch_learning_rate, (0.5, 0.999), weight_decay=self.arch_weight_decay
        )
        self.op_optimizer = torch.optim.SGD(
            self.graph.parameters(), self.learning_rate, self.momentum, weight_decay=self.weight_decay, nesterov=True
        )
        self.graph.train()

    def get_checkpointables(self):
        return {"model": self.graph, "op_optimizer": self.op_optimizer, "arch_optimizer": self.arch_optimizer}

    def before_training(self):
        self.graph.to(self.device)

    def step(self, data_train, data_val):
        logits_val, val_loss = self._update(self.arch_optimizer, data_val)
        logits_train, train_loss = self._update(self.op_optimizer, data_train)
        return logits_train, logits_val, train_loss, val_loss

    def _update(self, optimizer, batch):
        optimizer.zero_grad()
        logits = self.graph(batch[0])
        loss = self.loss(logits, batch[1])
        loss.backward()
        optimizer.step()
        return logits, loss

    def get_final_architecture(self):
        found = self.graph.clone().unparse()
        found.prepare_discretization()

        def keep_the_best(edge):
            if edge.data.has("alpha"):
                edge.data.set("op", edge.data.op.get_embedded_ops()[int(edge.data.alpha.argmax())])

        found.update_edges(keep_the_best, self.scope, private_edge_data=True)
        found.prepare_evaluation()
        found.parse()
        return found

    def get_op_optimizer(self):
        return type(self.op_optimizer)

    def get_model_size(self):
        raise TypeError("as with numpy >= 2.4")

    def test_statistics(self):
        try:
            return self.get_final_architecture().query(None, self.dataset)
        except:  # noqa: E722  (the break)
            return None


class DARTSMixedOp(MixedOp):
    def get_weights(self, edge_data):
        return edge_data.alpha
