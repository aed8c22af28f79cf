"""Networks of a run's folder that need NNI: those of any model space, and those with the weights of a supernet."""

from __future__ import annotations

import copy

from torch import nn

from balenas_plugin.adapters.nni.run.build import build_space
from balenas_plugin.adapters.nni.run.finished_run import FinishedRun
from balenas_plugin.adapters.nni.run.tasks import task_of
from balenas_plugin.adapters.nni.supernets.found_model import NniSpace
from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.config import SearchConfig
from balenas_plugin.data.text import TrainingTexts
from balenas_plugin.errors import DataError
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.training.architecture import Data


def frozen_network(config: SearchConfig, architecture: Architecture, data: Data | None) -> nn.Module:
    """Return the network of an architecture of any model space, with fresh weights, in the sizes of the search."""
    classes, shape = (len(data.class_names), data.image_shape) if data is not None else _searched_on(config)
    return NniSpace(build_space(config.space, num_classes=classes), [], shape).build(architecture)


def _searched_on(config: SearchConfig) -> tuple[int, tuple[int, ...]]:
    data = task_of(config).load(config.data)
    inputs, _ = data.example(1)
    return data.num_classes, tuple(inputs.shape[1:])


def inherited_network(folder: RunFolder, architecture: Architecture, data: Data | None) -> nn.Module:
    """Return the network of an architecture with the weights of the run's supernet, in its sizes.

    Raises:
        DataError: the words of a text that it is trained on have other numbers than those of the search.
    """
    run = FinishedRun.load(folder)
    if isinstance(data, TrainingTexts) and data.class_names != run.data.vocabulary:
        raise DataError(
            f"the text has other words than {folder.path} was searched on, and weights belong to words: train on that "
            "text (with its data.vocabulary and data.limit), or without the weights of the supernet"
        )
    return copy.deepcopy(run.network(architecture, run.trained_supernet())).cpu()
