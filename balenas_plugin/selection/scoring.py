"""Score each candidate once, in this process or in several: fresh networks by proxies, inherited ones by accuracy."""

from __future__ import annotations

import math
import multiprocessing
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from balenas_plugin.bayes.architectures import DescribedArchitecture
from balenas_plugin.bayes.decisions import Architecture
from balenas_plugin.errors import OptionError, SpaceError
from balenas_plugin.proxies import list_proxies, rank_value
from balenas_plugin.search_spaces import Networks, SearchSpace
from balenas_plugin.selection.candidates import Candidate
from balenas_plugin.selection.constraints import cost_of, fitted
from balenas_plugin.selection.proxy_selection import PROBABILITY, ProxySelection
from balenas_plugin.selection.supernet_accuracy import SUPERNET_ACCURACY, Supernet, SupernetAccuracy

Result = TypeVar("Result")


@dataclass(frozen=True)
class _ProxyScorer:
    """Scores one candidate after the other by zero-cost proxies."""

    candidates: Sequence[Candidate]
    selection: ProxySelection
    inputs: Tensor
    targets: Tensor | None
    networks: Sequence[Networks]

    def __call__(self, index: int) -> list[list[float]]:
        return [self._values(networks, self.candidates[index].sample) for networks in self.networks]

    def _values(self, networks: Networks, architecture: Architecture) -> list[float]:
        """Return the score of each proxy under one initialisation; the network is built if one needs it."""
        values: list[float] = []
        network: nn.Module | None = None
        for proxy in self.selection.zero_cost_proxies:
            fast = networks.fast_rank_value(proxy, architecture)
            if fast is None:
                network = networks.build(architecture) if network is None else network
                fast = self._value(proxy, network)
            values.append(fast)
        return values

    def _value(self, proxy: str, network: nn.Module) -> float:
        network, inputs = fitted(network, self.inputs)
        try:
            return rank_value(proxy, network, inputs, self.targets)
        except _NO_SCORE as error:
            others = self._other_proxies(proxy, network, inputs)
            if not others:
                raise _does_not_run(error) from error
            name = type(network).__name__
            raise OptionError(
                f"the proxy {proxy!r} cannot score {name}: {error}. Proxies that can: {', '.join(others)}"
            ) from error

    def _other_proxies(self, proxy: str, network: nn.Module, inputs: Tensor) -> list[str]:
        """Return the names of the proxies that can score the network; of those, if any, that distinguish networks."""
        values = {}
        for name in list_proxies():
            with warnings.catch_warnings(), suppress(Exception):  # another package's proxy can fail in any way
                warnings.simplefilter("ignore")
                values[name] = rank_value(name, network, inputs, self.targets)
        finite = [name for name, value in values.items() if math.isfinite(value)]
        return [name for name in finite or values if name != proxy]


@dataclass(frozen=True)
class _SupernetScorer:
    """Scores one candidate after the other by its accuracy with the supernet's weights."""

    candidates: Sequence[Candidate]
    accuracy: SupernetAccuracy

    def __call__(self, index: int) -> float:
        try:
            return self.accuracy(self.candidates[index].sample)
        except (RuntimeError, ValueError) as error:  # torch's of batch-norm on single values
            raise _does_not_run(error) from error


_NO_SCORE = (RuntimeError, TypeError, ValueError, LookupError, AttributeError)
"""What networks raise on inputs, or outputs, that they or a proxy cannot handle."""


def _does_not_run(error: Exception) -> SpaceError:
    """Return what to say, e.g. of a frozen cell with loose ends, whose width the supernet does not know."""
    return SpaceError(
        f"a network of the space does not run on images of the search: {error}. Check that the space can be frozen to "
        "every architecture."
    )


def require_scorable(
    architecture: Architecture,
    space: SearchSpace,
    selection: ProxySelection,
    *,
    inputs: Tensor,
    targets: Tensor,
    supernet: Supernet | None,
) -> None:
    """Score one architecture as `rank` will score many, so that a refusal comes before a search and not after.

    Raises:
        OptionError: a proxy cannot score networks of the space; the message names those that can.
        SpaceError: a network of the space does not run on the inputs.
    """
    little = replace(selection, seeds=1, images=2, batch_norm_batches=1, workers=1)
    candidate = Candidate(DescribedArchitecture(architecture, 0.0, {}), 0)
    accuracy = supernet_accuracy(little, supernet)
    try:
        for measure in selection.limits:
            cost_of(space.networks(0).build(architecture), measure, inputs[:1])
    except _NO_SCORE as error:
        raise _does_not_run(error) from error
    score_candidates([candidate], space, little, inputs=inputs, targets=targets, accuracy=accuracy, progress=False)


