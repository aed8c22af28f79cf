"""What the DARTS space and S1 to S4 have in common: tensors loaded by order, a supernet's passes, genotypes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balenas_plugin import DARTS
from balenas_plugin.adapters.nni.run.build import build_space
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters
from balenas_plugin.bayes.architectures import Architectures
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.search_spaces import get_space
from balenas_plugin.search_spaces.darts import from_nni
from replays import difference, largest, tensor


def load_by_order(network: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    """Copy tensors into a network's state, both in module order, counters of batches left out; return it in float64."""
    names = [name for name in network.state_dict() if "num_batches" not in name and "_arch_alpha" not in name]
    state = dict(zip(names, tensors.values(), strict=True))
    network.load_state_dict(state, strict=False)
    return network.double()


def images(*shape: int) -> Tensor:
    """Return the input of the vectors."""
    return tensor(0.37 * torch.arange(torch.Size(shape).numel(), dtype=torch.float64)).sin().view(shape)


def by_label(alphas: Any) -> dict[str, Tensor]:
    """Return the reference's alphas, a row an edge, as label -> logits."""
    edges = [(node, source) for node in range(2, 6) for source in range(node)]
    rows = zip(("normal", "reduce"), alphas, strict=True)
    return {
        f"{cell}/{node}_{source}": tensor(row)
        for cell, given in rows
        for (node, source), row in zip(edges, given, strict=True)
    }


def tensors_beside(document: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of the file's neighbour."""
    found: dict[str, dict[str, Tensor]] = torch.load(Path(document["path"]).with_suffix(".pt"), weights_only=True)
    return found


def replayed_supernet(name: str, case: dict[str, Any], tensors: dict[str, Tensor]) -> float:
    """Return the largest difference of a supernet's passes, gradients and genotype, in our fused form."""
    model = build_space({"name": name, "width": 4, "num_cells": 5}, num_classes=10)
    network = load_by_order(DARTS().mutate_model(model), tensors)
    alphas = architecture_parameters(network)
    given = by_label(case["alphas"])
    with torch.no_grad():
        for label, alpha in alphas.items():
            alpha.copy_(given[label])
    inputs = images(3, 3, 32, 32)
    logits = {"eval": network.eval()(inputs), "train": network.train()(inputs)}
    loss = F.cross_entropy(logits["train"], torch.tensor(case["labels"]))
    loss.backward()
    weights = [p for p in network.parameters() if all(p is not alpha for alpha in alphas.values())]
    grads = {label: alpha.grad for label, alpha in alphas.items()}
    return max(
        difference(
            *((logits[mode], case[f"{mode}_logits"]) for mode in logits),
            (loss, case["train_loss"]),
            ([w.grad.norm() for w in weights], case["grad_l2_by_parameter"]),
            *((grads[label], row) for label, row in by_label(case["alpha_grads"]).items()),
        ),
        replayed_genotype(name, case),
    )


def replayed_genotype(name: str, case: dict[str, Any]) -> float:
    """Return 0 where alphas give the reference's genotype, pair by pair in its order."""
    space, logits = get_space(name), by_label(case["alphas"])
    posterior = Posterior(logits, {label: torch.ones_like(row) for label, row in logits.items()})
    found = from_nni(Architectures(space.decisions, posterior).discretise(logits))
    return float(
        {k: [list(e) if isinstance(e, tuple) else e for e in v] for k, v in found._asdict().items()} != case["genotype"]
    )


def replayed_supernets(document: dict[str, Any], names: dict[str, str]) -> float:
    """Return the largest difference of the section `supernet`."""
    tensors = tensors_beside(document)
    return largest(replayed_supernet(names[k], case, tensors[k]) for k, case in document["supernet"].items())


def replayed_discretise(document: dict[str, Any], names: dict[str, str]) -> float:
    """Return the largest difference of the section `discretise`."""
    return largest(replayed_genotype(names[k], case) for k, cases in document["discretise"].items() for case in cases)


def replayed_counts(document: dict[str, Any], names: dict[str, str]) -> float:
    """Return by how much the numbers of weights that the descriptions name are missed."""
    off = []
    for k, described in document["meta"]["spaces"].items():
        model = build_space({"name": names[k]}, num_classes=10)
        alphas = architecture_parameters(network := DARTS().mutate_model(model))
        weights = sum(p.numel() for p in network.parameters()) - sum(a.numel() for a in alphas.values())
        off.append(difference((weights, described["weights_C16_L8"])))
    return largest(off)
