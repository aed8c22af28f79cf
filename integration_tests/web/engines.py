"""A user's script: the same search with NNI's sequential engine and with its training-service engine.

The space and the data are classes and tensors of this very script. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import nni
import torch
from nni.experiment import launcher
from nni.nas.evaluator.pytorch import Classification, DataLoader
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, MutableConv2d
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from balenas_plugin import BaLeNAS
from balenas_plugin.adapters.nni.web.in_trials import TrainedCandidate

EXAMPLES, CLASSES, BATCH = 48, 4, 16

launcher._check_rest_server = partial(launcher._check_rest_server, retry=60)  # NNI waits 4 s, too few on a busy machine


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


def evaluator_of(epochs: int) -> Classification:
    return Classification(
        num_classes=CLASSES,
        learning_rate=0.01,
        train_dataloaders=DataLoader(images(0), batch_size=BATCH, shuffle=True),
        val_dataloaders=DataLoader(images(1), batch_size=BATCH, shuffle=True),
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def search(engine: str, model_format: str, port: int, selection: dict[str, Any] | None) -> dict[str, Any]:
    torch.manual_seed(7)
    space = Space()
    evaluator = evaluator_of(3)
    strategy = BaLeNAS(
        arc_learning_rate=0.05,
        weight_step_alpha="sample",
        num_mc_samples=2,
        selection=selection,
        candidate_trials=1,
        candidate_epochs=2,
    )
    config = NasExperimentConfig(engine, model_format, "local", trial_concurrency=1)
    config.experiment_working_directory = Path("experiments")
    experiment = NasExperiment(space, evaluator, strategy, config)
    experiment.run(port)
    jobs = experiment.list_trial_jobs() if engine == "ts" else []
    found = {
        "architectures": experiment.export_top_models(4, formatter="dict"),
        "weights": [
            [float(p.double().sum()) for p in network.parameters()]
            for network in experiment.export_top_models(2, formatter="instance")
        ],
        "posterior": strategy.posterior.to_document(),
        "trials": [{"status": job.status, "finals": [metric.data for metric in job.finalMetricData]} for job in jobs],
        "last": experiment.get_job_metrics(jobs[0].trialJobId)[jobs[0].trialJobId][-1].data if jobs else None,
        "trained": {rank: trained_of(candidate) for rank, candidate in strategy.trained.items()},
        "search_space": experiment.get_experiment_profile()["params"]["searchSpace"] if engine == "ts" else None,
    }
    experiment.stop()
    return found


def trained_of(candidate: TrainedCandidate) -> dict[str, Any]:
    with nni.nas.space.model_context(candidate.choices):
        Space().load_state_dict(torch.load(candidate.checkpoint, weights_only=True))
    return {"epochs": candidate.epochs, "metric": candidate.metric}


def main() -> None:
    torch.set_num_threads(1)
    selection = {"n": 20, "proxy": "params"} if "selection" in sys.argv else None
    sequential = search("sequential", "raw", 0, selection)
    print(json.dumps([sequential, search("ts", sys.argv[1], int(sys.argv[2]), selection)]))


if __name__ == "__main__":
    main()
