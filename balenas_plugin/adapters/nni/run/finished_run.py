"""Rank what a run has found, and write networks that people can train: the work of `balenas export`."""

from __future__ import annotations

import copy
import csv
import io
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.nn.pytorch import ModelSpace
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from balenas_plugin.adapters.nni.callbacks.checkpoint import SearchCheckpoint, require_checkpoint
from balenas_plugin.adapters.nni.run.build import build_space, require_importable_elsewhere
from balenas_plugin.adapters.nni.run.config_run import quiet
from balenas_plugin.adapters.nni.run.latency_run import cost_tables
from balenas_plugin.adapters.nni.run.tasks import task_of
from balenas_plugin.adapters.nni.strategies.nni_strategies import build_strategy, is_nnis
from balenas_plugin.adapters.nni.supernets.dataflow import without_unused
from balenas_plugin.adapters.nni.supernets.found_model import exporter_space
from balenas_plugin.adapters.nni.supernets.supernet_decisions import decisions_of
from balenas_plugin.adapters.nni.supernets.trained_supernet import TrainedSupernet
from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.config import SearchConfig
from balenas_plugin.costs.table import Measure
from balenas_plugin.diagnostics import past_posterior
from balenas_plugin.errors import DataError, FileFormatError, OptionError
from balenas_plugin.files import replaced_together, write_text_atomically
from balenas_plugin.ground_truth import ground_truth_of
from balenas_plugin.report.pareto import Front
from balenas_plugin.run_folder import RunFolder, other_run
from balenas_plugin.search.mixing import mixing_of
from balenas_plugin.search_spaces import SearchSpace
from balenas_plugin.selection import ProxySelection, RankedArchitecture, rank
from balenas_plugin.selection.supernet_accuracy import estimate_batch_norm

_logger = logging.getLogger(__name__)

_STATE_PREFIX = "training_module._model."
"""Where Lightning's checkpoint of a one-shot search keeps the model space."""

_BATCH_NORM_BATCHES = 8
"""Training batches for batch-norm's statistics in the networks that are written."""

_EXPORTED = re.compile(
    r"architectures\.(json|csv)|pareto\.(json|csv|svg)|"
    r"architecture_\d{3,}(\.(svg|py|pt|onnx)|-[A-Za-z0-9-]*\.svg)"
)
"""Names of the files of an export."""


