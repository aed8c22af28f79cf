"""The page of a report: one HTML file that opens from disk, with no network, in any browser.

Jinja2 escapes every text, pictures are `<img>`s with data in them (an SVG in an `<img>` runs no scripts), and a content
security policy forbids the page to load or run anything: the folders of runs may come from anywhere.
"""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from balenas_plugin import __version__
from balenas_plugin.errors import OptionError
from balenas_plugin.files import write_atomically, write_text_atomically
from balenas_plugin.report.comparison import (
    comparison_pictures,
    comparison_table,
    groups_of,
    settings_that_differ,
)
from balenas_plugin.report.drawings import drawings_of, notation_of
from balenas_plugin.report.pareto import front_of
from balenas_plugin.report.plots import Picture
from balenas_plugin.report.reading import (
    DATASETS,
    NOT_KNOWN,
    RunData,
    at,
    flattened,
    metric_of,
    number,
    read_run,
    shortened,
    truth_of,
)
from balenas_plugin.report.run_pictures import MAX_LABELS, logit_pictures, probability_pictures, run_pictures

_TOP, _TOP_OF_MANY = 20, 3
"""Architectures listed of a run, and of each of more than `MAX_DETAILED`."""

MAX_DETAILED = 8
"""Runs up to which a page draws each; of more it shows what they have together, or it would take minutes and tens of
megabytes."""


@dataclass(frozen=True)
class Shown:
    """A picture on the page: where its data is, what stands around it, and how wide it is in CSS pixels."""

    title: str
    caption: str
    alt: str
    source: str


@dataclass(frozen=True)
class RunSection:
    """What the page says of one run; texts are not escaped yet."""

    name: str
    anchor: str
    facts: list[tuple[str, str]]
    warnings: list[dict[str, str]]
    drawings: list[Shown]
    pictures: list[Shown]
    probabilities: list[Shown]
    logits: list[Shown]
    left_out: int
    heads: list[str]
    rows: list[list[str]]
    pareto: tuple[list[str], list[list[str]]] | None
    pareto_pictures: list[Shown]
    settings: dict[str, str]


def write_report(folders: Sequence[Path], output: Path, *, pictures: Path | None = None) -> list[Path]:
    """Write a page about the runs in these folders; return the files written.

    Args:
        folders: of runs, finished or not.
        output: the page.
        pictures: a folder to write every picture to as a PNG as well; None writes none.

    Raises:
        FileFormatError: a folder is not that of a run, or a file in it is damaged.
        OptionError: no folder is given, or one twice.
        StorageError: a file could not be written.
    """
    if not folders:
        raise OptionError("give at least one folder of a run")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise OptionError("a folder is given twice; a run compared with itself says nothing")
    names = distinguished([folder.resolve() for folder in folders])
    runs = [replace(read_run(folder), name=name) for folder, name in zip(folders, names, strict=True)]
    album = _Album(pictures)
    compared = _comparison(runs, album) if len(runs) > 1 else None
    detailed = len(runs) <= MAX_DETAILED
    sections = [_section(run, position, album, detailed) for position, run in enumerate(runs, start=1)]
    page = (
        environment()
        .get_template("page.html.jinja")
        .render(
            title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs",
            runs=sections,
            compared=compared,
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            version=__version__,
            max_labels=MAX_LABELS,
            max_detailed=MAX_DETAILED,
            top=_TOP_OF_MANY,
            detailed=detailed,
        )
    )
    write_text_atomically(output, page)
    return [output, *album.written]


def distinguished(paths: Sequence[Path]) -> list[str]:
    """Return for each path as many of its last parts as distinguish it from the others."""
    names = []
    for path in paths:
        others = [other for other in paths if other != path]
        lengths = range(1, len(path.parts) + 1)
        length = next((n for n in lengths if all(path.parts[-n:] != o.parts[-n:] for o in others)), lengths[-1])
        names.append(str(Path(*path.parts[-length:])))
    return names


