"""What must be coped with to use NASLib (Develop, 0b51bc18) on a current Python, each with its reason.

`import_naslib` makes it importable, `Repairs` replaces methods of one-shot optimizers. A repair that changes something
outside of our own classes is made only where NASLib needs it, and a NASLib that has been mended is left alone.
"""

from __future__ import annotations

import collections
import collections.abc
import functools
import importlib
import importlib.util
import inspect
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from balenas_plugin.doctor.imports import NASLIB_EXTRA, NASLIB_VARIABLE
from balenas_plugin.errors import MissingDependencyError, OptionError

COMMIT = "0b51bc18"

logger = logging.getLogger("naslib.balenas")  # below NASLib's own, so that it goes to the same files


def import_naslib() -> None:
    """Import NASLib from Python's path, or from the clone that BALENAS_NASLIB_PATH names.

    Raises:
        MissingDependencyError: there is no NASLib, or something that it imports is missing or broken.
    """
    place = os.environ.get(NASLIB_VARIABLE)
    if place:
        folder = Path(place).expanduser().resolve()
        if not (folder / "naslib").is_dir():
            raise MissingDependencyError(
                f"{NASLIB_VARIABLE} is {place!r}, where there is no folder naslib: set it to the root of the clone"
            )
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    if "naslib" not in sys.modules and importlib.util.find_spec("naslib") is None:
        raise MissingDependencyError(
            "NASLib is not on Python's path. It is not on PyPI; clone it and say where it is:\n"
            "  git clone https://github.com/automl/NASLib\n"
            f"  git -C NASLib checkout {COMMIT}\n"
            f"  export {NASLIB_VARIABLE}=$PWD/NASLib\n"
            f"  {NASLIB_EXTRA}\n"
            "See docs/naslib.md."
        )
    _import_with_cures()
    _let_trainer_do_without_save_arch_weights()


def _import_with_cures() -> None:
    cures = [_restore_iterable, _stand_in_for_turtle]
    while True:
        try:
            for name in ("naslib.optimizers", "naslib.search_spaces", "naslib.defaults.trainer"):
                importlib.import_module(name)
            return
        except Exception as error:  # a broken dependency can fail in any way
            cure = next((cure for cure in cures if cure(error)), None)
            if cure is None:
                raise MissingDependencyError(
                    f"NASLib was found at {_location()}, but importing it failed:\n"
                    f"  {type(error).__name__}: {error}\n"
                    f"What it needs on Python 3.11 and 3.12: {NASLIB_EXTRA}"
                ) from error
            cures.remove(cure)


def _location() -> str:
    spec = importlib.util.find_spec("naslib")
    return str(next(iter(spec.submodule_search_locations or []), spec.origin)) if spec else "an unknown place"


def _restore_iterable(error: Exception) -> bool:
    """Python 3.10 removed `collections.Iterable`, which a Gaussian process of NASLib imports."""
    if not (isinstance(error, ImportError) and "Iterable" in str(error) and "collections" in str(error)):
        return False
    collections.Iterable = collections.abc.Iterable  # type: ignore[attr-defined]  # as before Python 3.10
    return True


def _stand_in_for_turtle(error: Exception) -> bool:
    """GSparsity imports two functions of `turtle`, by mistake, and a Python without tkinter has none."""
    if not (isinstance(error, ImportError) and error.name in ("tkinter", "_tkinter", "turtle")):
        return False
    turtle = ModuleType("turtle")
    turtle.pos = turtle.position = None  # type: ignore[attr-defined]  # never called
    sys.modules["turtle"] = turtle
    return True


def _let_trainer_do_without_save_arch_weights() -> None:
    """`Trainer.search` reads `config.save_arch_weights`, which NASLib's own defaults lack."""
    from naslib.defaults.trainer import Trainer
    from naslib.utils import load_default_config

    if "save_arch_weights" in load_default_config() or hasattr(Trainer.__init__, "__wrapped__"):
        return
    original = Trainer.__init__

    @functools.wraps(original)
    def initialise(self: Any, optimizer: Any, config: Any, *arguments: Any, **options: Any) -> None:
        config.setdefault("save_arch_weights", False)
        original(self, optimizer, config, *arguments, **options)

    Trainer.__init__ = initialise


def bind_arguments(arguments: list[str]) -> None:
    """Let NASLib read these command-line arguments: its `parse_args` binds `sys.argv` when it is imported."""
    sys.argv[1:] = arguments
    from naslib import utils

    parser, bound = utils.parse_args.__defaults__
    if bound != arguments:
        utils.parse_args.__defaults__ = (parser, list(arguments))


