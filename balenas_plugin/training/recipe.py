"""Recipes: how a network is trained, as YAML files with every number of a paper."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from balenas_plugin.config import DEFAULT_OPTIMIZER, Part, apply_override, read_yaml
from balenas_plugin.data.augment import AUGMENTATIONS
from balenas_plugin.data.text import Lengths
from balenas_plugin.errors import OptionError, nearest
from balenas_plugin.files import CONFIGS
from balenas_plugin.options import (
    NonNegative,
    NonNegativeInt,
    OneOf,
    Positive,
    PositiveInt,
    declared_options,
    read_options,
)

RECIPES = CONFIGS / "recipes"

_Share = Annotated[float, Field(ge=0, lt=1)]
_MOST_BASES = 10


@declared_options("schedule")
@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """How the learning rate changes during a training.

    Args:
        name: "cosine" falls from lr to min_lr; "linear" falls to 0, more slowly in the last slow_epochs; "exponential"
            is multiplied by gamma after each epoch; "constant" stays.
        every: whether it changes after each epoch or after each step.
        min_lr: where "cosine" ends.
        gamma: of "exponential".
        slow_epochs: of "linear": lr (E - s - e) / (E - s) at epoch e, and lr (E - e) / ((E - s) s) in the last s of E.
        warmup_epochs: w; epochs 0 to w - 1 have (e + 1) / w of the learning rate.

    Source: Liu et al. 2019 (DARTS); the linear one as in Xu et al. 2020 (PC-DARTS).
    """

    name: Literal["cosine", "linear", "exponential", "constant"] = "cosine"
    every: Literal["epoch", "step"] = "epoch"
    min_lr: NonNegative = 0.0
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.97
    slow_epochs: NonNegativeInt = 5
    warmup_epochs: NonNegativeInt = 0

    def at(self, step: int, *, lr: float, epochs: int, steps_per_epoch: int) -> float:
        """Return the learning rate of a step.

        Args:
            step: from 0.
            lr: at the beginning.
            epochs: E, of the whole training.
            steps_per_epoch: updates of the weights in an epoch.
        """
        e = step / steps_per_epoch if self.every == "step" else step // steps_per_epoch
        match self.name:
            case "cosine":
                rate = self.min_lr + (lr - self.min_lr) * (1 + math.cos(math.pi * e / epochs)) / 2
            case "linear":
                s = min(self.slow_epochs, epochs - 1)
                rate = (
                    lr * (epochs - s - e) / (epochs - s) if epochs - e > s else lr * (epochs - e) / ((epochs - s) * s)
                )
            case "exponential":
                rate = lr * self.gamma**e
            case _:
                rate = lr
        begun = e + (1 / steps_per_epoch if self.every == "step" else 1)
        return rate * min(1.0, begun / self.warmup_epochs) if self.warmup_epochs else rate


@declared_options("network")
@dataclass(frozen=True, kw_only=True)
class NetworkSizes:
    """Sizes of the network that is trained; a space takes those that its networks have.

    Args:
        channels: of the first cells; None: as the space's benchmark or paper has it, or as the run searched.
        cells: of a network of the DARTS space.
        cells_per_stage: of a network of NAS-Bench-201 or NAS-Bench-101.
        stages: of a network of NAS-Bench-201, which has 3 in the benchmark.
        size: of the embedding and the hidden state of a recurrent network.
    """

    channels: PositiveInt | None = None
    cells: PositiveInt | None = None
    cells_per_stage: PositiveInt | None = None
    stages: PositiveInt | None = None
    size: PositiveInt | None = None

    @property
    def given(self) -> dict[str, int]:
        """The sizes that are not None."""
        return {name: size for name, size in asdict(self).items() if size is not None}


@declared_options("text")
@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """What is said of a language model alone; the defaults are DARTS's.

    Args:
        bptt: words of a sequence, through which gradients go.
        lengths: of the sequences: "fixed", "halved" (now and then half of that) or "normal" (around these, by five
            words); where they are random, the learning rate of a sequence is multiplied by its length / bptt.
        dropout: of what the cell returns.
        hidden_dropout: of the hidden state, and of the states inside the cell.
        input_dropout: of what enters the cell.
        embedding_dropout: of embedded words.
        word_dropout: of whole words of the vocabulary.
        slowness: weight, in the loss, of the mean square by which outputs differ from those before them.
        averaging: average the weights from the epoch on in which the validation perplexity is above its lowest before
            the last so many epochs; None: never.

    Source: Liu et al. 2019 (DARTS); Merity et al. 2018 (AWD-LSTM).
    """

    bptt: PositiveInt = 35
    lengths: Lengths = "normal"
    dropout: _Share = 0.75
    hidden_dropout: _Share = 0.25
    input_dropout: _Share = 0.75
    embedding_dropout: _Share = 0.2
    word_dropout: _Share = 0.1
    slowness: NonNegative = 1e-3
    averaging: PositiveInt | None = 5


_Schedule = Annotated[
    LearningRate,
    BeforeValidator(
        lambda given: {"name": given} if isinstance(given, str) else given,
        json_schema_input_type=Literal["cosine", "linear", "exponential", "constant"] | LearningRate,
    ),
]


@declared_options(called="the recipe")
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    Args:
        name: of the recipe.
        summary: one line.
        source: author, year.
        epochs: passes over the training images.
        batch_size: images per batch and device; of a text, rows that are read side by side.
        optimizer: name of a class in torch.optim, and its options.
        schedule: of the learning rate.
        gradient_clip_val: largest norm of the gradient; 0: any.
        image_size: side of the images in pixels, where the data do not say it; None: that of the data set.
        augment: "none", "crop" or "crop_flip" (pad by an eighth of the image, cut out, mirror); None: what the data set
            says of its images.
        cutout: side in pixels of the square that is cut out of each training image; 0: none.
        transforms: more of them, by names and options of torchvision.transforms.v2, applied image by image before.
        label_smoothing: share of the target that is spread over all classes, in training.
        auxiliary: weight of the auxiliary head's loss; 0: there is none.
        auxiliary_last_norm: whether that head ends with a batch-norm; None: on small images.
        drop_path: probability at the end of dropping an operation for an image; it grows linearly with the epochs.
        network: its sizes.
        ema: decay of an exponential moving average of the weights, which is what is tested; None: the last weights are.
        validation: share of the training images that are left out and validate each epoch; 0: none, as in the papers.
        early_stopping: stop after so many epochs without a better validation accuracy, and take the best; None: never.
        monitor: what else than val_acc tells which is the best, such as val_perplexity; a loss or a perplexity is
            better if smaller.
        max_seconds: end with the epoch in which so much time is up, resumed trainings counted together; None: never.
        text: of a language model; None: the recipe is for images.

    Raises:
        OptionError: an option is refused, or two do not go together.
    """

    name: str = ""
    summary: str = ""
    source: str = ""
    epochs: PositiveInt = 20
    batch_size: PositiveInt = 64
    optimizer: Annotated[Mapping[str, Any], Part(DEFAULT_OPTIMIZER)] = field(
        default_factory=lambda: dict(DEFAULT_OPTIMIZER)
    )
    schedule: _Schedule = field(default_factory=LearningRate)
    gradient_clip_val: NonNegative = 0.0
    image_size: PositiveInt | None = None
    augment: Annotated[str, OneOf(lambda: AUGMENTATIONS)] | None = None
    cutout: NonNegativeInt = 0
    transforms: Sequence[str | Mapping[str, Any]] = ()
    label_smoothing: _Share = 0.0
    auxiliary: NonNegative = 0.0
    auxiliary_last_norm: bool | None = None
    drop_path: _Share = 0.0
    network: NetworkSizes = field(default_factory=NetworkSizes)
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    validation: _Share = 0.0
    early_stopping: PositiveInt | None = None
    max_seconds: Positive | None = None
    monitor: str = "val_acc"
    text: TextOptions | None = None

    def learning_rate(self, step: int, *, steps_per_epoch: int) -> float:
        """Return the learning rate of a step, from 0."""
        lr = float(self.optimizer["lr"])
        return self.schedule.at(step, lr=lr, epochs=self.epochs, steps_per_epoch=steps_per_epoch)

    def drop_path_at(self, epoch: int) -> float:
        """Return the probability of dropping a path in an epoch, from 0."""
        return self.drop_path * epoch / self.epochs

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, with every default filled in."""
        plain = asdict(self)
        plain["transforms"] = list(self.transforms)
        if self.text is None:
            del plain["text"]  # what older trainings have written is as it was
        return plain

    def replace(self, **changes: Any) -> Recipe:
        """Return the recipe with other options."""
        return replace(self, **changes)


def list_recipes() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yml"))


def load_recipe(recipe: str | Path | Mapping[str, Any] | Recipe, overrides: Iterable[str] = ()) -> Recipe:
    """Return a recipe of the package, by its name, or that of a file.

    Args:
        recipe: a name of `list_recipes`, the path of a YAML file, what such a file holds, or a recipe.
        overrides: "epochs=5", "optimizer.lr=0.1", ...: the later winning.

    Raises:
        OptionError: there is no such recipe, or it is refused.
    """
    if isinstance(recipe, Recipe):
        document: dict[str, Any] = recipe.to_dict()
    elif isinstance(recipe, Mapping):
        document = _based(recipe, "a recipe", 0)
    else:
        path = _path(recipe)
        document = {"name": path.stem, **_document(path, 0)}
    for override in overrides:
        apply_override(document, override)
    return read_options(Recipe, document)


def usual_recipe(*, texts: bool) -> str:
    """Return the recipe for minutes on a CPU, of a text or of images."""
    return "text-small" if texts else "small"


def require_images(recipe: Recipe) -> None:
    """Refuse a recipe for texts.

    Raises:
        OptionError: it is one.
    """
    if recipe.text is not None:
        raise OptionError(
            f"the recipe {recipe.name or 'given'} is for a text, and the data are images: take another one (balenas "
            "recipes lists them), or leave out its section text"
        )


def _path(recipe: str | Path) -> Path:
    path = Path(recipe)
    shipped = RECIPES / f"{recipe}.yml"
    if path.suffix in (".yml", ".yaml"):
        return path
    if shipped.parent == RECIPES and shipped.is_file():
        return shipped
    raise OptionError(
        f"there is no recipe {str(recipe)!r}{nearest(str(recipe), list_recipes())} Recipes: "
        f"{', '.join(list_recipes())}; or the path of a YAML file"
    )


def _document(path: Path, depth: int) -> dict[str, Any]:
    """Return the content of a file, with what it does not say from its base."""
    return _based(read_yaml(path, [each.name for each in fields(Recipe)]), str(path), depth)


def _based(given: Mapping[str, Any], where: str, depth: int) -> dict[str, Any]:
    document = dict(given)
    base = document.pop("base", None)
    if base is None:
        return document
    if depth == _MOST_BASES:
        raise OptionError(f"{where}: recipes that are based on each other in a circle, or more than {_MOST_BASES} deep")
    below = _document(_path(base), depth + 1)
    for section in ("optimizer", "schedule", "network", "text"):
        own, inherited = document.get(section), below.get(section)
        if (
            isinstance(own, Mapping)
            and isinstance(inherited, Mapping)
            and own.get("name") in (None, inherited.get("name"))
        ):
            document[section] = {**inherited, **own}
    return {**below, **document}
