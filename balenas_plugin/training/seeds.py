"""Train an architecture with several seeds: the work of `balenas train`."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from balenas_plugin.config import apply_override
from balenas_plugin.data import DataConfig
from balenas_plugin.data.sources import SOURCES
from balenas_plugin.data.text import TextConfig, TrainingTexts, load_training_texts
from balenas_plugin.data.text.text_sources import TEXTS
from balenas_plugin.deployment import ONNX, deploy, require_deployable
from balenas_plugin.errors import EvaluatorError, OptionError, SpaceError
from balenas_plugin.export.onnx_file import write_onnx
from balenas_plugin.export.standalone import write_standalone
from balenas_plugin.files import replaced_together, write_text_atomically
from balenas_plugin.options import read_options
from balenas_plugin.restoring import random_numbers_restored
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.search_spaces import LANGUAGE_MODELLING
from balenas_plugin.training.architecture import Data, Trainable, find_architecture
from balenas_plugin.training.fitting import Devices, quiet, train_module, train_network
from balenas_plugin.training.language_models.text_training import text_options
from balenas_plugin.training.measuring import deployed
from balenas_plugin.training.recipe import NetworkSizes, Recipe, load_recipe, require_images, usual_recipe
from balenas_plugin.training.trained_network import TrainedNetwork, TrainResult
from balenas_plugin.training.training_data import OF_SEARCHES, TrainingData, load_training_data

ARCHITECTURES = "architectures.json"
EXPORTED = "network"
"""Name of the stand-alone module with the trained weights, network.py and network.pt."""

Given = Data | DataConfig | TextConfig | Mapping[str, Any] | str | os.PathLike[str]
"""Images or a text to train on: loaded, as a config's section `data`, the name of a data set, or a folder."""

MakeModule = Callable[[nn.Module], Any]
"""Makes a Lightning module of a network, or an evaluator of NNI (its `Lightning`), with their loaders."""

_logger = logging.getLogger(__name__)


