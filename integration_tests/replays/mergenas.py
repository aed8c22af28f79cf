"""MergeNAS: merged convolutions, plain and separable, with skip and pooling in the kernel, and in NAS-Bench-201."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balenas_plugin.mixed_ops.merged_convolutions import MergedConvolutions, Part, SharedKernel, merged_kernel
from replays import difference, largest, tensor
from replays.darts_operations import Zero, operations, separable

INPUTS: set[str] = set()
SIZES = ((3, 1), (5, 1), (3, 2), (5, 2))
"""(k, dilation) in the order of the weights."""


def edge(candidates: dict[str, nn.Module], **options: Any) -> tuple[MergedConvolutions, list[nn.Module], SharedKernel]:
    """Return what mixes an edge, its candidates, and the kernel that they share."""
    how = MergedConvolutions(**options)
    built = how.build(candidates, called="edge")
    assert built is not None
    layers = list(nn.ModuleList(built.values()).double())
    return how, layers, next(layer.shared for layer in layers if isinstance(layer, Part))


def outcome(
    how: MergedConvolutions, layers: list[nn.Module], x: Any, logits: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return output, loss, gradient in the logits, and the mixing weights."""
    given = tensor(logits).requires_grad_()
    output = how.edge(tensor(x), layers, given.softmax(-1))
    loss = (output * torch.arange(output.numel(), dtype=output.dtype).view_as(output).cos()).sum()
    loss.backward()
    assert given.grad is not None
    return output, loss, given.grad, given.detach().softmax(-1)


def fill(weight: Tensor, values: Any) -> None:
    """Write a kernel."""
    weight.detach().copy_(tensor(values))
    weight.grad = None


def merge_conv(document: dict[str, Any]) -> float:
    """Replay the plain form."""
    return largest(_plain(case, row) for case in document["merge_conv"] for row in case["rows"])


def _plain(case: dict[str, Any], row: dict[str, Any]) -> float:
    channels, stride = case["channels"], case["stride"]

    def candidate(size: int, dilation: int) -> nn.Module:
        conv = nn.Conv2d(channels, channels, size, stride, dilation * (size // 2), dilation, bias=False)
        return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(channels, affine=False))

    how, layers, shared = edge({str(size): candidate(*size) for size in SIZES})
    (stage,) = shared.stages
    fill(stage.weight, case["weight"])
    before: list[Tensor] = []
    stage.norm.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0]))
    output, loss, gradient, alpha = outcome(how, layers, case["x"], row["logits"])
    kernel = merged_kernel(stage.weight, shared.masks, alpha)
    apart = sum(
        a * F.conv2d(tensor(case["x"]).relu(), stage.weight * mask, stride=stride, padding=4)
        for a, mask in zip(alpha, shared.masks, strict=True)
    )
    return difference(
        (alpha, row["alpha"]),
        (kernel[0, 0], row["merged_kernel_of_out0_in0"]),
        (before[0], row["before_bn"]),
        (output, row["output"]),
        (loss, row["loss"]),
        (gradient, row["grad_logits"]),
        (stage.weight.grad.sum(), row["grad_weight_sum"]),
        (stage.weight.grad[0, 0], row["grad_weight_out0_in0"]),
        ((apart - before[0]).abs().max(), row["max_abs_difference_to_sum_of_separate_convolutions"]),
    )


def merge_sep_conv(document: dict[str, Any]) -> float:
    """Replay the separable form, applied once and twice."""
    return largest(_separable(case, row) for case in document["merge_sep_conv"] for row in case["rows"])


def _separable(case: dict[str, Any], row: dict[str, Any]) -> float:
    candidates: dict[str, nn.Module] = {
        str(size): nn.Sequential(*separable(case["channels"], size[0], case["stride"], size[1])) for size in SIZES
    }
    how, layers, shared = edge(candidates, single=case["single"])
    for number, stage in enumerate(shared.stages, start=1):
        fill(stage.weight, case[f"depth{number}"])
        fill(stage.pointwise.weight, case[f"point{number}"])
    output, loss, gradient, alpha = outcome(how, layers, case["x"], row["logits"])
    return difference(
        (alpha, row["alpha"]), (output, row["output"]), (loss, row["loss"]), (gradient, row["grad_logits"])
    )


def merge_all(document: dict[str, Any]) -> float:
    """Replay the kernel with skip and average pooling in it, of all operations of the DARTS space."""
    case, off = document["merge_all"], []
    names = ("sep_conv_3", "sep_conv_5", "dil_conv_3", "dil_conv_5")
    _, _, shared = edge(operations(names, case["channels"], 1))
    for row in case["rows"]:
        alpha = tensor(row["logits"]).softmax(-1)
        found = merged_kernel(
            tensor(case["depth"]),
            shared.masks,
            alpha[4:],
            pointwise=tensor(case["point"]),
            average=alpha[2],
            skip=alpha[3],
        )
        off.append(difference((alpha, row["alpha"]), (found, row["kernel"])))
    return largest(off)


def nasbench201(document: dict[str, Any]) -> float:
    """Replay NAS-Bench-201's choices, whose skip is added before the batch-norm."""
    case, off = document["nasbench201"], []
    channels = case["channels"]

    def candidate(size: int, dilation: int) -> nn.Module:
        if dilation == 0:
            return nn.Identity()
        if size == 0:
            return Zero()
        conv = nn.Conv2d(channels, channels, size, padding=size // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(channels))

    how, layers, shared = edge({str(kd): candidate(*kd) for kd in case["kd"]})
    for row in case["rows"]:
        fill(shared.stages[0].weight, case["weight"])
        output, loss, gradient, _ = outcome(how, layers, case["x"], row["logits"])
        off.append(difference((output, row["output"]), (loss, row["loss"]), (gradient, row["grad_logits"])))
    return largest(off)


SECTIONS = {
    "merge_conv": merge_conv,
    "merge_sep_conv": merge_sep_conv,
    "merge_all": merge_all,
    "nasbench201": nasbench201,
}