def let_runners_resume() -> None:
    """Let `Trainer.search` heed `--resume`: NASLib parses it, and its runner ignores it and starts anew."""
    from naslib.defaults.trainer import Trainer
    from naslib.utils import get_last_checkpoint

    if hasattr(Trainer.search, "__wrapped__"):
        return
    original = Trainer.search

    @functools.wraps(original)
    def search(self: Any, resume_from: str = "", *arguments: Any, **options: Any) -> Any:
        if not resume_from and self.config.get("resume"):
            resume_from = get_last_checkpoint(self.config)
        return original(self, resume_from, *arguments, **options)

    Trainer.search = search


def repair_for_runner(names: tuple[str, ...] = ("DARTSOptimizer", "DrNASOptimizer", "GDASOptimizer")) -> None:
    """Let NASLib's own one-shot optimizers be called as its runner calls them, which they answer with a TypeError."""
    from naslib import optimizers

    for name in names:
        original = getattr(optimizers, name)
        dataset = inspect.signature(original.adapt_search_space).parameters.get("dataset")
        if dataset is not None and dataset.default is inspect.Parameter.empty and not issubclass(original, Repairs):
            setattr(optimizers, name, type(name, (Repairs, original), {"__module__": __name__}))


class Repairs:
    """Methods to put before those of a one-shot optimizer of NASLib (list it first among the bases).

    Both of NASLib's calling styles work: ``Optimizer(config)`` with ``adapt_search_space(space, dataset_api=api)``, as
    in naslib/runners/nas/runner.py, and ``Optimizer(**config.search)`` with
    ``adapt_search_space(space, config.dataset)``, as in examples/run_darts.py.
    """

    graph: Any
    dataset: Any

    def __init__(self, config: Mapping[str, Any] | None = None, **options: Any) -> None:
        search, self._configured_dataset = self._search_options(config, options)
        self._dataset_api: Any = None
        super().__init__(**search)

    def _search_options(
        self, config: Mapping[str, Any] | None, options: dict[str, Any]
    ) -> tuple[dict[str, Any], str | None]:
        """Return the options of the search and the data set's name; the runner passes the whole config."""
        if config is None:
            return options, None
        search = config.get("search") if isinstance(config, Mapping) else None
        if not isinstance(search, Mapping):
            raise OptionError(
                f"{type(self).__name__} takes NASLib's config, which has a section search, or the options of that "
                f"section as keyword arguments; got {config!r}"
            )
        return {**search, **options}, config.get("dataset")

    def adapt_search_space(
        self, search_space: Any, dataset: str | None = None, scope: Any = None, dataset_api: Any = None
    ) -> None:
        """Turn a copy of the search space into a supernet.

        Args:
            search_space: one of NASLib's graphs; it is not changed.
            dataset: name of the data set; by default the config's.
            scope: of the edges to search; by default the space's own.
            dataset_api: what `get_dataset_api` returned, to look up the accuracy after every epoch.
        """
        self._dataset_api = dataset_api
        super().adapt_search_space(search_space, dataset or self._configured_dataset, scope)  # type: ignore[misc]  # of NASLib's, which comes behind it

    def get_model_size(self) -> float:
        """Return the millions of parameters without auxiliary heads (NASLib's count breaks with numpy >= 2.4)."""
        return float(sum(p.numel() for name, p in self.graph.named_parameters() if "auxiliary" not in name)) / 1e6

    def get_final_architecture(self) -> Any:
        """Return the graph of the architecture that the logits stand for.

        NASLib copies the graph for it, and a graph with an auxiliary head holds the head's last output, which torch
        refuses to copy.
        """
        for key in [key for key in self.graph.graph if str(key).startswith("out_from_")]:
            del self.graph.graph[key]
        return super().get_final_architecture()  # type: ignore[misc]  # the same

    def test_statistics(self) -> Any:
        """Return the benchmark's test accuracy of the present architecture, in percent; None without a benchmark.

        NASLib hides every error here; they are logged instead.
        """
        from naslib.search_spaces.core.query_metrics import Metric

        if self._dataset_api is None or not self.graph.QUERYABLE:
            return None
        try:
            found = Repairs.get_final_architecture(self)
            return found.query(Metric.TEST_ACCURACY, self.dataset, dataset_api=self._dataset_api)
        except Exception as error:  # a benchmark can fail in any way; that is no reason to end the search
            logger.warning("the benchmark could not be queried: %s: %s", type(error).__name__, error)
            return None