@dataclass(frozen=True)
class FinishedRun:
    """A run's space and what was learned in it.

    Args:
        folder: of the run.
        config: of the search.
        data: that it searched on.
        model_space: as configured, with fresh weights.
        supernet: the same with the weights of the search.
        posterior: over its choices.
        epoch: after which the posterior was that; None for the last. The weights are always those of the last.
        batch: inputs and targets of the architecture half, for the proxies that look at data.
    """

    folder: RunFolder
    config: SearchConfig
    data: Any
    model_space: ModelSpace
    supernet: ModelSpace
    posterior: Posterior
    batch: tuple[Tensor, Tensor]
    epoch: int | None = None

    @classmethod
    def load(cls, folder: RunFolder, *, epoch: int | None = None) -> FinishedRun:
        """Read a run's folder.

        Args:
            folder: of the run.
            epoch: take the posterior after this one, from 0; None takes the last.

        Raises:
            OptionError: its strategy has no posterior, its space is only in the working directory, or the search has no
                such epoch.
            FileFormatError: it is not the folder of a run, or a file in it is damaged.
        """
        config = folder.read_config()
        if ":" in config.space["name"] and not folder.started_here:
            require_importable_elsewhere(config.space["name"])
        if is_nnis(config.strategy["name"]) and not folder.posterior.exists():
            raise OptionError(
                f"{folder.path} was searched with {config.strategy['name']}, which leaves no posterior to export from. "
                f"The one architecture that it found is in {folder.architectures}."
            )
        strategy = build_strategy(config.strategy)  # imports a distribution of another package, and its law
        folder.require_unchanged(folder.posterior)
        posterior = Posterior.load(folder.posterior)
        if epoch is not None:
            if folder.diagnostics.exists():
                folder.require_unchanged(folder.diagnostics)
            posterior = past_posterior(folder.diagnostics, epoch, like=posterior)
        data = task_of(config).load(config.data)
        _require_same_classes(folder, data)
        torch.manual_seed(config.seed)
        model_space = build_space(config.space, num_classes=data.num_classes)
        supernet = strategy.mutate_model(copy.deepcopy(model_space))
        _load_weights(supernet, SearchCheckpoint(folder.checkpoints).path, config)
        example = data.example(config.data.batch_size)
        return cls(folder, config, data, model_space, supernet, posterior, example, epoch)

    def exporter_space(self) -> SearchSpace:
        """Return the exporter's view of the space."""
        return exporter_space(self.model_space, decisions_of(self.supernet), tuple(self.batch[0].shape[1:]))

    def rank(
        self, selection: ProxySelection, *, table: Path | None, costs: Sequence[Measure] = (), progress: bool
    ) -> list[RankedArchitecture]:
        """Rank with proxies or the supernet; add the ground truth where a table has it (nothing above has seen it).

        Args:
            selection: which candidates, ranked by what.
            table: of the ground truth.
            costs: to find out of every candidate (see `selection.rank`).
            progress: show a progress bar.
        """
        images, labels = self.batch
        measures = dict.fromkeys([*costs, *selection.limits])
        ranked = rank(
            self.posterior,
            self.exporter_space(),
            selection,
            inputs=images,
            targets=labels,
            supernet=self.trained_supernet() if selection.needs_supernet else None,
            costs=costs,
            tables=cost_tables(self.model_space, images, measures, folder=self.folder.path),
            progress=progress,
        )
        return [
            replace(found, ground_truth=ground_truth_of(found.notation, table), epoch=self.epoch) for found in ranked
        ]

    def network(self, architecture: Architecture, supernet: TrainedSupernet) -> nn.Module:
        """Return the network of an architecture, with the weights of the search where it has such.

        A search with a `MixedOp` has trained other operations, of fewer channels, say: the space's own start anew.
        """
        mixed_op = mixing_of(self.supernet).mixed_op
        if mixed_op is None:
            return supernet.network(architecture)
        _logger.warning("the search mixed operations as %s, so the network's weights are new", mixed_op.name)
        return self.exporter_space().networks(self.config.seed).build(architecture).to(supernet.device)

    def trained_supernet(self) -> TrainedSupernet:
        """Return the supernet with the two halves of the data, on the device that the config asks for."""
        loaders = task_of(self.config).loaders(
            self.config.data, self.data, seed=self.config.seed, device=torch.device("cpu")
        )
        device = _evaluation_device(self.config.evaluator.trainer.get("accelerator", "auto"))
        return TrainedSupernet(self.supernet, self.exporter_space(), *loaders, device=device)


def write_exports(
    run: FinishedRun, ranked: Sequence[RankedArchitecture], formats: Sequence[str], output: Path, *, front: Front
) -> list[Path]:
    """Write the ranked architectures in each format, and which candidates none beats; return the files written.

    Networks have the weights of the search, and batch-norm's statistics of their own: the supernet's are of its
    mixture of operations.

    Args:
        run: that they are of.
        ranked: those that are written.
        formats: any of json, csv, python, onnx, svg.
        output: folder to write to; the files of an earlier export in it are replaced when all are written.
        front: of all candidates.

    Raises:
        SpaceError: a network cannot be written in a format, or has parameters that the supernet does not have.
        StorageError: a file could not be written.
    """
    supernet = run.trained_supernet() if {"python", "onnx"} & set(formats) else None
    batches = [] if supernet is None else supernet.weight_batches(_BATCH_NORM_BATCHES, seed=0)
    inputs = [images for images, _ in batches]
    with replaced_together(output, lambda name: _EXPORTED.fullmatch(name) is not None) as folder:
        written = [*_write_front(front, formats, folder), *_write(run, ranked, formats, folder, supernet, inputs)]
    return [output / path.name for path in written]


def _write_front(front: Front, formats: Sequence[str], output: Path) -> Iterator[Path]:
    rows = front.to_dict()["candidates"]
    texts = {"json": json.dumps(front.to_dict(), indent=1) + "\n", "csv": _table(rows)}
    texts["svg"] = front.picture().render("svg").decode() if "svg" in formats and front.best else ""
    for name in (name for name, text in texts.items() if name in formats and text):
        path = output / f"pareto.{name}"
        write_text_atomically(path, texts[name])
        yield path