def environment() -> Environment:
    """Return what renders the pages: everything is escaped, nothing may be missing."""
    return Environment(
        loader=PackageLoader("balenas_plugin.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


class _Album:
    """Renders pictures for the page, and as PNGs where that was asked for.

    Args:
        folder: of the PNGs, or None.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.written: list[Path] = []

    def show(self, picture: Picture, prefix: str) -> Shown:
        """Return a chart as the page shows it."""
        self._keep(f"{prefix} {picture.name}", lambda: picture.render("png"))
        return shown(picture)

    def drawings(self, run: RunData, prefix: str) -> Iterator[Shown]:
        """Yield the drawings of an architecture as the page shows them."""
        for drawing in drawings_of(run):
            self._keep(f"{prefix} {drawing.name}", drawing.png)
            yield Shown(drawing.title, "", drawing.alt, as_source(drawing.svg))

    def _keep(self, name: str, png: Any) -> None:
        if self.folder is None:
            return
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:100]
        names = (f"{stem}{'' if number == 1 else f'-{number}'}.png" for number in itertools.count(1))
        path = next(path for path in map(self.folder.joinpath, names) if path not in self.written)
        data = png()
        write_atomically(path, lambda file: file.write(data))
        self.written.append(path)


def shown(picture: Picture) -> Shown:
    """Return a chart as a page shows it."""
    return Shown(picture.title, picture.caption, picture.alt, as_source(picture.render("svg")))


def as_source(svg: bytes) -> str:
    """Return an SVG as the source of an `<img>`."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")


def _comparison(runs: Sequence[RunData], album: _Album) -> dict[str, Any]:
    groups = groups_of(runs)
    heads, rows = comparison_table(groups)
    differing = settings_that_differ(runs)
    settings = [[run.name, *values] for run, values in zip(runs, zip(*differing.values(), strict=True), strict=False)]
    return {
        "heads": heads,
        "rows": rows,
        "pictures": [album.show(picture, "compared") for picture in comparison_pictures(groups)],
        "differing": (["run", *differing], settings) if differing else None,
    }


def _section(run: RunData, position: int, album: _Album, detailed: bool) -> RunSection:
    prefix = f"{position:02d} {run.name[:40]}"
    choices = run.log.header.get("choices")
    heads, rows = _ranking(run, _TOP if detailed else _TOP_OF_MANY)

    def all_shown(pictures: Callable[[RunData], Iterator[Picture]]) -> list[Shown]:
        return [album.show(picture, prefix) for picture in pictures(run)] if detailed else []

    front = front_of(run)
    return RunSection(
        name=run.name,
        anchor=f"run-{position}",
        facts=list(_facts(run)),
        warnings=_warnings(run),
        drawings=list(album.drawings(run, prefix)) if detailed else [],
        pictures=all_shown(run_pictures),
        probabilities=all_shown(probability_pictures),
        logits=all_shown(logit_pictures),
        left_out=max(0, len(choices) - MAX_LABELS) if detailed and isinstance(choices, dict) else 0,
        heads=heads,
        rows=rows,
        pareto=front.table() if front else None,
        pareto_pictures=[album.show(front.picture(), prefix)] if front and detailed else [],
        settings=flattened(run.settings),
    )


def _facts(run: RunData) -> Iterator[tuple[str, str]]:
    """Yield what stands first: what was searched, how it ended, what was found."""
    yield "strategy", run.strategy
    yield "seed", shortened(str(run.manifest.get("seed", NOT_KNOWN)), 20)
    yield "status", shortened(str(run.manifest.get("status", "unknown")), 40)
    epochs = len(run.records) or len(run.history)
    yield "epochs", str(epochs)
    stages = "; ".join(_events(run))
    if stages:
        yield "stages", shortened(stages, 600)
    stopped = next((r["stopped"] for r in reversed(run.records) if isinstance(r.get("stopped"), str)), None)
    if stopped is not None:
        yield "stopped early", shortened(stopped, 200)
    accuracy = run.series("val_acc")
    if accuracy:
        yield "validation accuracy", f"{100 * accuracy.values[-1]:.2f} %, of the supernet after the last epoch"
    perplexity = run.series("val_perplexity")
    if perplexity:
        yield "validation perplexity", f"{perplexity.values[-1]:.2f}, of the supernet after the last epoch"
    found: Any = run.architectures[0] if run.architectures else (run.records[-1] if run.records else {})
    if found.get("notation") or found.get("choices") or found.get("architecture"):
        yield "architecture", notation_of(found)
    probability = number(found.get("probability"))
    if probability is not None:
        yield "its probability", f"{probability:.3g}, by what the search has learned"
    for dataset, name in DATASETS.items():
        truth = truth_of(found, dataset)
        rank = number(at(found, ("ground_truth", "rank", dataset)))
        if truth is not None:
            places = (("num_ranked", dataset), ("num_architectures",))  # the latter of older files
            among = next(filter(None, (at(found, ("ground_truth", *place)) for place in places)), NOT_KNOWN)
            place = f", rank {rank:.0f} of {among}" if rank else ""
            yield f"{name}, {metric_of(found, dataset)}", f"{truth:.2f} %{place} (unseen by the search)"


def _events(run: RunData) -> Iterator[str]:
    """Yield what the schedule of a search has done, and when."""
    for record in run.records:
        given = record.get("events")
        events = [event for event in given if isinstance(event, str)] if isinstance(given, list) else []
        if events:
            yield f"after epoch {record['epoch'] + 1}: {', '.join(events)}"


def _warnings(run: RunData) -> list[dict[str, str]]:
    """Return each kind of warning once: what it said last, and in which epochs it was raised."""
    found: dict[str, dict[str, str]] = {}
    epochs: dict[str, list[int]] = {}
    for record in run.records:
        given = record.get("alarms")
        for warning in given if isinstance(given, list) else []:
            if isinstance(warning, dict) and all(isinstance(warning.get(k), str) for k in ("kind", "message", "cure")):
                kind = shortened(warning["kind"], 40)
                found[kind] = {k: shortened(warning[k], 600) for k in ("message", "cure")}
                epochs.setdefault(kind, []).append(record["epoch"])
    for kind, warning in found.items():
        first, last = epochs[kind][0], epochs[kind][-1]
        count = len(epochs[kind])
        warning["when"] = f"in epoch {first}" if count == 1 else f"in {count} epochs, from {first} to {last}"
        warning["now"] = "yes" if run.records and last == run.records[-1]["epoch"] else ""
    return list(found.values())


def _ranking(run: RunData, top: int) -> tuple[list[str], list[list[str]]]:
    """Return the `top` ranked architectures as a table."""
    records = run.architectures[:top]
    if not records:
        return [], []
    columns: list[tuple[str, Any]] = [("rank", lambda r: in_text(r.get("rank"), "{:.0f}"))]
    if any("chosen_by" in record for record in records):
        columns.append(("chosen by", lambda r: shortened(str(r.get("chosen_by", NOT_KNOWN)), 60)))
    columns.append(("architecture", notation_of))
    if any("probability" in record for record in records):
        columns.append(("probability", lambda r: in_text(r.get("probability"), "{:.3g}")))
    for proxy in sorted({str(key) for r in records if isinstance(r.get("scores"), dict) for key in r["scores"]}):
        columns.append((proxy, lambda r, proxy=proxy: in_text(at(r, ("scores", proxy)), "{:.4g}")))
    if any(at(record, ("trained", "accuracy")) is not None for record in records):
        columns.append(("trained from scratch, %", _trained("accuracy", 100)))
    if any(at(record, ("trained", "perplexity")) is not None for record in records):
        columns.append(("trained from scratch, perplexity", _trained("perplexity", 1)))
    for dataset, name in DATASETS.items():
        known = [record for record in records if truth_of(record, dataset) is not None]
        if known:
            head = f"{name}, {metric_of(known[0], dataset)}, % (unseen)"
            columns.append((head, lambda r, dataset=dataset: in_text(truth_of(r, dataset), "{:.2f}")))
    return [head for head, _ in columns], [[cell(record) for _, cell in columns] for record in records]


def _trained(name: str, factor: float) -> Callable[[Mapping[str, Any]], str]:
    def cell(record: Mapping[str, Any]) -> str:
        value, epochs = (number(at(record, ("trained", key))) for key in (name, "epochs"))
        return NOT_KNOWN if value is None else f"{factor * value:.2f} after {epochs or 0:.0f} epochs"

    return cell


def in_text(value: object, form: str) -> str:
    """Return a number in a form, or a dash."""
    found = number(value)
    return NOT_KNOWN if found is None else form.format(found)
