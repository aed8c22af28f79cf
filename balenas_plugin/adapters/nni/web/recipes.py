"""How a trial in another process, perhaps on another machine, makes a search anew.

A recipe is JSON. `ConfiguredSearch` is a config of `balenas ui`; `ScriptedSearch` describes the objects of a script.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import Lightning
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.space import RawFormatModelSpace

from balenas_plugin.adapters.nni.callbacks.checkpoint import SearchCheckpoint
from balenas_plugin.adapters.nni.run.build import build_evaluator, build_space
from balenas_plugin.adapters.nni.run.config_run import architecture_records, run_search
from balenas_plugin.adapters.nni.run.reports import EpochReports
from balenas_plugin.adapters.nni.run.tasks import task_of
from balenas_plugin.adapters.nni.strategies.of_presets import strategy_class
from balenas_plugin.adapters.nni.web.description import Description, Rebuilding
from balenas_plugin.adapters.nni.web.found import Found
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.config import SearchConfig
from balenas_plugin.data import DataConfig
from balenas_plugin.errors import FileFormatError, OptionError
from balenas_plugin.files import write_atomically
from balenas_plugin.restoring import random_states, set_random_states
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.training.architecture import Trainable, searched_architecture

_INLINE = 1 << 20
"""Bytes of tensors that may travel inside a trial's parameters where no file system is shared."""


class SearchRecipe(Protocol):
    """What a trial needs to make a search, or a network from it."""

    @property
    def seed(self) -> int:
        """Of everything random in a network's training."""
        ...

    @property
    def folder(self) -> str | None:
        """Where the search writes, on the machine that started it; None where trials run on others."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as plain values."""
        ...

    def search(self, reports: EpochReports) -> Found:
        """Run the search, or continue it where it was killed."""
        ...

    def build(self) -> tuple[ModelSpace, Lightning]:
        """Return the space and the evaluator, everything random seeded."""
        ...

    def trainable(self, choices: Mapping[str, Any]) -> Trainable | None:
        """Return an architecture as `balenas train` takes it; None where only the evaluator knows the data."""
        ...


def recipe_from_json(document: Mapping[str, Any]) -> SearchRecipe:
    """Return the recipe that `to_json` gave."""
    kinds = {"config": ConfiguredSearch, "script": ScriptedSearch}
    return kinds[document["kind"]](**{key: value for key, value in document.items() if key != "kind"})


def trial_folder() -> Path:
    """Return the folder that NNI gives this trial."""
    return Path(os.environ.get("NNI_OUTPUT_DIR", "."))


def candidate_place(recipe: SearchRecipe, rank: int) -> Path:
    """Return where a trained candidate is written, without a suffix: beside the search, or where its trial writes."""
    return Path(recipe.folder or trial_folder()) / "candidates" / f"architecture_{rank:03d}"


def found_in(folder: RunFolder) -> Found:
    """Return what the search of a folder has found."""
    return Found(
        posterior=Posterior.load(folder.posterior),
        records=folder.read_architectures(),
        checkpoint=str(SearchCheckpoint(folder.checkpoints).path.resolve()),
    )


