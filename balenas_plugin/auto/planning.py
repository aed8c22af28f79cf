"""Make a plan that fits the budget and the memory, by measuring on this machine."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from balenas_plugin.auto.auto_plan import AutoPlan, Limits, PlannedSearch, PlannedTraining, search_config
from balenas_plugin.auto.looking import Looked
from balenas_plugin.auto.mirroring import Mirroring, mirroring
from balenas_plugin.auto.offered import BASELINE, BASELINE_SIZES, SPACES, Offer, OfferedSpace, uniform_architectures
from balenas_plugin.auto.splitting import LabelledPaths
from balenas_plugin.auto.step_timing import DoesNotFitError, Fitting, device, largest_fitting
from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.data.sources.packed import PackedPart, write_packed
from balenas_plugin.diagnostics.diagnostics_options import DiagnosticsOptions
from balenas_plugin.errors import OptionError
from balenas_plugin.machine import peak_memory
from balenas_plugin.run_folder import RunFolder

if TYPE_CHECKING:
    from balenas_plugin.adapters.nni.callbacks.search_timing import TimedSearch

_LARGEST_IMAGE = {"cpu": 64, "cuda": 128}
_LARGEST_BATCH = {"cpu": 64, "cuda": 256}
_SMALLEST_IMAGE = 8
_STEPS_OF_AN_EPOCH = 10  # at least, by which batches of few images are smaller

_WANTED_EPOCHS, _WANTED_STEPS = 12, 400  # of a training, at least, where there is time for a larger network
_PARAMETERS_PER_IMAGE = 1000  # of the training; more time than these need is for epochs
_MOST_EPOCHS, _LEAST_EPOCHS = 300, 3
_SEARCHED_EPOCHS = (10, 50)
_LEAST_ITERATIONS, _WANTED_ITERATIONS = 20, 800

_SHARE_OF_SEARCH = 0.2  # of the time for search and training
_FILLED = 0.9  # of the time that there is: a machine is not always as quick
_SELECTING, _DELIVERING = 5.0, 25.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a plan is made of.

    Args:
        looked: what is in the folder.
        parts: its images.
        started: by `time.monotonic`, when the command began.
        looking: seconds that it took to look at the images.
    """

    looked: Looked
    parts: dict[str, LabelledPaths]
    started: float
    looking: float

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.looked.class_names)

    @property
    def num_training(self) -> int:
        """Number of training images."""
        return len(self.parts["train"])

    def mirroring(self, seed: int) -> Mirroring:
        """Return how training images are recognised mirrored."""
        paths, labels = zip(*self.parts["train"], strict=True)
        pixels = np.stack([self.looked.thumbnails[path] for path in paths])
        return mirroring(torch.from_numpy(pixels), torch.tensor(labels), seed=seed)

    def fingerprint(self) -> str:
        """Return a SHA-256 of which images are used for what."""
        found = hashlib.sha256()
        for name, part in sorted(self.parts.items()):
            for path, label in part:
                line = f"{name}\t{label}\t{os.path.relpath(path, self.looked.root)}\n"
                found.update(line.encode(errors="surrogateescape"))
        return found.hexdigest()