def train(
    architecture: str | Path | Callable[[], nn.Module],
    *,
    data: Given | None = None,
    recipe: str | Path | Recipe | None = None,
    seeds: Sequence[int] = (0,),
    output: str | Path,
    overrides: Iterable[str] = (),
    module: str | MakeModule | None = None,
    rank: int = 1,
    warm_start: bool = False,
    onnx: bool = False,
    int8: bool = False,
    resume: bool = False,
    progress: bool = True,
    accelerator: str = "auto",
    devices: int | str = 1,
    precision: str = "32-true",
    num_workers: int = 0,
) -> TrainResult:
    """Train an architecture on all training images with one or several seeds, and test each network.

    The folder gets train.json (what is returned), a folder seed_<seed> for each network (`train_network`), and the
    first network as a stand-alone module, network.py with network.pt, and the architecture, if it has a notation, as
    `balenas export` writes it.

    Args:
        architecture: the folder of a run, a file of `balenas export`, a notation of any space (NAS-Bench-201's string,
            a genotype, one of NAS-Bench-1Shot1), or a function that makes a network.
        data: to train and to test on; None: what the run searched on, or the digits, or for a recurrent cell the
            language reference of Python's help().
        recipe: how; a name (`list_recipes`), a YAML file, or a recipe; None: "small", for a text "text-small", or
            "user-module" with a `module`.
        seeds: each of the weights, the order of the images, their augmentation and dropped paths.
        output: folder to write to.
        overrides: "epochs=5", "optimizer.lr=0.1", "data.limit=100": of the recipe and the data, the later winning.
        module: a function of the network, or "module:name" of one, that returns a Lightning module or an evaluator of
            NNI, with loaders; then `data` is not used.
        rank: which of the architectures of a run or of a .json file.
        warm_start: begin with the weights of the supernet of a run, or with those beside a .py file.
        onnx: write the first network as ONNX too, with a script that classifies images by it (`deploy`); a language
            model alone, for sequences as long as those of the training.
        int8: write it quantised besides, tested again.
        resume: go on with what is in the folder.
        progress: whether bars are shown.
        accelerator, devices, precision, num_workers: as of `Devices`.

    Raises:
        BalenasError: bad input; what is written already is whole.
        KeyboardInterrupt: the user stopped it; it can be resumed.
    """
    quiet()
    folder, given = Path(output), list(overrides)
    of_data = [text.removeprefix("data.") for text in given if text.startswith("data.")]
    _require_of_training(of_data)
    if RunFolder(folder).manifest.exists():
        raise OptionError(f"{folder} is the folder of a run: choose another --output, for example {folder / 'trained'}")
    found = find_architecture(architecture, rank=rank)
    data = found.data if data is None else data
    texts = module is None and _is_text(data, found)
    usual = usual_recipe(texts=texts) if module is None else "user-module"
    recipe = load_recipe(recipe or usual, [text for text in given if not text.startswith("data.")])
    _require_sizes(found, given, warm_start=warm_start)
    build = found.inherited if warm_start else found.build
    if build is None:
        raise OptionError(
            "there are no weights to start from: --warm-start needs the folder of a run, or a .py file of `balenas "
            "export`"
        )
    if not seeds or len(set(seeds)) != len(seeds):
        raise OptionError(f"seeds must be different ones, at least one, got {list(seeds)}")
    if onnx or int8:
        if module is not None:
            raise OptionError("onnx and int8 are for images, which a module of your own need not have: leave them out")
        if texts and int8:
            raise OptionError("int8 is for classifiers of images, and this is a language model: leave it out")
        require_deployable()
    make_module = _imported(module) if isinstance(module, str) else module
    loaded: Data | None = None
    if make_module is None:
        if isinstance(data, TrainingData | TrainingTexts):
            loaded = data
        else:
            loaded = _load(data, of_data, recipe, texts=texts, progress=progress)
    networks: list[tuple[TrainedNetwork, nn.Module]] = []
    for seed in seeds:
        with random_numbers_restored(seed):
            network = build(recipe, loaded)
        options: dict[str, Any] = {
            "folder": folder / f"seed_{seed}",
            "seed": seed,
            "progress": progress,
            "resume": resume,
            "devices": Devices(accelerator=accelerator, devices=devices, precision=precision, num_workers=num_workers),
            "described": {"architecture": found.title, "warm_start": warm_start},
        }
        if loaded is not None:
            trained = train_network(network, loaded, recipe, **options)
        else:
            assert make_module is not None
            own, loaders = module_of(make_module(network), network)
            trained = train_module(own, recipe, loaders=loaders, network=network, **options)
        networks.append((trained, network))
    first = deployed(networks[0][1]).cpu().eval()
    result = TrainResult(
        networks=[trained for trained, _ in networks],
        folder=str(folder),
        architecture=found.title,
        recipe=recipe.name,
        network=first if loaded is None else first.float(),  # as inputs are, whatever the precision was
        data=loaded,
    )
    if options["devices"].helps:
        return result
    _write(result, found)
    if (onnx or int8) and isinstance(result.data, TrainingData):
        result = replace(result, deployed=deploy(result.network, result.data, folder, int8=int8, progress=progress))
        result.save()
    elif onnx and result.data is not None:
        write_onnx(result.network, folder / ONNX, example=_examples(result.data), task=result.data.task)
    return result


def _examples(data: Data) -> Tensor:
    """Return one or two inputs of the test."""
    return torch.stack([data.test[k][0] for k in range(min(2, len(data.test)))])


def _write(result: TrainResult, found: Trainable) -> None:
    """Write what is known, and the architecture and the first network as `balenas export` writes them."""
    result.save()
    space = found.space
    notations = {} if space is None or found.choices is None else space.notations(found.choices)
    if notations:
        record = {"rank": 1, "choices": found.choices, "notation": notations}
        write_text_atomically(Path(result.folder, ARCHITECTURES), json.dumps([record], indent=1) + "\n")
    if result.data is None:
        return
    names = {f"{EXPORTED}.py", f"{EXPORTED}.pt"}
    title = result.architecture
    source = None if space is None else space.standalone_source(result.network, title)
    try:
        with replaced_together(Path(result.folder), names.__contains__) as staging:
            how: dict[str, Any] = {
                "example": _examples(result.data),
                "title": title,
                "task": result.data.task,
                "source": source,
            }
            write_standalone(result.network, staging, name=EXPORTED, **how)
    except SpaceError as error:
        _logger.warning("No stand-alone module was written: %s", error)


