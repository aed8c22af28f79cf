"""The networks that genotypes are evaluated by: sizes, and passes of tiny ones."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balenas_plugin.proxies import get_proxy
from balenas_plugin.search_spaces.darts import Genotype, build_network, make_genotype
from replays import difference, largest
from replays.darts_spaces import images, load_by_order, tensors_beside

INPUTS: set[str] = set()


def _read(case: dict[str, Any]) -> Genotype:
    return make_genotype(**case["genotype"])


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def counts(document: dict[str, Any]) -> float:
    """Replay parameters and multiply-adds."""
    off = []
    for case in document["counts"].values():
        for key, expected in case.items():
            if "_C" in key:
                off.append(_counted(_read(case), key, expected))
    return largest(off)


def _counted(genotype: Genotype, key: str, expected: dict[str, int]) -> float:
    data, channels, cells = key.split("_")
    imagenet = data == "imagenet"
    classes = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}[data]
    found = {}
    with torch.device("meta"):
        for last_norm in (False, True):
            network = build_network(
                genotype,
                channels=int(channels[1:]),
                cells=int(cells[1:]),
                num_classes=classes,
                stem="imagenet" if imagenet else "cifar",
                auxiliary=True,
                auxiliary_last_norm=last_norm,
            )
            head = _parameters(network.auxiliary_head)
            names = (
                ("params_auxiliary_with_bn768", "params_auxiliary")
                if last_norm
                else ("params_auxiliary_without_last_bn",)
            )
            found |= dict.fromkeys(names, head)
    found["params"] = _parameters(network) - head
    for size in (32, 224):
        if f"mult_adds_{size}x{size}" in expected:
            image = torch.empty(1, 3, size, size, device="meta")
            found[f"mult_adds_{size}x{size}"] = get_proxy("flops").compute(network, image) / 2
    return difference(*((found[name], value) for name, value in expected.items()))


def tiny(document: dict[str, Any]) -> float:
    """Replay passes of tiny networks, with the auxiliary head in training."""
    tensors = tensors_beside(document)
    return largest(
        _passed(name, _read(document["counts"][name.partition("/")[0]]), case, tensors)
        for name, case in document["tiny"].items()
    )


def _passed(name: str, genotype: Genotype, case: dict[str, Any], tensors: dict[str, dict[str, Tensor]]) -> float:
    imagenet = name.partition("/")[2].startswith("imagenet")
    network = build_network(
        genotype,
        channels=4,
        cells=5,
        num_classes=12 if imagenet else 10,
        stem="imagenet" if imagenet else "cifar",
        auxiliary=True,
        auxiliary_last_norm=not imagenet or "with_bn768" in name,
    )
    head, network.auxiliary_head = network.auxiliary_head, None
    load_by_order(network, tensors[name])
    network.auxiliary_head = head.double()
    for path, value in head.named_parameters():
        with torch.no_grad():
            if value.dim() > 1:
                value.copy_((0.11 * torch.arange(value.numel(), dtype=torch.float64)).sin().view_as(value) / 10)
            else:
                value.fill_(1.0 if path.startswith("features") and path.endswith("weight") else 0.0)
    inputs = images(2, 3, *((224, 224) if imagenet else (32, 32)))
    evaluated = network.eval()(inputs)
    logits, auxiliary = network.train()(inputs)
    labels = torch.tensor([3, 7])
    loss = F.cross_entropy(logits, labels) + 0.4 * F.cross_entropy(auxiliary, labels)
    loss.backward()
    return difference(
        (evaluated, case["eval_logits"]),
        (logits, case["train_logits"]),
        (auxiliary, case["train_auxiliary_logits"]),
        (loss, case["train_loss_with_0p4_auxiliary"]),
        ([p.grad.norm() for p in network.parameters()], case["grad_l2_by_parameter"]),
    )


SECTIONS = {"counts": counts, "tiny": tiny}
