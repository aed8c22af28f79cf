"""Whether a network can be trained on images, and what is known of it when it has been tested."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from balenas_plugin.deployment import measure_latency
from balenas_plugin.errors import DataError, EvaluatorError, NonFiniteLossError, OptionError, SpaceError, first_line
from balenas_plugin.proxies.flops import flops
from balenas_plugin.proxies.params import params
from balenas_plugin.restoring import untouched
from balenas_plugin.training.image_training import TOP, ImageTraining, require_logged
from balenas_plugin.training.language_models.text_training import TextTraining
from balenas_plugin.training.recipe import Recipe
from balenas_plugin.training.trained_network import wilson_interval
from balenas_plugin.training.training_data import TrainingData

_REPEATS = 30  # of which the latency is the median
_ACCURACIES = ("test_accuracy", "test_acc", "accuracy", "acc", "val_accuracy", "val_acc")
"""What modules call the accuracy that they log, the most telling first."""


def require_fit(network: nn.Module, data: TrainingData, recipe: Recipe) -> None:
    """Refuse a network that cannot take the images, has not as many outputs as classes, or not what the recipe uses.

    Raises:
        SpaceError: it does not fit the data.
        OptionError: it has no auxiliary head, or drops no paths, and the recipe asks for it; or early stopping watches
            what is not logged.
    """
    if recipe.early_stopping is not None:
        require_logged(recipe.monitor, validates=data.validation is not None)
    count, classes = len(data.training), len(data.class_names)
    last = (count - 1) % recipe.batch_size + 1
    images = torch.zeros(min(last, 2), *data.image_shape, dtype=next(network.parameters()).dtype)
    try:
        with untouched(network), torch.no_grad():
            outputs = network.cpu().train()(images)
    except (RuntimeError, TypeError, ValueError) as error:
        cure = ". Check its sizes, and data.image_size."
        if last == 1:
            cure = ": the last batch of an epoch is a single image; set batch_size to another number"
        raise SpaceError(
            f"the network cannot be trained on images of shape {tuple(data.image_shape)} ({first_line(error)}){cure}"
        ) from error
    lacking = {
        "auxiliary": recipe.auxiliary and not isinstance(outputs, tuple),
        "drop_path": recipe.drop_path and not hasattr(network, "new_epoch"),
    }
    for option in (name for name, lacks in lacking.items() if lacks):
        raise OptionError(
            f"the recipe's {option} is more than 0, which networks of the DARTS space have, and this one does not: set "
            f"{option} to 0, or take another recipe"
        )
    logits = outputs[0] if isinstance(outputs, tuple) else outputs
    if logits.shape[1] != classes:
        raise SpaceError(f"the network has {logits.shape[1]} outputs, and the data have {classes} classes")


def deployed(network: nn.Module) -> nn.Module:
    """Return the network without the auxiliary head that it was trained with; it shares the weights."""
    if getattr(network, "auxiliary_head", None) is None:
        return network
    without = copy.copy(network)
    without._modules = {**network._modules, "auxiliary_head": None}
    return without


def measured_images(module: ImageTraining, data: TrainingData) -> dict[str, Any]:
    """Return what is known of an image classifier that was tested, by the names of `TrainedNetwork`."""
    confusion = module.confusion.compute().cpu()
    images = int(confusion.sum())
    if not images:
        raise DataError("there are no test images")
    right = int(confusion.diag().sum())
    return {
        "test_accuracy": right / images,
        "interval": wilson_interval(right, images),
        "top5_accuracy": float(module.top5.compute()) if len(data.class_names) > TOP else None,
        "confusion": confusion.tolist(),
        "class_names": data.class_names,
        **costs_of(deployed(module.network), torch.zeros(1, *data.image_shape)),
    }


def measured_text(module: TextTraining) -> dict[str, Any]:
    """Return what is known of a language model that was tested, by the names of `TrainedNetwork`.

    Raises:
        NonFiniteLossError: its loss on the test text is not finite.
    """
    perplexity = float(module.test_perplexity)
    if not math.isfinite(perplexity):
        raise NonFiniteLossError(
            f"the test perplexity is {perplexity}, so the weights have grown too large: lower "
            "optimizer.lr, or train longer"
        )
    right, words = float(module.right.compute()), int(module.right.weight)
    return {
        "test_accuracy": right,
        "interval": wilson_interval(round(right * words), words),
        "test_perplexity": perplexity,
        **costs_of(module.network, torch.zeros(1, 1, dtype=torch.int64)),
    }


def measured_module(module: pl.LightningModule, network: nn.Module, trainer: pl.Trainer) -> dict[str, Any]:
    """Return what a module has logged in its test, and what its network costs, by the names of `TrainedNetwork`.

    Raises:
        EvaluatorError: it logs no accuracy.
    """
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    found = next((logged[name] for name in _ACCURACIES if name in logged), None)
    if found is None:
        raise EvaluatorError(
            f"{type(module).__name__} logs no accuracy in its test or validation (it logs "
            f"{', '.join(sorted(logged)) or 'nothing'}): call self.log('test_acc', ...) in test_step"
        )
    loader: Any = trainer.test_dataloaders or trainer.val_dataloaders
    examples = len(loader.dataset) if hasattr(loader, "dataset") else 0
    batch = next(iter(loader), None) if examples else None
    inputs = batch[0] if isinstance(batch, list | tuple) else None
    return {
        "test_accuracy": found,
        "interval": wilson_interval(round(found * examples), examples) if examples and 0 <= found <= 1 else (0.0, 1.0),
        "metrics": logged,
        **(costs_of(network, inputs[:1]) if isinstance(inputs, Tensor) else {}),
    }


def costs_of(network: nn.Module, example: Tensor) -> dict[str, Any]:
    """Return what a network costs, by the names of `TrainedNetwork`, on the CPU of this machine.

    Args:
        network: it is moved to the CPU.
        example: an input of one.
    """
    network = network.cpu().eval()
    example = example.cpu()
    if example.is_floating_point():  # words are numbers
        example = example.to(next(network.parameters()).dtype)
    latency = measure_latency({"network": network}, example, repeats=_REPEATS)
    return {
        "parameters": round(params(network, example)),
        "multiply_adds": round(flops(network, example) / 2),
        "latency_ms": latency.milliseconds["network"],
        "machine": f"{latency.machine} ({latency.processor}, 1 thread)",
    }
