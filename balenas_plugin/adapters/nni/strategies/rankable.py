"""Rank one architecture at the first batch, so that what a selection cannot do is reported before the search."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule

from balenas_plugin.adapters.nni.one_shot.metrics import undisturbed
from balenas_plugin.adapters.nni.supernets.supernet_decisions import exported
from balenas_plugin.errors import SpaceError
from balenas_plugin.selection.scoring import require_scorable

_logger = logging.getLogger(__name__)


def require_rankable(module: BaseOneShotLightningModule, to_rank: Callable[[], Mapping[str, Any]]) -> None:
    """Score the architecture that a search would find now, and leave the search as it was.

    Args:
        module: of the search.
        to_rank: returns the arguments of `rank` but the posterior.

    Raises:
        EvaluatorError: a batch of a loader is not (inputs, labels).
        OptionError: a proxy cannot score networks of the space, or the supernet's accuracy cannot be counted.
    """
    with undisturbed(module, seed=0):
        architecture = exported(module)
        try:
            require_scorable(architecture, **to_rank())
        except SpaceError as error:  # which says nothing of the other architectures
            _logger.warning("the ranking of the selection will fail if it comes upon %s: %s", architecture, error)
