"""diagnostics.jsonl: one JSON object a line, the first about the search, then one an epoch.

Epochs are appended, each flushed to disk as one line, so the file can be read while the search runs and after a crash:
a line that was cut short is ignored, and written again on resume. Numbers that are not finite are null.

First line::

    format, version     "balenas-diagnostics", 1
    strategy            name of the search module's class
    distribution        name of what is learned; "softmax" of NNI's own strategies
    choices             label -> names of the candidates
    kinds               label -> kind of each candidate: none, skip, parameter-free, parametric
    options             of the diagnostics
    seed                of the draws and of Lanczos' first vector

Every other line (a key is left out where there is nothing to say)::

    epoch               from 0
    val_acc             validation accuracy of the supernet, 0 to 1: at the mean of the distribution, or as NNI's own
                        strategies compute: of the strongest path (Proxyless), of random paths (RandomOneShot)
    logits              label -> numbers that discretisation ranks by: the posterior mean, the logits of DARTS, ...
    precision, ...      label -> the other parameters of the scores' law (see `bayes.laws`): of Gaussian logits their
                        1/sigma^2, in 1/logit^2; of a Dirichlet its concentration
    probabilities       label -> winning probability of each candidate (softmax of NNI's own strategies)
    entropy             in nats: differential of Gaussians and Dirichlets, else that of the choices
    sigma               {"mean", "least", "most"} over all logits, of Gaussians
    choice_entropy      of the choices, as a share of its maximum: 1 undecided, 0 decided
    architecture        the current one: label -> choice;  notation: the space's own names of it
    skip_ratio, parameter_free_share    of its operations
    cells               cell -> {"depth", "width"} of it
    eigenvalue, trace   of d2 L_val / d alpha2, in 1/logit^2;  curvature: {"method", "products"}
    ground_truth        {"unseen_by_search": true, "table", "ranked_by": data set -> which accuracy,
                        "accuracy": data set -> percent} of the architecture
    draws               {"count", "distinct", "skip_ratio", "parameter_free_share", "depth", "width": means over draws,
                        "ground_truth": as above, with one percent a draw}
    not_finite          what is NaN or infinite
    alarms              [{"kind", "message", "cure"}] that hold after this epoch
    events              what the search's schedule does after this epoch, in words
    stopped             why the search was stopped after this epoch
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.errors import FileFormatError, OptionError
from balenas_plugin.files import append_text, read_text, write_text_atomically

FORMAT = "balenas-diagnostics"
VERSION = 1
MAX_BYTES = 256 * 2**20
MAX_EPOCH = 10**9


@dataclass(frozen=True)
class DiagnosticsLog:
    """The content of a diagnostics.jsonl.

    Args:
        header: of the search.
        records: one an epoch, in order; their epochs are whole numbers.
    """

    header: dict[str, Any]
    records: list[dict[str, Any]]


def write_log(path: Path, header: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
    """Write the whole file, whole or not at all.

    Raises:
        StorageError: the file could not be written.
    """
    write_text_atomically(path, "".join(_line(entry) for entry in ({**header_entry(), **header}, *records)))


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append one epoch and flush it to disk.

    Raises:
        StorageError: the file could not be written.
    """
    append_text(path, _line(record))


def header_entry() -> dict[str, Any]:
    """Return what says that a file is one of these."""
    return {"format": FORMAT, "version": VERSION}


def read_log(path: Path) -> DiagnosticsLog:
    """Read a file that may have been written by anyone; a last line that was cut short is left out.

    Raises:
        FileFormatError: it is missing, not of this format, or damaged.
    """
    try:
        text = read_text(path, most=MAX_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(f"cannot read the diagnostics {path}: {error}") from error
    lines = text.split("\n")
    entries = [_parsed(path, number, line) for number, line in enumerate(lines[:-1], start=1)]
    if not entries or entries[0].get("format") != FORMAT:
        raise FileFormatError(f"{path} is not a file of diagnostics (its first line does not say {FORMAT!r})")
    if entries[0].get("version") != VERSION:
        raise FileFormatError(f"{path} has version {entries[0].get('version')!r}; this package reads {VERSION}")
    for number, record in enumerate(entries[1:], start=2):
        epoch = record.get("epoch")
        if isinstance(epoch, bool) or not isinstance(epoch, int) or not 0 <= epoch < MAX_EPOCH:
            raise FileFormatError(f"{path}, line {number}: epoch is {str(epoch)[:40]}; it must be a whole number")
    return DiagnosticsLog(entries[0], entries[1:])


def past_posterior(path: Path, epoch: int, *, like: Posterior) -> Posterior:
    """Return the posterior after an epoch of a search, as it was.

    Args:
        path: of the search's diagnostics, which hold the posterior of each epoch.
        epoch: from 0.
        like: the posterior after the last epoch, of the same choices and number format.

    Raises:
        OptionError: the search has no such epoch, or was not watched.
        FileFormatError: the file is damaged, or of another search.
    """
    if not path.exists():
        raise OptionError(
            f"there is no {path}, where the posterior of each epoch is kept: the search was made with `diagnostics: "
            "false`, so only its last epoch can be exported (leave out --epoch)"
        )
    columns = law_columns(like)
    needed = {"logits", "probabilities", *columns}  # there are no probabilities of what is not finite
    records = {record["epoch"]: record for record in read_log(path).records if needed <= record.keys()}
    if epoch not in records:
        raise OptionError(f"{path} has no epoch {epoch}; there are {_listed(list(records)) or 'none'}")
    try:
        return _posterior_of(records[epoch], like)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise FileFormatError(f"{path}: epoch {epoch} has no posterior that can be used: {error}") from error


def law_columns(posterior: Posterior) -> dict[str, dict[str, torch.Tensor]]:
    """Return what a record keeps of the laws besides the scores: name of the parameter -> label -> shape (K,)."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for label, law in posterior.laws.items():
        for name, values in law.parameters().items():
            found.setdefault(name, {})[label] = values
    return {
        name: by_label
        for name, by_label in found.items()
        if not all(_equal(values, posterior.scores[label]) for label, values in by_label.items())
    }


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())


def _posterior_of(record: Mapping[str, Any], like: Posterior) -> Posterior:
    labels = {}
    for label, law in like.laws.items():
        columns = {name: record.get(name, record["logits"])[label] for name in law.parameters()}
        labels[label] = {"choices": like.choices[label], "scores": record["logits"][label], **columns}
    return Posterior.from_document({**like.to_document(), "labels": labels})


def _listed(epochs: Sequence[int]) -> str:
    """Return numbers in increasing order as text, a range where none is left out."""
    if len(epochs) > 1 and epochs[-1] - epochs[0] == len(epochs) - 1:
        return f"{epochs[0]} to {epochs[-1]}"
    return ", ".join(map(str, epochs))


def plain(value: Any, *, digits: int = 9) -> Any:
    """Return containers of numbers for JSON: rounded to significant `digits`, null where they are not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry, digits=digits) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry, digits=digits) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value


def as_written(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what reading `entry` back will give: plain containers only, which a checkpoint can hold as well."""
    found: dict[str, Any] = json.loads(_line(entry))
    return found


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, separators=(",", ":"), allow_nan=False, default=str) + "\n"


def _parsed(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line, parse_constant=lambda name: None)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}, line {number}, is not JSON: {error}") from error
    if not isinstance(entry, dict):
        raise FileFormatError(f"{path}, line {number}, is not a JSON object")
    return entry
