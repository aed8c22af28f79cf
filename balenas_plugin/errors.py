"""Errors a user can cause and cure.

Every message names what was given, what is allowed and what to do. The command line prints the message without a
traceback and exits with code 2; library callers can also catch the built-in type each error derives from.
"""

from __future__ import annotations

import difflib
import errno
import reprlib
from collections.abc import Iterable

_QUOTED = reprlib.Repr()
_QUOTED.maxlevel, _QUOTED.maxdict, _QUOTED.maxlong = 4, 20, 60
_QUOTED.maxlist = _QUOTED.maxtuple = _QUOTED.maxset = 20
_QUOTED.maxstring = _QUOTED.maxother = 200


class BalenasError(Exception):
    """Base class of every error that the user can cause and cure."""


class OptionError(BalenasError, ValueError):
    """An option has a wrong name, type or value."""


class SpaceError(BalenasError, ValueError):
    """A model space or an architecture cannot be used as given."""


class UnreadableError(SpaceError):
    """A text is in none of a space's notations, so that it may be of another space."""


class EvaluatorError(BalenasError, ValueError):
    """An evaluator, or the data it holds, cannot be searched with."""


class DataError(BalenasError, ValueError):
    """A data set is missing, unreadable or not of the expected form."""


class FileFormatError(BalenasError, ValueError):
    """A file is corrupt, or is not one that this package wrote."""


class StorageError(BalenasError, OSError):
    """A file could not be written; what was there before is untouched."""


class NonFiniteLossError(BalenasError, ArithmeticError):
    """The loss became NaN or infinite."""


class SearchFailedError(BalenasError, RuntimeError):
    """A search that was started in another process failed there."""


class ManagerLostError(BalenasError, ConnectionError):
    """NNI's manager, which runs the trials and serves the web page, could not be started or has ended."""


class MissingDependencyError(BalenasError, ImportError):
    """An optional dependency is not installed."""


_OF_PATHS = (
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM),
    *(errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
)
"""What a system says of a path or a disk, and no mistake of a program can be blamed for."""

_LONGEST_MESSAGE = 2000


def first_line(error: BaseException) -> str:
    """Return the type of `error` and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def input_problem(error: Exception) -> str | None:
    """Return what to say the user of an error that the input has caused; None for a mistake of the program."""
    text = str(error)
    if isinstance(error, BalenasError):
        kept = "\n" if isinstance(error, SearchFailedError) else ""  # a line for each search
        text = "".join(c if c.isprintable() or c in kept else "\N{REPLACEMENT CHARACTER}" for c in text)
        return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]} ..."
    if isinstance(error, OSError) and error.filename is not None and error.errno in _OF_PATHS:
        return f"{error.strerror}: {quoted(error.filename)}. Check the path and its permissions, or give another one."
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return (
            f"there is not enough memory ({text.partition(chr(10))[0][:200] or type(error).__name__}). Lower what is "
            "large: image_size, batch_size, num_mc_samples, the space, or the number of processes."
        )
    return None


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the allowed word nearest to `given`, or ``"."`` if none is near."""
    words = {word.lower(): word for word in allowed}
    called = next((word for word in words.values() if same_word(word, given)), None)
    if called is not None:
        return f"; did you mean {called!r}?"
    close = difflib.get_close_matches(given.lower()[:100], words, n=1, cutoff=0.5)
    return f"; did you mean {words[close[0]]!r}?" if close else "."


_SYNONYMS = (
    {"lr", "learning_rate", "init_lr"},
    {"min_lr", "eta_min", "lr_min"},
    {"epochs", "epoch", "max_epochs", "num_epochs", "n_epochs"},
    {"batch_size", "bs", "batch"},
    {"num_workers", "workers", "n_workers"},
    {"weight_decay", "wd", "l2"},
    {"arc_learning_rate", "arch_learning_rate", "arch_lr", "arc_lr", "alpha_lr"},
    {"num_mc_samples", "mc_samples", "num_samples", "n_samples", "m"},
    {"dataset", "data_set", "dataset_name"},
    {"root", "data_dir", "data_root", "data_path", "path"},
    {"output", "output_dir", "out_dir", "outdir", "out", "save_dir", "run_dir"},
    {"overwrite", "force"},
    {"resume", "continue"},
    {"devices", "gpus", "gpu", "n_gpus", "num_gpus"},
    {"accelerator", "device"},
    {"schedule", "scheduler", "lr_scheduler"},
    {"optimizer", "optim", "optimiser"},
    {"seed", "random_seed", "manual_seed"},
    {"top_k", "top", "topk"},
)
"""Names that people use for one option."""

_SETTINGS = {
    **{name: f"evaluator.{name}" for name in ("epochs", "optimizer", "schedule", "logger", "accelerator", "devices")},
    **{name: f"evaluator.{name}" for name in ("precision", "limit_train_batches", "accumulate_grad_batches")},
    **{name: f"evaluator.optimizer.{name}" for name in ("lr", "momentum", "weight_decay", "nesterov")},
    **{name: f"data.{name}" for name in ("batch_size", "num_workers", "root", "limit", "image_size", "download")},
    **{name: f"strategy.{name}" for name in ("arc_learning_rate", "num_mc_samples", "warmup_epochs", "order")},
    **{name: f"strategy.{name}" for name in ("selection", "mc_batches", "prior_precision", "gradient_clip_val")},
    **{name: f"diagnostics.{name}" for name in ("curvature", "draws", "stop_by")},
    **{name: name for name in ("strategy", "space", "data", "name", "top_k", "threads")},
    "min_lr": "evaluator.schedule.min_lr",
    "dataset": "data.name",
}
"""What people look for -> where a config sets it."""


def same_word(one: str, other: str) -> bool:
    """Return whether two names are one option's, however they are written."""
    a, b = (word.lower().replace("-", "_").strip("_") for word in (one, other))
    return a.replace("_", "") == b.replace("_", "") or any({a, b} <= names for names in _SYNONYMS)


def setting(name: str) -> str | None:
    """Return the dotted name under which a config sets what is called `name`, or None."""
    return next((place for word, place in _SETTINGS.items() if same_word(word, name)), None)


def quoted(given: object) -> str:
    """Return `given` for a message, at most a few hundred characters of it."""
    text = _QUOTED.repr(given)
    return text if len(text) <= 500 else f"{text[:500]} ..."