def score_candidates(
    candidates: Sequence[Candidate],
    space: SearchSpace,
    selection: ProxySelection,
    *,
    inputs: Tensor,
    targets: Tensor | None,
    accuracy: SupernetAccuracy | None,
    progress: bool,
) -> Tensor:
    """Return the scores of every candidate by every proxy, shape (candidates, proxies, seeds), higher is better.

    `selection.workers` are scored at a time. The result does not depend on their number: an architecture's weights
    depend on the seed alone.
    """
    indices = range(len(candidates))
    columns: dict[str, Tensor] = {}
    if selection.zero_cost_proxies:
        networks = [space.networks(selection.seed + k) for k in range(selection.seeds)]  # shared with forked processes
        by_proxies = _ProxyScorer(candidates, selection, inputs, targets, networks)
        scored = _run(by_proxies, indices, workers=selection.workers, bar="score" if progress else None)
        columns |= zip(selection.zero_cost_proxies, torch.tensor(scored, dtype=torch.float64).unbind(-1), strict=True)
    if accuracy is not None and SUPERNET_ACCURACY in selection.proxies:
        workers = selection.workers if accuracy.device.type == "cpu" else 1  # a forked process cannot use a GPU
        by_supernet = _SupernetScorer(candidates, accuracy)
        found = _run(by_supernet, indices, workers=workers, bar="supernet accuracy" if progress else None)
        columns[SUPERNET_ACCURACY] = torch.tensor(found, dtype=torch.float64)[:, None].expand(-1, selection.seeds)
    log_p = torch.tensor([each.architecture.log_probability for each in candidates], dtype=torch.float64)
    columns[PROBABILITY] = log_p[:, None].expand(-1, selection.seeds)
    return torch.stack([columns[name] for name in selection.proxies], 1)


def supernet_accuracy(selection: ProxySelection, supernet: Supernet | None) -> SupernetAccuracy | None:
    """Return what counts the supernet's accuracy; None if the selection does not ask for it.

    Raises:
        OptionError: there is no supernet, or no classification.
    """
    if not selection.needs_supernet:
        return None
    if supernet is None:
        raise OptionError(
            f"{selection.chosen_by} needs the weights and the data of the search, and here is only its posterior: use "
            "it in BaLeNAS(selection=...), or in `balenas export RUN_DIR`"
        )
    return SupernetAccuracy(
        supernet,
        images=selection.images,
        batch_norm_batches=selection.batch_norm_batches,
        seed=selection.seed,
        own_images=selection.own_images,
        batch_statistics=selection.batch_statistics,
    )


_forked: Callable[[int], Any] | None = None


def _run(scorer: Callable[[int], Result], indices: Sequence[int], *, workers: int, bar: str | None) -> list[Result]:
    """Return what the scorer gives for each index, with a progress bar of that name."""
    return list(tqdm(_each(scorer, indices, workers), total=len(indices), desc=bar, disable=bar is None))


def _each(scorer: Callable[[int], Result], indices: Sequence[int], workers: int) -> Iterator[Result]:
    workers = min(workers, len(indices))
    if workers <= 1 or "fork" not in multiprocessing.get_all_start_methods():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as each of several has: on small networks more take up to four times the CPU's time
        try:
            yield from map(scorer, indices)
        finally:
            torch.set_num_threads(threads)
        return
    # A fork inherits the space, which need not be picklable (NNI's spaces hold lambdas).
    global _forked
    _forked = scorer
    try:
        with multiprocessing.get_context("fork").Pool(workers, initializer=_begin_forked) as pool:
            yield from pool.imap(_score_forked, indices, chunksize=1)
    finally:
        _forked = None


def _begin_forked() -> None:
    """Take one torch thread, leave Ctrl-C to the parent, and let SIGTERM, by which the pool ends its workers, do so.

    A handler inherited from the parent may raise where Python ignores exceptions, and then the pool waits for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)


def _score_forked(index: int) -> Any:
    assert _forked is not None
    return _forked(index)
