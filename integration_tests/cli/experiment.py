"""A user's script: search with `BaLeNAS` in NNI's own `NasExperiment`, resuming it when it was stopped before.

Shuffled loaders and dropout draw from torch's global generator, which only an exact resume restores. The posterior
and, next to it, the weights are written at the end.
"""

from __future__ import annotations

from pathlib import Path

import nni
import torch
from nni.nas.evaluator.pytorch import Classification, DataLoader
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, MutableConv2d
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from balenas_plugin import BaLeNAS

EXAMPLES, CLASSES, BATCH = 48, 4, 16


class Space(ModelSpace):
    """A layer choice, a width choice, and dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        layers = {"conv3": nn.Conv2d(4, 4, 3, padding=1), "conv1": nn.Conv2d(4, 4, 1), "skip": nn.Identity()}
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.layer = LayerChoice(layers, label="layer")
        self.dropout = nn.Dropout(0.5)
        self.expand = MutableConv2d(4, nni.choice("width", [4, 8]), 1)
        self.head = MutableConv2d(nni.choice("width", [4, 8]), CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.dropout(self.layer(self.stem(images)))
        return self.head(self.expand(features)).mean(dim=(2, 3))


def images(seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(EXAMPLES, 1, 6, 6, generator=generator)
    return TensorDataset(pixels, torch.randint(CLASSES, (EXAMPLES,), generator=generator))


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(7)
    space = Space()
    evaluator = Classification(
        num_classes=CLASSES,
        learning_rate=0.01,
        train_dataloaders=DataLoader(images(0), batch_size=BATCH, shuffle=True),
        val_dataloaders=DataLoader(images(1), batch_size=BATCH, shuffle=True),
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    strategy = BaLeNAS(arc_learning_rate=0.05, weight_step_alpha="sample", num_mc_samples=2)
    config = NasExperimentConfig.default(space, evaluator, strategy)
    config.experiment_working_directory = Path("experiments")
    experiment = NasExperiment(space, evaluator, strategy, config, id="stopped")
    experiment.run_or_resume()
    experiment.stop()
    strategy.posterior.save("posterior.json")
    torch.save(space.state_dict(), "weights.pt")
    print(experiment.export_top_models(1, formatter="dict"))


main()
