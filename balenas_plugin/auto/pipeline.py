"""`balenas auto`: from a folder of images to a network that is tested, compared and ready to be used."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from balenas_plugin.auto.auto_page import write_page
from balenas_plugin.auto.auto_plan import PLAN, AutoPlan, Limits
from balenas_plugin.auto.delivery import Delivered, deliver
from balenas_plugin.auto.looking import Looked, look
from balenas_plugin.auto.offered import BASELINE, Offer
from balenas_plugin.auto.planning import Known, announced, fitting_networks, in_words, make_plan
from balenas_plugin.auto.session import Session
from balenas_plugin.auto.splitting import HELD_OUT, IMAGES, pack, split
from balenas_plugin.auto.step_timing import DoesNotFitError, Fitting, time_training
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.config import differences
from balenas_plugin.data import DataConfig
from balenas_plugin.data.sources.packed import is_packed
from balenas_plugin.errors import DataError, OptionError
from balenas_plugin.files import expanded, write_text_atomically
from balenas_plugin.restoring import random_numbers_restored
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.run_folder.marker import RunMarker
from balenas_plugin.selection import RankedArchitecture, rank
from balenas_plugin.training import TrainedNetwork, TrainingData, load_recipe, load_training_data, train_network

LEFT_OUT = "left-out.txt"

_FILLED = 0.95  # of the time for a training
_LONGER = {"search": 1.3, "network": 1.1, "baseline": 1.1}  # than planned, before a stage is ended
_MOST_EPOCHS = 300
_TRIED = 10  # of the best architectures, until one is quick enough
_RATE_OF_BATCH = 64  # images, for which the recipe gives a learning rate
_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user asks for.

    Args:
        images: folder.
        budget: seconds in all.
        limits: of the network.
        seed: of everything random.
        skip_unreadable: leave images out that cannot be decoded.
    """

    images: Path
    budget: float
    limits: Limits
    seed: int = 0
    skip_unreadable: bool = False


def run_auto(
    wanted: Wanted, output: Path, planned: tuple[Known, AutoPlan] | None, *, started: float, int8: bool = False
) -> Delivered:
    """Do all of it, or what is left of it, and write the files.

    Args:
        wanted: by the user.
        output: folder to write to.
        planned: by `plan_run`; None: go on by the plan that is in the folder.
        started: by `time.monotonic`, when the command began.
        int8: deliver a quantised network as well.

    Raises:
        DataError: the images are others than when the run was started.
        OptionError: what is resumed was started otherwise.
        StorageError: the disk is full; resume when there is room.
        KeyboardInterrupt: the user stopped it.
    """
    known: Known | None = None
    if planned is None:
        plan = AutoPlan.load(output)
        _require_same(wanted, plan)
        session = Session(output, budget=plan.budget)
    else:
        known, plan = planned
        _write_left_out(known.looked, output)
        write_text_atomically(output / PLAN, plan.to_yaml())
        session = Session(output, budget=plan.budget, spent=time.monotonic() - started)
    torch.set_num_threads(plan.threads)
    return _Run(plan, output, session).all_of_it(known, int8=int8)


def plan_run(wanted: Wanted, output: Path | None, *, started: float) -> tuple[Known, AutoPlan]:
    """Look at the images, make a plan and say what it is.

    Args:
        wanted: by the user.
        output: folder that gets the list of what is left out where the images cannot be used; None: it is not written.
        started: by `time.monotonic`, when the command began.

    Raises:
        DataError: the images cannot be used.
        OptionError: the budget is too small, or a limit cannot be met.
    """
    before = time.monotonic()
    looked = look(wanted.images, progress=True)
    left_out = list(looked.left_out())
    for line in left_out[:_SHOWN]:
        _say("left out", line.replace("\t", " "))
    if len(left_out) > _SHOWN:
        _say("left out", f"and {len(left_out) - _SHOWN:,} more" + ("" if output is None else f", see {LEFT_OUT}"))
    try:
        looked.require_usable(skip_unreadable=wanted.skip_unreadable)
    except DataError as error:
        if output is None or not left_out:
            raise
        _write_left_out(looked, output)
        RunMarker(output).write(replacing=False)
        raise DataError(f"{error} All that is left out is listed in {output / LEFT_OUT}.") from error
    parts = split(looked, seed=wanted.seed)
    known = Known(looked=looked, parts=parts, started=started, looking=time.monotonic() - before)
    mirrored = known.mirroring(wanted.seed)
    _say("measuring", "what a search and trainings take on this machine")
    plan = make_plan(
        known,
        budget=wanted.budget,
        limits=wanted.limits,
        seed=wanted.seed,
        skip_unreadable=wanted.skip_unreadable,
        mirrored=mirrored.keeps_classes,
    )
    for title, text in announced(known, plan, mirrored):
        _say(title, text)
    return known, plan


