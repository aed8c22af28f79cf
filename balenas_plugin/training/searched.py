"""Networks of a run's folder that need NNI: those of any model space, and those with the weights of a supernet."""

from __future__ import annotations

import copy

from torch import nn

from balenas_plugin.adapters.nni.run.build import build_space
from balenas_plugin.adapters.nni.run.finished_run import FinishedRun
from balenas_plugin.adapters.nni.supernets.found_model import NniSpace
from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.config import SearchConfig
from balenas_plugin.data import load_search_data
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.training.training_data import TrainingData


def frozen_network(config: SearchConfig, architecture: Architecture, data: TrainingData | None) -> nn.Module:
    """Return the network of an architecture of any model space, with fresh weights, in the sizes of the search."""
    classes, shape = (len(data.class_names), data.image_shape) if data is not None else _searched_on(config)
    return NniSpace(build_space(config.space, num_classes=classes), [], shape).build(architecture)


def _searched_on(config: SearchConfig) -> tuple[int, tuple[int, int, int]]:
    data = load_search_data(config.images("training a network"))
    return data.num_classes, data.image_shape


def inherited_network(folder: RunFolder, architecture: Architecture) -> nn.Module:
    """Return the network of an architecture with the weights of the run's supernet, in its sizes."""
    run = FinishedRun.load(folder)
    return copy.deepcopy(run.network(architecture, run.trained_supernet())).cpu()
