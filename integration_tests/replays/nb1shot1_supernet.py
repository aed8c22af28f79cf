"""NAS-Bench-1Shot1: the one-shot supernets, from the reference's weights to logits and gradients in alpha."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from nni.nas.nn.pytorch import ModelSpace

from balenas_plugin import DARTS
from balenas_plugin.adapters.nni.run.build import space_class
from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters
from balenas_plugin.search_spaces.nasbench1shot1 import SPACES
from replays import difference, put, tensor
from replays.nb1shot1_discretise import by_label

INPUTS: set[str] = set()
_IMAGE = (3, 32, 32)


def supernet(document: dict[str, Any], number: int) -> float:
    """Replay a space: evaluation before training, as running statistics change in a pass."""
    case, space = document[f"space_{number}"], SPACES[number]
    weights = torch.load(Path(document["path"]).with_suffix(".pt"), weights_only=True)[f"space_{number}"]
    model = _supernet(case, number).double()
    alphas = architecture_parameters(model)
    own = {id(alpha) for alpha in alphas.values()}
    state = {key: value for key, value in model.state_dict(keep_vars=True).items() if id(value) not in own}
    put([value for key, value in state.items() if not key.endswith("num_batches_tracked")], weights.values())
    rows = by_label(space.blocks, case["alphas"])
    put(alphas.values(), [rows[label] for label in alphas])

    labels = torch.tensor(case["labels"])
    images = torch.sin(0.37 * torch.arange(len(labels) * 3072, dtype=torch.float64)).view(-1, *_IMAGE)
    with torch.no_grad():
        evaluated = model.eval()(images)
    logits = model.train()(images)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    gradients = by_label(space.blocks, case["alpha_grads"])
    norms = [p.grad.norm() for key, p in model.named_parameters() if id(p) not in own and p.grad is not None]
    return difference(
        (evaluated, case["eval_logits"]),
        (logits, case["train_logits"]),
        (loss, case["train_loss"]),
        (torch.stack(norms), case["grad_l2_by_parameter"]),
        *((alpha.grad, tensor(gradients[label])) for label, alpha in alphas.items()),
    )


def _supernet(case: dict[str, Any], number: int) -> ModelSpace:
    """Return a supernet of the case's size."""
    (_, (channels, *_)), *parameters = case["parameters"]
    projections = [name for name, _ in parameters if "_input_projections.0" in name and name.endswith("0.weight")]
    model = space_class(SPACES[number].name)(channels=channels, num_cells=len(projections))
    return DARTS().mutate_model(model)


SECTIONS = {f"space_{number}": lambda document, number=number: supernet(document, number) for number in SPACES}
