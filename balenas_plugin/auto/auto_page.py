"""The page of `balenas auto`: what is delivered, how good it is, and how it was found."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from balenas_plugin import __version__
from balenas_plugin.auto.auto_plan import AutoPlan
from balenas_plugin.auto.delivery import DELIVERED, PAGE, Delivered, Tested
from balenas_plugin.auto.planning import in_words
from balenas_plugin.deployment.deploy import INT8, ONNX, SCRIPT, WEIGHTS
from balenas_plugin.files import read_text, write_text_atomically
from balenas_plugin.report.page import environment, shown
from balenas_plugin.report.plots import Line, Picture, line_chart
from balenas_plugin.report.reading import Series, flattened

CALLED = {"network": "found network", "baseline": "ResNet-18"}

_FILES = {
    ONNX: "the network, for onnxruntime and others; classes and preprocessing are in its metadata",
    INT8: "the same with 8-bit numbers",
    SCRIPT: "classifies image files by it",
    WEIGHTS: "its weights, for PyTorch",
}
_MOST_CONFUSED = 10


def write_page(plan: AutoPlan, delivered: Delivered) -> None:
    """Write report.html into the folder of the run.

    Raises:
        StorageError: the disk is full.
    """
    output = delivered.output
    names = delivered.class_names
    mistakes = [
        (count, names[i], names[j])
        for i, row in enumerate(delivered.confusion)
        for j, count in enumerate(row)
        if i != j and count
    ]
    page = (
        environment()
        .get_template("auto.html.jinja")
        .render(
            title=f"A network for {Path(plan.images).name}",
            version=__version__,
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            verdict=verdict(delivered),
            facts=list(_facts(delivered)),
            networks={
                "heads": ["", *(CALLED[name] for name in delivered.tested)],
                "rows": [list(row) for row in comparison(delivered)],
            },
            explanation=(
                "The network is chosen by the validation images; the images held out have had no part in anything but "
                "this table. The ResNet was trained for as long as the search, the selection and the training of the "
                "found network took together, with the same recipe and images, and within the same limits if any size "
                "of it is."
            ),
            pictures=[shown(picture) for picture in _pictures(output)],
            command=f"python {shlex.quote(str(Path(DELIVERED, SCRIPT)))} IMAGE ...",
            files=[
                [str(Path(DELIVERED, file)), what]
                for file, what in _FILES.items()
                if (delivered.deployed.folder / file).exists()
            ],
            confused=[
                [actual, taken, f"{count:,}"]
                for count, actual, taken in sorted(mistakes, reverse=True)[:_MOST_CONFUSED]
            ],
            steps=[list(step) for step in _steps(plan, delivered)],
            settings=list(flattened(plan.to_dict()).items()),
        )
    )
    write_text_atomically(output / PAGE, page)


def verdict(delivered: Delivered) -> str:
    """Return in two sentences what is delivered, and why."""
    winner, loser = delivered.winner, next(name for name in delivered.tested if name != delivered.winner)
    ours, other = delivered.tested[winner], delivered.tested[loser]
    low, high = ours.interval
    chosen = f"on the validation images ({ours.validation_accuracy:.2%} against {other.validation_accuracy:.2%})"
    if not other.keeps_limits:
        why = f"No size of the plain ResNet keeps the limits, so that it is a yardstick alone, {chosen}."
    elif ours.validation_accuracy == other.validation_accuracy:
        why = f"The {CALLED[loser]} is right as often {chosen}, but less sure of the classes."
    elif winner == "baseline":
        why = f"The plain ResNet beats what the search has found {chosen}, so it is delivered."
    else:
        why = f"It beats the plain ResNet {chosen}."
    return (
        f"The {CALLED[winner]} is delivered: {ours.test_accuracy:.2%} of the images that nothing had seen are "
        f"classified rightly (95 % interval {low:.2%} to {high:.2%}). {why}"
    )


def comparison(delivered: Delivered) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a table of both networks: a title, and a text for each."""

    def epochs(network: Tested) -> str:
        early = network.epochs < network.planned_epochs
        return f"{network.epochs}{f' of {network.planned_epochs}: time was up' if early else ''}"

    rows: dict[str, Callable[[Tested], str]] = {
        "accuracy, held out": lambda network: f"{network.test_accuracy:.2%}",
        "95 % interval": lambda network: " to ".join(f"{end:.2%}" for end in network.interval),
        "accuracy, validation": lambda network: f"{network.validation_accuracy:.2%}",
        "loss, validation": lambda network: f"{network.validation_loss:.4f}",
        "parameters": lambda network: f"{network.parameters:,}",
        "multiply-adds per image": lambda network: f"{network.multiply_adds:,}",
        "epochs": epochs,
        "training": lambda network: in_words(network.seconds),
    }
    if not all(network.keeps_limits for network in delivered.tested.values()):
        rows["keeps the limits"] = lambda network: "yes" if network.keeps_limits else "no"
    for title, text in rows.items():
        yield title, *(text(network) for network in delivered.tested.values())


def _facts(delivered: Delivered) -> Iterator[tuple[str, str]]:
    deployed = delivered.deployed
    for name, form in deployed.forms.items():
        yield name, f"{form.test_accuracy:.2%}, {form.latency_ms:.3g} ms an image, {form.size / 1e3:,.0f} kB"
    yield "measured on", f"{deployed.latency.processor}, threads: {deployed.latency.threads}"
    yield "images held out", f"{deployed.test_examples:,}"
    for space, notation in delivered.notation.items():
        yield f"architecture found ({space})", notation


def _steps(plan: AutoPlan, delivered: Delivered) -> Iterator[tuple[str, str]]:
    took = {name: in_words(seconds) for name, seconds in delivered.seconds.items()}
    yield "preparing", f"looking at the images, measuring this machine, decoding: {took['preparing']}"
    yield "search", f"BaLeNAS in {plan.search.space['name']}, at most {plan.search.epochs} epochs: {took['search']}"
    yield "selection", f"the best of 100 draws by SynFlow, {str(plan.limits) or 'of any size'}: {took['selection']}"
    for name, called in CALLED.items():
        yield f"training of the {called}", took[name]
    yield "all", f"{in_words(sum(delivered.seconds.values()))}, and the delivery; budget {in_words(plan.budget)}"


def _pictures(output: Path) -> Iterator[Picture]:
    lines = []
    for name, called in CALLED.items():
        rows = list(csv.DictReader(read_text(output / name / "metrics.csv").splitlines()))
        known = [(int(row["epoch"]), float(row["train_acc"])) for row in rows if row.get("train_acc")]
        lines.append(Line(label=called, series=Series([epoch for epoch, _ in known], [value for _, value in known])))
    yield Picture(
        name="training",
        title="Training",
        caption="Share of the training images, as they are augmented, that each network is right about.",
        alt=f"Training accuracy over the epochs of {' and '.join(CALLED.values())}",
        draw=line_chart(lines, unit="training accuracy"),
    )