def _write_left_out(looked: Looked, output: Path) -> None:
    write_text_atomically(output / LEFT_OUT, "".join(f"{line}\n" for line in looked.left_out()))


def _say(title: str, text: str) -> None:
    tqdm.write(f"auto: {title:<10} {text}", file=sys.stderr)


def _require_same(wanted: Wanted, plan: AutoPlan) -> None:
    asked = {
        "images": str(expanded(wanted.images).resolve()),
        "budget": wanted.budget,
        "seed": wanted.seed,
        "skip_unreadable": wanted.skip_unreadable,
        "limits": vars(wanted.limits),
    }
    planned = {name: getattr(plan, name) for name in asked if name != "limits"} | {"limits": vars(plan.limits)}
    found = differences(planned, asked)
    if found:
        raise OptionError(
            f"the run was started with other options: {found}. Give the same ones to resume it, or another --output"
        )


class _Run:
    """The stages, each of which is skipped where it is done."""

    def __init__(self, plan: AutoPlan, output: Path, session: Session) -> None:
        self.plan, self.output, self.session = plan, output, session

    def all_of_it(self, known: Known | None, *, int8: bool) -> Delivered:
        """Run what is left, in order."""
        self._decode(known)
        data = load_training_data(DataConfig(name="packed", root=str(self.output / IMAGES)), load_recipe("small"))
        self._search()
        found = self._select(data)
        offer = replace(self._offer(data, str(found["kind"])), sizes=found["sizes"])
        network = self._built(replace(offer, architecture=found["choices"]))
        trained = self._train("network", network, data, found)
        residual = self._offer(data, BASELINE)
        plain = self._built(residual)
        length = self._length_of_baseline(residual, data)
        baseline = self._train("baseline", plain, data, length)
        with self.session.stage("delivery", "test on the images held out, ONNX file, page"):
            delivered = deliver(
                self.plan,
                self.output,
                data,
                {"network": (network, trained), "baseline": (plain, baseline)},
                found=found,
                epochs={"network": found["epochs"], "baseline": length["epochs"]},
                seconds={name: self.session.seconds(name) for name in _STAGES},
                int8=int8,
            )
            write_page(self.plan, delivered)
            delivered.save()
        return delivered

    def _decode(self, known: Known | None) -> None:
        if all(is_packed(self.output / folder) for folder in (IMAGES, HELD_OUT)):
            return
        plan = self.plan
        with self.session.stage("preparing", f"decode the images to {plan.image_size}x{plan.image_size} pixels"):
            if known is None:
                looked = look(plan.images, progress=True)
                looked.require_usable(skip_unreadable=plan.skip_unreadable)
                known = Known(looked=looked, parts=split(looked, seed=plan.seed), started=0, looking=0)
            if known.fingerprint() != plan.fingerprint:
                raise DataError(
                    f"the images in {plan.images} are not those that the run was started with: put them back as they "
                    "were, or start a new run"
                )
            pack(
                known.looked.class_names,
                known.parts,
                self.output,
                augmentation=plan.augmentation,
                image_size=plan.image_size,
                progress=True,
            )

    def _search(self) -> None:
        folder, planned = RunFolder(self.output / "search"), self.plan.search
        if folder.finished:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NNI warns about every class of a torch newer than itself
            from balenas_plugin.adapters.nni.callbacks.search_timing import deadline
            from balenas_plugin.adapters.nni.run.config_run import run_search
        with self.session.stage("search", f"{planned.epochs} epochs of {planned.images:,} images"), folder.kept():
            run_search(
                self.plan.search_config(self.output / IMAGES),
                folder,
                resume=folder.config.exists(),
                callbacks=[deadline(_LONGER["search"] * planned.seconds)],
            )

    def _offer(self, data: TrainingData, kind: str) -> Offer:
        planned = self.plan.baseline if kind == BASELINE else self.plan.network
        return Offer(
            kind=kind,
            sizes=planned.sizes,
            image_size=self.plan.image_size,
            num_classes=len(data.class_names),
            limits=self.plan.limits,
        )

    def _built(self, offer: Offer) -> nn.Module:
        with random_numbers_restored(self.plan.seed):
            return offer.build()

    def _select(self, data: TrainingData) -> Mapping[str, Any]:
        """Choose an architecture, the size of its network and how long that is trained.

        Half of the time is for the baseline.
        """
        known = self.session.result("selection")
        if known is not None:
            return known
        with self.session.stage("selection", "the best of 100 draws by SynFlow"):
            posterior = Posterior.load(RunFolder(self.output / "search").posterior)
            offer = self._offer(data, str(self.plan.search.space["name"]))
            ranked = rank(posterior, offer.space, self.plan.selection(), progress=True)
            found, fitting = self._fitting(ranked, offer, data)
            seconds = self._seconds_of_network
            return self.session.save(
                "selection",
                kind=offer.kind,
                sizes=dict(fitting.size.sizes),
                choices=found.choices,
                notation=found.notation,
                probability=found.probability,
                seconds=seconds,
                epochs=self._epochs(self._built(fitting.size), data, seconds),
            )

    @property
    def _seconds_of_network(self) -> float:
        left = self.session.left - self.plan.delivering
        before = self.session.seconds("search", "selection")
        return max(1.0, (left + before) / 2 - before)

    def _fitting(
        self, ranked: Sequence[RankedArchitecture], offer: Offer, data: TrainingData
    ) -> tuple[RankedArchitecture, Fitting[Offer]]:
        """Return the best architecture with a size that keeps within all limits, and the largest that is trained well.

        Raises:
            OptionError: the latency of the best few is above its limit in every size.
        """
        refusal: DoesNotFitError | None = None
        for found in ranked[:_TRIED]:
            try:
                return found, fitting_networks(
                    replace(offer, architecture=found.choices),
                    [self.plan.image_size],
                    _FILLED * self._seconds_of_network,
                    len(data.training),
                    self.plan.batch_size,
                )
            except DoesNotFitError as error:
                refusal = error
        raise OptionError(f"none of the best {_TRIED} architectures can be delivered: of the last, {refusal}")

    def _length_of_baseline(self, offer: Offer, data: TrainingData) -> Mapping[str, Any]:
        """Return the epochs for which the baseline takes as long as all that found the other network."""
        known = self.session.result("baseline")
        if known is not None:
            return known
        seconds = self.session.seconds("search", "selection", "network")
        epochs = self._epochs(self._built(offer), data, seconds)
        return self.session.save("baseline", seconds=seconds, epochs=epochs)

    def _epochs(self, network: nn.Module, data: TrainingData, seconds: float) -> int:
        timed = time_training(
            network,
            batch_size=self.plan.batch_size,
            image_size=self.plan.image_size,
            num_classes=len(data.class_names),
            threads=self.plan.threads,
        )
        steps = math.ceil(len(data.training) / self.plan.batch_size)
        return max(1, min(_MOST_EPOCHS, int(_FILLED * seconds / (timed.seconds * steps))))

    def _train(self, name: str, network: nn.Module, data: TrainingData, length: Mapping[str, Any]) -> TrainedNetwork:
        plan, recipe = self.plan, load_recipe("small")
        rate = recipe.optimizer["lr"] * plan.batch_size / _RATE_OF_BATCH
        recipe = recipe.replace(
            epochs=length["epochs"],
            batch_size=plan.batch_size,
            optimizer={**recipe.optimizer, "lr": rate},
            max_seconds=_LONGER[name] * length["seconds"],
        )
        folder = self.output / name
        with self._timed(name, folder, f"{recipe.epochs} epochs in about {in_words(length['seconds'])}"):
            return train_network(
                network,
                data,
                recipe,
                folder=folder,
                seed=plan.seed,
                resume=folder.exists(),
            )

    @contextmanager
    def _timed(self, name: str, folder: Path, what: str) -> Iterator[None]:
        if (folder / "train.json").exists():
            yield
            return
        with self.session.stage(name, what):
            yield


_STAGES = ("preparing", "search", "selection", "network", "baseline")