@dataclass(frozen=True, kw_only=True)
class ConfiguredSearch:
    """A search from a config.

    Args:
        config: as `SearchConfig.to_dict` gives it.
        folder: of the run, where the machine that started the experiment is the one that runs the trial; None: inside
            the trial's own folder.
    """

    config: Mapping[str, Any]
    folder: str | None = None

    @property
    def seed(self) -> int:
        """That of the config."""
        return SearchConfig.from_dict(self.config).seed

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as plain values."""
        return {"kind": "config", "config": dict(self.config), "folder": self.folder}

    def search(self, reports: EpochReports) -> Found:
        """Run the search and write its folder."""
        config = SearchConfig.from_dict(self.config)
        folder = RunFolder(Path(self.folder) if self.folder else trial_folder() / "search")
        run_search(config, folder, resume=folder.manifest.exists(), callbacks=[reports], show_progress=False)
        return found_in(folder)

    def build(self) -> tuple[ModelSpace, Lightning]:
        """Return the space and the evaluator."""
        config = SearchConfig.from_dict(self.config)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        pl.seed_everything(config.seed, workers=True, verbose=False)
        data = task_of(config).load(config.data)
        space = build_space(config.space, num_classes=data.num_classes)
        return space, build_evaluator(config, data, RunFolder(trial_folder()), [])

    def trainable(self, choices: Mapping[str, Any]) -> Trainable | None:
        """Return an architecture of a search on images, and all of them."""
        config = SearchConfig.from_dict(self.config)
        return searched_architecture(config, dict(choices)) if isinstance(config.data, DataConfig) else None


@dataclass(frozen=True, kw_only=True)
class ScriptedSearch:
    """A search described by its objects, which starts where the script stood: same weights, same random numbers.

    Args:
        space, evaluator, strategy: their descriptions; the strategy's is of its options.
        method: name of the strategy.
        script: the script that holds some of their classes.
        paths: where Python looked for modules.
        threads: of torch; the last digits depend on it.
        seed: of everything random where the starting point cannot be read: on a machine that shares no files.
        start: file of the starting point: the space's weights, the random generators, the tensors described.
        tensors: the tensors described, in base64, where there is no such file.
        folder: of the search's checkpoint; None: inside the trial's own folder.
    """

    space: Any
    evaluator: Any
    strategy: Any
    method: str
    script: str | None
    paths: Sequence[str]
    threads: int
    seed: int
    start: str | None = None
    tensors: str | None = None
    folder: str | None = None

    @classmethod
    def of(
        cls, space: ModelSpace, evaluator: Lightning, method: str, options: Mapping[str, Any], *, folder: Path | None
    ) -> ScriptedSearch:
        """Describe a search before anything of it is changed.

        Args:
            space: as the user made it.
            evaluator: likewise.
            method: name of the strategy.
            options: of it.
            folder: which the trial can read and write too; None on another machine.

        Raises:
            OptionError: an object cannot be described.
            StorageError: the starting point cannot be written.
        """
        description = Description()
        documents = {
            "space": description.describe(space, "the model space"),
            "evaluator": description.describe(evaluator, "the evaluator"),
            "strategy": {name: description.describe(value, f"{method}({name}=...)") for name, value in options.items()},
        }
        recipe = cls(
            **documents,
            method=method,
            script=description.script,
            paths=[str(Path(path).resolve()) for path in sys.path],
            threads=torch.get_num_threads(),
            seed=int.from_bytes(hashlib.sha256(torch.get_rng_state().numpy().tobytes()).digest()[:4]),
        )
        if folder is not None:
            start = {"weights": space.state_dict(), "random": random_states(), "tensors": description.tensors}
            write_atomically(folder / "start.pt", lambda file: torch.save(start, file))
            return replace(recipe, start=str(folder / "start.pt"), folder=str(folder))
        if not description.tensors:
            return recipe
        packed = io.BytesIO()
        torch.save(description.tensors, packed)
        if packed.tell() > _INLINE:
            raise OptionError(
                f"the data holds {packed.tell()} bytes of tensors, more than travel to a trial on another machine "
                f"({_INLINE}): let the trial load it itself, by a data set class under @nni.trace"
            )
        return replace(recipe, tensors=base64.urlsafe_b64encode(packed.getvalue()).decode("ascii"))

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as plain values."""
        return {"kind": "script", **asdict(self)}

    def search(self, reports: EpochReports) -> Found:
        """Run the search in this process, exactly as NNI's sequential engine would have in the script's."""
        space, evaluator, start = self._build()
        folder = Path(self.folder) if self.folder else trial_folder() / "search"
        recipe = hashlib.sha256(json.dumps(self.to_json(), sort_keys=True, default=str).encode()).hexdigest()
        checkpoint = SearchCheckpoint(folder / "checkpoints", run={"recipe": recipe})
        evaluator.trainer.callbacks.extend([reports, checkpoint])
        rebuilding = self._rebuilding(start)
        options = {name: rebuilding.make(value) for name, value in self.strategy.items()}
        strategy = strategy_class(self.method)(**options)
        if start is not None:
            space.load_state_dict(start["weights"])
            set_random_states(start["random"])
        engine = SequentialExecutionEngine()
        engine.register_model_event_callback("intermediate_metric", lambda event: _note(reports, event.metric))
        strategy.initialize(RawFormatModelSpace(space, evaluator), engine)
        if checkpoint.path.exists():
            strategy.load_state_dict({"ckpt_path": str(checkpoint.path)})
        strategy.run()
        if strategy.selection is not None:
            strategy.ranked = strategy.rank()
        return Found(
            posterior=strategy.posterior,
            records=list(architecture_records(strategy, space, max(strategy.options.candidate_trials, 1))),
            ranking=strategy.ranked,
            checkpoint=str(checkpoint.path.resolve()),
        )

    def build(self) -> tuple[ModelSpace, Lightning]:
        """Return the space and the evaluator."""
        space, evaluator, _ = self._build()
        pl.seed_everything(self.seed, workers=True, verbose=False)
        return space, evaluator

    def trainable(self, choices: Mapping[str, Any]) -> Trainable | None:
        """Return None: the data are the evaluator's."""
        return None

    def _build(self) -> tuple[ModelSpace, Lightning, dict[str, Any] | None]:
        torch.set_num_threads(self.threads)
        sys.path.extend(path for path in self.paths if path not in sys.path)
        start = self._start()
        rebuilding = self._rebuilding(start)
        pl.seed_everything(self.seed, workers=True, verbose=False)
        space, evaluator = rebuilding.make(self.space), rebuilding.make(self.evaluator)
        return space, evaluator, start

    def _start(self) -> dict[str, Any] | None:
        if self.start is None:
            return None
        try:
            return dict(torch.load(self.start, map_location="cpu", weights_only=True))
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            raise FileFormatError(
                f"cannot read {self.start}, where the search starts: {error}. Start the experiment anew."
            ) from error

    def _rebuilding(self, start: Mapping[str, Any] | None) -> Rebuilding:
        if start is not None:
            return Rebuilding(list(start["tensors"]), self.script)
        packed = base64.urlsafe_b64decode(self.tensors or "")
        tensors = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True) if packed else []
        script = self.script
        if script is not None and not Path(script).exists():
            script = str(Path(Path(script).name))  # NNI has copied the script's folder to where the trial starts
        return Rebuilding(tensors, script)


def _note(reports: EpochReports, metric: Any) -> None:
    reports.reported = float(metric["default"] if isinstance(metric, Mapping) else metric)