def _write(
    run: FinishedRun,
    ranked: Sequence[RankedArchitecture],
    formats: Sequence[str],
    output: Path,
    supernet: TrainedSupernet | None,
    inputs: Sequence[Tensor],
) -> list[Path]:
    written = []
    if "json" in formats:
        written.append(output / "architectures.json")
        write_text_atomically(written[-1], json.dumps([found.to_dict() for found in ranked], indent=1) + "\n")
    if "csv" in formats:
        written.append(output / "architectures.csv")
        write_text_atomically(written[-1], _csv(ranked))
    example = run.batch[0][:2]
    for found in ranked:
        name, title = f"architecture_{found.rank:03d}", next(iter(found.notation.values()), f"rank {found.rank}")
        if "svg" in formats:
            from balenas_plugin.report.drawings import draw_found

            written += draw_found(output, name, found, title=title)
        if supernet is None:
            continue
        network = run.network(found.choices, supernet)
        estimate_batch_norm(network, inputs)
        network = without_unused(network.cpu(), example)
        if "python" in formats:
            from balenas_plugin.export.standalone import write_standalone

            about = title if found.notation else f"{title}: {json.dumps(found.choices)}"
            written += write_standalone(
                network,
                output,
                name=name,
                example=example,
                title=about,
                task=run.data.task,
                source=run.exporter_space().standalone_source(network, about),
            )
        if "onnx" in formats:
            from balenas_plugin.export.onnx_file import write_onnx

            written.append(output / f"{name}.onnx")
            write_onnx(network, written[-1], example=example, task=run.data.task)
    return written


def _evaluation_device(accelerator: str) -> torch.device:
    """Return the device that Lightning takes for an accelerator; the CPU where there is none of its kind."""
    quiet()
    try:
        trainer = pl.Trainer(accelerator=accelerator, devices=1, logger=False, enable_checkpointing=False)
    except MisconfigurationException:
        return torch.device("cpu")
    return trainer.strategy.root_device


def _csv(ranked: Sequence[RankedArchitecture]) -> str:
    rows = []
    for found in ranked:
        record = found.to_dict()
        row = {key: value for key, value in record.items() if not isinstance(value, dict)}
        row |= {f"score_{proxy}": value for proxy, value in record["scores"].items()}
        row |= {f"notation_{name}": text for name, text in record["notation"].items()}
        row |= {f"choice_{label}": value for label, value in record["choices"].items()}
        for dataset, metrics in record.get("ground_truth", {}).get("values", {}).items():
            row |= {f"ground_truth_{dataset}_{metric}": value for metric, value in metrics.items()}
        rows.append(row)
    return _table(rows)


def _table(rows: Sequence[Mapping[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _require_same_classes(folder: RunFolder, data: Any) -> None:
    """Raise if the outputs of the run's networks stand for other classes or words than those that the data have now."""
    description = folder.read_manifest().get("data", {}) if folder.manifest.exists() else {}
    words, recorded = description.get("vocabulary_sha256"), description.get("class_names")
    if words != (data.description.get("vocabulary_sha256") if description else None):
        raise DataError(
            f"the training text has other words than when {folder.path} was searched: put it back as it was"
        )
    if recorded is not None and list(recorded) != list(data.class_names):
        raise DataError(
            f"the data have other classes than when {folder.path} was searched: {', '.join(data.class_names)} in the "
            f"place of {', '.join(recorded)}. Put the folders of the images back as they were."
        )


def _load_weights(supernet: ModelSpace, path: Path, config: SearchConfig) -> None:
    if not path.exists():
        raise FileFormatError(f"{path} is missing: the weights of the search are in it. Resume the run to write it.")
    state = require_checkpoint(path, partial(other_run, config)).get("state_dict")
    state = state if isinstance(state, Mapping) else {}
    own = {key.removeprefix(_STATE_PREFIX): value for key, value in state.items() if key.startswith(_STATE_PREFIX)}
    expected = supernet.state_dict()
    unfit = [key for key in {**expected, **own} if _form(own.get(key)) != _form(expected.get(key))]
    if unfit:
        raise FileFormatError(
            f"{path} holds the weights of another space: {len(unfit)} of them differ in name, shape or type, the first "
            f"is {unfit[0]}. Put the right one back."
        )
    broken = [key for key, value in own.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise FileFormatError(f"{path} holds weights that are NaN or infinite: {broken[0]}. Put the right one back.")
    supernet.load_state_dict(own)


def _form(tensor: object) -> tuple[object, ...]:
    return (tensor.shape, tensor.dtype) if isinstance(tensor, Tensor) else (type(tensor),)