def _is_text(data: Any, found: Trainable) -> bool:
    """Return whether a training is on a text, as its data say, or else what is trained.

    Raises:
        OptionError: the data are for another task than the space of what is trained.
    """
    name = data.get("name") if isinstance(data, Mapping) else data
    named = name in (*SOURCES, *TEXTS) if isinstance(name, str) else False
    of_text = name in TEXTS if named else isinstance(data, TextConfig | TrainingTexts)
    told = named or isinstance(data, TextConfig | TrainingTexts | DataConfig | TrainingData)
    if found.space is None or not told:
        return of_text if found.space is None else found.space.task == LANGUAGE_MODELLING
    if of_text != (found.space.task == LANGUAGE_MODELLING):
        raise OptionError(
            f"networks of the space {found.space.name} are for {found.space.task}, and these data are not: take one of "
            f"{', '.join(SOURCES if of_text else TEXTS)}, or a folder"
        )
    return of_text


def _require_sizes(found: Trainable, overrides: Sequence[str], *, warm_start: bool) -> None:
    """Refuse a size that was asked for and would not be taken; those of a shipped recipe may be."""
    space = found.space
    taken = [] if space is None else [size.name for size in fields(NetworkSizes) if size.name in space.sizes()]
    for name in (override.partition("=")[0].strip() for override in overrides):
        if not name.startswith("network."):
            continue
        if warm_start:
            raise OptionError(f"{name}: a network that begins with weights has their sizes; leave out one of the two")
        if space is None:
            raise OptionError(f"{name}: the sizes of {found.title} are its own, and cannot be set")
        if name.removeprefix("network.") not in taken:
            raise OptionError(f"{name}: networks of {space.name} have no such size; theirs are {', '.join(taken)}")


def _require_of_training(overrides: Sequence[str]) -> None:
    """Refuse an option of the data that only a search has."""
    for name in (override.partition("=")[0].strip() for override in overrides):
        if name in OF_SEARCHES:
            raise OptionError(f"data.{name} is for searches: of a training, {OF_SEARCHES[name]}")


def _load(data: Any, overrides: Sequence[str], recipe: Recipe, *, texts: bool, progress: bool) -> Data:
    match data:
        case DataConfig() | TextConfig():
            document = asdict(data)
        case Mapping():
            document = dict(data)
        case None:
            document = {}
        case _:
            text = os.fspath(data)
            named = text in (*SOURCES, *TEXTS)
            if named and Path(text).is_dir():
                _logger.warning("%s is taken for the data set of that name; the folder here is ./%s", text, text)
            document = {"name": text} if named else {"name": "text" if texts else "folder", "root": text}
    for override in overrides:
        apply_override(document, override)
    if texts:
        options, config = text_options(recipe), read_options(TextConfig, document)
        return load_training_texts(config, batch_size=recipe.batch_size, bptt=options.bptt)
    require_images(recipe)
    return load_training_data(read_options(DataConfig, document), recipe, progress=progress)


def _imported(name: str) -> MakeModule:
    """Return what "module:name" names; the working directory comes first, as for `python -m`."""
    module, colon, inside = name.partition(":")
    try:
        if not colon:
            raise ImportError("it is written module:name")
        if "" not in sys.path:
            sys.path.insert(0, "")
        made: MakeModule = getattr(import_module(module), inside)
    except (ImportError, AttributeError, SyntaxError, ValueError) as error:
        raise OptionError(f"--module {name!r} cannot be imported: {error}") from error
    return made


def module_of(made: Any, network: nn.Module) -> tuple[pl.LightningModule, dict[str, Any]]:
    """Return a Lightning module, and the loaders that `Trainer.fit` takes; an evaluator of NNI has both."""
    if isinstance(made, pl.LightningModule):
        return made, {}
    module = getattr(made, "module", None)
    if not isinstance(module, pl.LightningModule) or not hasattr(module, "set_model"):
        raise EvaluatorError(
            f"the module's function returns {type(made).__name__}, and must return a Lightning module or NNI's own"
        )
    module.set_model(network)  # type: ignore[operator]  # NNI's modules have it
    names = ("train_dataloaders", "val_dataloaders", "datamodule")
    return module, {name: value for name in names if (value := getattr(made, name, None)) is not None}
