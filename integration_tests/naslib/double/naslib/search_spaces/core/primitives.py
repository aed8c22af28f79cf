"""Operations: they are called with their input and the data of their edge."""

import torch
from torch import nn


class AbstractPrimitive(nn.Module):
    def get_embedded_ops(self):
        return None

    @property
    def get_op_name(self):
        return type(self).__name__


class Identity(AbstractPrimitive):
    def forward(self, x, edge_data=None):
        return x


class Zero(AbstractPrimitive):
    def forward(self, x, edge_data=None):
        return x * 0.0


class Layers(AbstractPrimitive):
    """Layers one after the other, under a name."""

    def __init__(self, name, *layers):
        super().__init__()
        self.op_name, self.layers = name, nn.Sequential(*layers)

    @property
    def get_op_name(self):
        return self.op_name

    def forward(self, x, edge_data=None):
        return self.layers(x)


def convolution(name, channels, size):
    norm = nn.BatchNorm2d(channels, affine=False, track_running_stats=False)
    return Layers(name, nn.ReLU(), nn.Conv2d(channels, channels, size, padding=size // 2, bias=False), norm)


def average_pooling(name):
    return Layers(name, nn.AvgPool2d(3, 1, 1))


class MixedOp(AbstractPrimitive):
    """All operations of an edge, weighted."""

    def __init__(self, primitives):
        super().__init__()
        self.primitives = primitives
        self.pre_process_hook = self.post_process_hook = None
        for index, primitive in enumerate(primitives):
            self.add_module(f"primitive{index}", primitive)

    def get_embedded_ops(self):
        return self.primitives

    def forward(self, x, edge_data):
        weights = self.get_weights(edge_data)
        weights = self.pre_process_hook(weights, edge_data) if self.pre_process_hook else weights
        weights = self.process_weights(weights)
        weights = self.post_process_hook(weights, edge_data) if self.post_process_hook else weights
        return self.apply_weights(x, weights)

    def process_weights(self, weights):
        return torch.softmax(weights, dim=-1)

    def apply_weights(self, x, weights):
        return sum(weight * op(x, None) for weight, op in zip(weights, self.primitives, strict=True))