def make_plan(
    known: Known, *, budget: float, limits: Limits, seed: int, skip_unreadable: bool, mirrored: bool
) -> AutoPlan:
    """Return what to do in the time that there is.

    Args:
        known: of the images.
        budget: seconds in all.
        limits: of the network that is delivered.
        seed: of everything random.
        skip_unreadable: is noted.
        mirrored: whether training mirrors images.

    Raises:
        OptionError: the budget is too small, or no network keeps within the limits.
    """
    place = device().type
    batch_size = _batch_size(known.num_training, place)
    steps = math.ceil(known.num_training / batch_size)
    space = SPACES[0]
    fixed = {"num_classes": known.num_classes, "limits": limits}
    image_sizes = _image_sizes(known.looked.side, place)
    measuring = 0.05 * budget
    training = (_left(known, budget, measuring) / 2 - _SELECTING) * (1 - _SHARE_OF_SEARCH)
    smallest = Offer(kind=space.name, sizes=space.trained[0], image_size=min(image_sizes), **fixed)  # type: ignore[arg-type]
    trained = fitting_networks(smallest, image_sizes, training, known.num_training, batch_size)
    image_size = trained.size.image_size
    searched = _timed_search(space, known, image_size, trained.timed.threads, batch_size, seed)
    ours = _left(known, budget, 0) / 2
    residual = Offer(kind=BASELINE, sizes=BASELINE_SIZES[0], image_size=image_size, **fixed)  # type: ignore[arg-type]
    baseline = fitting_baseline(residual, ours, known.num_training, batch_size)

    ours = _left(known, budget, 0) / 2
    search = _planned_search(space, searched, (ours - _SELECTING) * _SHARE_OF_SEARCH, known, batch_size)
    _require_enough(known, budget, trained, baseline, searched, steps, ours)
    network = _planned_training(trained, ours - _SELECTING - search.seconds, steps)
    return AutoPlan(
        images=str(known.looked.root.resolve()),
        budget=budget,
        limits=limits,
        seed=seed,
        skip_unreadable=skip_unreadable,
        fingerprint=known.fingerprint(),
        threads=trained.timed.threads,
        image_size=image_size,
        augmentation="crop_flip" if mirrored else "crop",
        batch_size=batch_size,
        search=search,
        network=network,
        baseline=replace(
            _planned_training(baseline, search.seconds + _SELECTING + network.seconds, steps),
            keeps_limits=baseline.size.limits == limits,
        ),
        preparing=round(time.monotonic() - known.started + known.looking, 1),
        selecting=_SELECTING,
        delivering=_DELIVERING,
        memory=peak_memory(),
    )


def _left(known: Known, budget: float, measuring: float) -> float:
    """Return the seconds that are left for both networks; the images will be decoded once more."""
    return budget - (time.monotonic() - known.started) - known.looking - _DELIVERING - measuring


def _batch_size(images: int, place: str) -> int:
    largest = _LARGEST_BATCH[place]
    size = next((size for size in (largest >> k for k in range(4)) if images >= size * _STEPS_OF_AN_EPOCH), 8)
    return size if images % size != 1 else size - 1  # a batch of a single image has no variance


