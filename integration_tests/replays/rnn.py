"""DARTS's recurrent cells: found ones, the cell of the search, and the genotypes of its alphas."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from balenas_plugin import DARTS
from balenas_plugin.adapters.nni.run.build import build_space
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters
from balenas_plugin.bayes.architectures import Architectures
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.proxies.params import params
from balenas_plugin.search_spaces import get_space
from balenas_plugin.search_spaces.darts_rnn import (
    Dropouts,
    LanguageModel,
    build_language_model,
    genotype_of,
    make_recurrent_genotype,
    read_recurrent_genotype,
)
from replays import difference, largest, tensor
from replays.darts_spaces import load_by_order, tensors_beside

INPUTS: set[str] = set()

NO_DROPOUTS = Dropouts(output=0, hidden=0, input=0, embedding=0, word=0)
SPACE = get_space("darts-rnn")


def by_label(alphas: Any) -> dict[str, Tensor]:
    """Return the reference's alphas, a row an edge, as label -> logits."""
    return {label: tensor(row) for label, row in zip(SPACE.choices, alphas, strict=True)}


def given(document: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Return words and their successors, (B, T), and a hidden state; the reference has the time first."""
    words, size = torch.tensor(document["meta"]["tokens"]), document["meta"]["size"]
    hidden = (0.1 * torch.arange(words.shape[1] * size, dtype=torch.float64)).sin().view(-1, size)
    return words.T, torch.tensor(document["meta"]["targets"]).view_as(words).T, hidden


def passed(network: LanguageModel, document: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probabilities (T, B, words), the last hidden state and the loss."""
    words, targets, hidden = given(document)
    logits, _, last = network(words, hidden)
    return logits.log_softmax(1).permute(2, 0, 1), last[None], F.cross_entropy(logits, targets)


def shapes(module: nn.Module) -> list[list[int]]:
    """Return the shapes of the weights in their order, those of the choices left out."""
    return [list(p.shape) for name, p in module.named_parameters() if "_arch_alpha" not in name]


def replayed_cell(name: str, document: dict[str, Any]) -> float:
    """Return the largest difference of a found cell's passes and sizes."""
    case, meta = document[name], document["meta"]
    genotype = make_recurrent_genotype(*case["genotype"].values())
    sizes = {"size": meta["size"], "vocabulary": meta["vocab"], "dropouts": NO_DROPOUTS}
    network = load_by_order(build_language_model(genotype, **sizes), tensors_beside(document)[name])
    found = passed(network.eval(), document)
    read = read_recurrent_genotype(f"{name} = {genotype}").sample
    with torch.device("meta"):
        whole = params(build_language_model(genotype, size=850, vocabulary=10_000), torch.empty(0))
    return max(
        difference(*zip(found, (case[key] for key in ("log_prob", "hidden", "nll")), strict=True)),
        difference((whole, case["params_vocab10000_size850"])),
        float(shapes(network) != [shape for _, shape in case["parameters"]] or genotype_of(read) != genotype),
    )


def replayed_search(document: dict[str, Any]) -> float:
    """Return the largest difference of the supernet's passes, gradients and genotype."""
    case, meta = document["search"], document["meta"]
    options = {f"{name}_dropout": 0.0 for name in ("hidden", "input", "embedding", "word")} | {"dropout": 0.0}
    model = build_space({"name": SPACE.name, "size": meta["size"], **options}, num_classes=meta["vocab"])
    network = load_by_order(DARTS().mutate_model(model), tensors_beside(document)["search"])
    alphas = architecture_parameters(network)
    rows = by_label(case["alphas"])
    with torch.no_grad():
        for label, alpha in alphas.items():
            alpha.copy_(rows[label])
        log_prob, hidden, _ = passed(network.eval(), document)
    trained, _, loss = passed(network.train(), document)
    loss.backward()
    weights = [p for name, p in network.named_parameters() if "_arch_alpha" not in name]
    return max(
        difference((log_prob, case["eval_log_prob"]), (hidden, case["eval_hidden"])),
        difference((trained, case["train_log_prob"]), (loss, case["train_nll"])),
        difference(([w.grad.norm() for w in weights], case["grad_l2_by_parameter"])),
        difference(*((alphas[label].grad, row) for label, row in by_label(case["alpha_grad"]).items())),
        float(shapes(network) != [shape for _, shape in case["parameters"]]),
        replayed_genotype(case),
    )


def replayed_genotype(case: dict[str, Any]) -> float:
    """Return 0 where alphas give the reference's genotype."""
    logits = by_label(case["alphas"])
    posterior = Posterior(logits, {label: torch.ones_like(row) for label, row in logits.items()})
    found = genotype_of(Architectures(SPACE.decisions, posterior).discretise(logits))
    return float(found != make_recurrent_genotype(*case["genotype"].values()))


def replayed_counts(document: dict[str, Any]) -> float:
    """Return by how much the number of the supernet's weights that the description names is missed."""
    model = build_space({"name": SPACE.name}, num_classes=10_000)
    return difference((params(model, torch.empty(0)), document["meta"]["search_params_vocab10000_size300"]))


SECTIONS = {
    "meta": replayed_counts,
    "DARTS_V1": lambda document: replayed_cell("DARTS_V1", document),
    "ENAS": lambda document: replayed_cell("ENAS", document),
    "search": replayed_search,
    "discretise": lambda document: largest(map(replayed_genotype, document["discretise"])),
}
