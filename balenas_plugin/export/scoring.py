"""Score each candidate once, in this process or in several."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from balenas_plugin.bayes.decisions import Sample
from balenas_plugin.errors import SpaceError
from balenas_plugin.export.candidates import Candidate
from balenas_plugin.export.selection import ProxySelection
from balenas_plugin.export.space import Networks, Space
from balenas_plugin.proxies import rank_value, score


@dataclass(frozen=True)
class ScoreTable:
    """Scores of the candidates that meet the constraints.

    Args:
        kept: index of each such candidate.
        values: shape (kept, proxies, seeds), higher is better.
        params: candidate -> parameters, if they are constrained.
        flops: candidate -> floating-point operations per image, if they are constrained.
    """

    kept: list[int]
    values: Tensor
    params: dict[int, float]
    flops: dict[int, float]


@dataclass(frozen=True)
class _Scored:
    values: list[list[float]] | None
    params: float | None
    flops: float | None


@dataclass(frozen=True)
class _Scorer:
    """Scores one candidate after the other."""

    candidates: Sequence[Candidate]
    selection: ProxySelection
    inputs: Tensor
    targets: Tensor | None
    networks: Sequence[Networks]

    def __call__(self, index: int) -> _Scored:
        selection, sample = self.selection, self.candidates[index].sample
        params = flops = None
        if selection.max_params is not None or selection.max_flops is not None:
            network = self.networks[0].build(sample).to(self.inputs)
            if selection.max_params is not None:
                params = score("params", network, self.inputs[:1])
            if selection.max_flops is not None:
                flops = score("flops", network, self.inputs[:1])
            if params is not None and params > (selection.max_params or 0):
                return _Scored(None, params, flops)
            if flops is not None and flops > (selection.max_flops or 0):
                return _Scored(None, params, flops)
        return _Scored([self._values(networks, sample) for networks in self.networks], params, flops)

    def _values(self, networks: Networks, sample: Sample) -> list[float]:
        """Return the score of each proxy under one initialisation; the network is built if one needs it."""
        values: list[float] = []
        network: torch.nn.Module | None = None
        for proxy in self.selection.proxies:
            fast = networks.fast_rank_value(proxy, sample)
            if fast is None:
                network = networks.build(sample).to(self.inputs) if network is None else network
                fast = self._value(proxy, network)
            values.append(fast)
        return values

    def _value(self, proxy: str, network: torch.nn.Module) -> float:
        try:
            return rank_value(proxy, network, self.inputs, self.targets)
        except RuntimeError as error:  # e.g. a frozen cell with loose ends, whose width the supernet does not know
            raise SpaceError(
                f"a network of the space does not run on images of shape {tuple(self.inputs.shape[1:])}: {error}. "
                "Check that the space can be frozen to every architecture."
            ) from error


def score_candidates(
    candidates: Sequence[Candidate],
    space: Space,
    selection: ProxySelection,
    *,
    inputs: Tensor,
    targets: Tensor | None,
    progress: bool,
) -> ScoreTable:
    """Score every candidate with every proxy, `selection.workers` at a time.

    The result does not depend on the number of workers: an architecture's weights depend on the seed alone.
    """
    networks = [space.networks(selection.seed + k) for k in range(selection.seeds)]  # shared with forked processes
    scorer = _Scorer(candidates, selection, inputs, targets, networks)
    scored = list(tqdm(_run(scorer, selection.workers), total=len(candidates), desc="score", disable=not progress))
    kept = [i for i, result in enumerate(scored) if result.values is not None]
    values = torch.tensor([scored[i].values for i in kept], dtype=torch.float64).reshape(
        len(kept), selection.seeds, len(selection.proxies)
    )
    return ScoreTable(
        kept,
        values.transpose(1, 2),
        {i: r.params for i, r in enumerate(scored) if r.params is not None},
        {i: r.flops for i, r in enumerate(scored) if r.flops is not None},
    )


_forked: _Scorer | None = None


def _run(scorer: _Scorer, workers: int) -> Iterator[_Scored]:
    indices: Iterable[int] = range(len(scorer.candidates))
    workers = min(workers, len(scorer.candidates))
    if workers == 1 or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(scorer, indices)
        return
    # A fork inherits the space, which need not be picklable (NNI's spaces hold lambdas); one torch thread each.
    global _forked
    _forked = scorer
    try:
        with multiprocessing.get_context("fork").Pool(
            workers, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            yield from pool.imap(_score_forked, indices, chunksize=1)
    finally:
        _forked = None


def _score_forked(index: int) -> _Scored:
    assert _forked is not None
    return _forked(index)
