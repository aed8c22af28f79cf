"""What the callbacks of Lightning that watch a search have in common."""

from __future__ import annotations

import pytorch_lightning as pl
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule

from balenas_plugin.errors import EvaluatorError


class SearchCallback(pl.Callback):
    """A callback of one-shot searches; what the same trainer trains after one is left alone.

    Hooks do nothing unless `searching`.
    """

    searching = False
    _has_searched = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Note whether a search begins, before its checkpoint is read.

        Raises:
            EvaluatorError: something else is trained, and there was no search before.
        """
        self.searching = stage == "fit" and isinstance(pl_module, BaseOneShotLightningModule)
        if self.searching:
            self._has_searched = True
        elif stage == "fit" and not self._has_searched:
            raise EvaluatorError(
                f"{type(self).__name__} is for one-shot searches, and {type(pl_module).__name__} is not one: give it "
                "to the evaluator of an experiment whose strategy is BaLeNAS or one of NNI's one-shot strategies"
            )