def _image_sizes(side: int, place: str) -> list[int]:
    """Return multiples of 4: the images' own size as far as it may be, a half and a quarter of it."""
    own = max(_SMALLEST_IMAGE, min(side, _LARGEST_IMAGE[place]))
    sizes = dict.fromkeys(own // part // 4 * 4 for part in (1, 2, 4))
    return [size for size in sizes if size >= 2 * _SMALLEST_IMAGE or size == own // 4 * 4]


def fitting_networks(
    smallest: Offer, image_sizes: Sequence[int], seconds: float, num_training: int, batch_size: int
) -> Fitting[Offer]:
    """Return the network with the most work of those that there is time to train well.

    Args:
        smallest: of its kind; where it is of a space, and of no architecture, of the costliest one that fits.
        image_sizes: that its input may have.
        seconds: for its training.
        num_training: images of an epoch.
        batch_size: images of a step.

    Raises:
        OptionError: none keeps within the limits; the message names the smallest there is.
    """
    sizes = next((space.trained for space in SPACES if space.name == smallest.kind), BASELINE_SIZES)
    architectures: list[Architecture | None] = [smallest.architecture]  # if the first one fits, all do
    if smallest.kind != BASELINE and smallest.architecture is None:
        architectures = list(uniform_architectures(smallest))
    everything = [
        [
            offer
            for each in (sizes if number == 0 else sizes[:1])
            for side in image_sizes
            if (offer := replace(smallest, sizes=each, image_size=side, architecture=architecture)).takes_images
        ]
        for number, architecture in enumerate(architectures)
    ]
    steps = math.ceil(num_training / batch_size)
    refusal: DoesNotFitError | None = None
    for offers in everything:
        most = max(_PARAMETERS_PER_IMAGE * num_training, offers[0].parameters)
        within = [offer for offer in offers if offer.parameters <= most and offer.keeps_within]
        try:
            if within:
                return largest_fitting(
                    sorted(within, key=lambda offer: offer.work),
                    lambda offer, enough: offer.timed(batch_size=batch_size, enough=enough),
                    seconds=max(seconds, 1.0),
                    steps_per_epoch=steps,
                    wanted_epochs=max(_WANTED_EPOCHS, _WANTED_STEPS / steps),
                )
        except DoesNotFitError as error:
            refusal = error
    if refusal is not None:
        raise refusal
    found = [offer for offers in everything for offer in offers]
    parameters, work = min(offer.parameters for offer in found), min(found, key=lambda offer: offer.work).multiply_adds
    raise OptionError(
        f"no network has {smallest.limits}: the smallest there is has {parameters:,} parameters, and the one with the "
        f"least work needs {2 * work:,} floating-point operations an image"
    )


def fitting_baseline(smallest: Offer, seconds: float, num_training: int, batch_size: int) -> Fitting[Offer]:
    """Return the baseline with the most work, as `fitting_networks`; where none keeps within the limits, the smallest.

    That one is offered without limits: it is a yardstick alone.

    Raises:
        DoesNotFitError: there is too little memory for it.
    """
    try:
        return fitting_networks(smallest, [smallest.image_size], seconds, num_training, batch_size)
    except OptionError:
        free = replace(smallest, limits=Limits())
        timed = free.timed(batch_size=batch_size, enough=math.inf)
        epochs = seconds / (timed.seconds * math.ceil(num_training / batch_size))
        return Fitting(size=free, epochs=epochs, timed=timed)


def _timed_search(
    space: OfferedSpace, known: Known, image_size: int, threads: int, batch_size: int, seed: int
) -> TimedSearch:
    """Time two epochs of a search of the smallest supernet on noise, without a warm-up."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NNI warns about every class of a torch newer than itself
        from balenas_plugin.adapters.nni.callbacks.search_timing import Stopwatch
        from balenas_plugin.adapters.nni.run.config_run import run_search
    count = max(2 * batch_size * _ITERATIONS, known.num_classes)
    noise = np.random.default_rng(0).integers(0, 256, (count, 3, image_size, image_size), dtype=np.uint8)
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        write_packed(
            Path(folder, "images"),
            {"train": PackedPart(labels=[k % known.num_classes for k in range(count)], chunks=[noise])},
            class_names=known.looked.class_names,
            augmentation="crop",
            image_size=image_size,
        )
        config = search_config(
            space.config(space.searched[0]),
            Path(folder, "images"),
            seed=seed,
            threads=threads,
            batch_size=batch_size,
            images=count,
            epochs=2,
        )
        quiet = replace(config.evaluator, trainer={"enable_progress_bar": False})
        config = replace(config, evaluator=quiet, diagnostics=DiagnosticsOptions(enabled=False))
        run_search(config, RunFolder(Path(folder, "search")), resume=False, callbacks=[watch])
    return watch.timed


_ITERATIONS = 6  # of a search that is timed, in each of two epochs


def _planned_search(
    space: OfferedSpace, timed: TimedSearch, seconds: float, known: Known, batch_size: int
) -> PlannedSearch:
    """Return the search that fills the time: of a larger supernet where there is time for many iterations.

    A larger one takes no longer for its work than the smallest; that grows with the cells and with the square of the
    channels.
    """
    seconds *= _FILLED
    first = space.searched[0]
    sizes, factor = first, 1.0
    for larger in space.searched[1:]:
        grown = math.prod((larger[k] / first[k]) ** (2 if k == "channels" else 1) for k in first)
        if seconds / (timed.iteration * grown) >= _WANTED_ITERATIONS:
            sizes, factor = larger, grown
    whole = math.ceil(known.num_training / (2 * batch_size))
    for epochs in range(_SEARCHED_EPOCHS[1], 0, -1):
        iterations = int((seconds / epochs - timed.epoch) / (timed.iteration * factor))
        if iterations >= whole or (epochs <= _SEARCHED_EPOCHS[0] and iterations >= 1):
            break
    iterations = max(1, min(iterations, whole))
    return PlannedSearch(
        space=space.config(sizes),
        epochs=epochs,
        images=min(known.num_training, 2 * batch_size * iterations),
        seconds=round(epochs * (iterations * timed.iteration * factor + timed.epoch), 1),
    )


def _planned_training(fitting: Fitting[Offer], seconds: float, steps: int) -> PlannedTraining:
    per_epoch = fitting.timed.seconds * steps
    epochs = max(1, min(_MOST_EPOCHS, int(_FILLED * seconds / per_epoch)))
    return PlannedTraining(
        sizes=dict(fitting.size.sizes),
        epochs=epochs,
        seconds=round(epochs * per_epoch, 1),
        parameters=fitting.size.parameters,
    )


def _require_enough(
    known: Known,
    budget: float,
    network: Fitting[Offer],
    baseline: Fitting[Offer],
    searched: TimedSearch,
    steps: int,
    ours: float,
) -> None:
    """Raise unless there is time for the least of everything.

    Raises:
        OptionError: there is not; the message says what would do.
    """
    search = _LEAST_ITERATIONS * searched.iteration + _SEARCHED_EPOCHS[0] * searched.epoch
    training = _LEAST_EPOCHS * steps * network.timed.seconds
    least = max(search / _SHARE_OF_SEARCH, training / (1 - _SHARE_OF_SEARCH), search + training) / _FILLED + _SELECTING
    least = max(least, _LEAST_EPOCHS * steps * baseline.timed.seconds / _FILLED)
    if ours < least:
        needed = budget - 2 * ours + 2.2 * least
        raise OptionError(
            f"a budget of {in_words(budget)} is too small for {known.num_training:,} training images on this machine: "
            f"give at least {in_words(60 * math.ceil(needed / 60))}"
        )


def in_words(seconds: float) -> str:
    """Return a time for people."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s".removesuffix(" 0 s")
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def announced(known: Known, plan: AutoPlan, mirrored: Mirroring) -> Iterator[tuple[str, str]]:
    """Yield title and text of what is going to happen, and how long it will take."""
    yield from known.looked.summary().items()
    counts = {name: len(part) for name, part in known.parts.items()}
    folders = {name for name in ("val", "test") if name in known.looked.paths}
    source = {name: "" if name in folders else ", of each class its share," for name in ("val", "test")}
    yield (
        "split",
        f"{counts['train']:,} train; {counts['val']:,}{source['val']} are chosen by; "
        f"{counts['test']:,}{source['test']} are held out: nothing sees them before the end",
    )
    yield "mirroring", str(mirrored)
    side, search = plan.image_size, plan.search
    yield "input", f"{side}x{side} pixels, {plan.batch_size} at a time, {plan.threads} thread(s) of the CPU"
    yield (
        "search",
        f"{_in_space(search.space)}; {search.epochs} epochs of {search.images:,} images: about "
        f"{in_words(search.seconds)}",
    )
    yield "selection", f"the best of 100 draws by SynFlow{_limited(plan)}: about {in_words(plan.selecting)}"
    yield "training", f"{_training(plan.network)}; wider if lighter"
    yardstick = "" if plan.baseline.keeps_limits else "; no size of it keeps the limits: a yardstick, never delivered"
    yield "baseline", f"ResNet-18, as long as the three above together: {_training(plan.baseline)}{yardstick}"
    yield "delivery", f"test on the images held out, ONNX file, page: about {in_words(plan.delivering)}"
    yield "memory", f"{plan.memory / 1e9:.1f} GB so far"
    yield "time", f"about {in_words(plan.seconds)} in all, of a budget of {in_words(plan.budget)}"


def _in_space(space: Mapping[str, Any]) -> str:
    sizes = [f"{name.replace('_', ' ')} {value}" for name, value in space.items() if name != "name"]
    return ", ".join([f"BaLeNAS in {space['name']}", *sizes])


def _limited(plan: AutoPlan) -> str:
    return f" with {plan.limits}" if str(plan.limits) else ""


def _training(planned: PlannedTraining) -> str:
    sizes = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in planned.sizes.items())
    network = f"{sizes}, {planned.parameters:,} parameters at most"
    return f"{network}; {planned.epochs} epochs: about {in_words(planned.seconds)}"
