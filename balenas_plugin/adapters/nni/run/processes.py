"""The processes of an NNI experiment: those it leaves behind when its manager is killed are found and ended."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import psutil

_PATIENCE = 5.0
"""Seconds that a process has to end by itself."""


def trial_processes(experiment: str, trial: str | None = None) -> Iterator[psutil.Process]:
    """Yield the running trials of an experiment (or one of them), this process and its parents excepted.

    Only this user's processes can be distinguished; those of others are passed over.

    Args:
        experiment: NNI's identifier.
        trial: likewise; None for all.
    """
    wanted = {"NNI_EXP_ID": experiment} | ({} if trial is None else {"NNI_TRIAL_JOB_ID": trial})
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in own and wanted.items() <= process.environ().items():
                yield process


def manager_processes(experiment: str) -> Iterator[psutil.Process]:
    """Yield the running managers of an experiment (there should be one)."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            words = process.cmdline()
            if "--experiment-id" in words[:-1] and words[words.index("--experiment-id") + 1] == experiment:
                yield process


def end(processes: list[psutil.Process]) -> None:
    """End processes: politely, then not."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, stubborn = psutil.wait_procs(processes, timeout=_PATIENCE)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, timeout=_PATIENCE)


def end_experiment(experiment: str) -> None:
    """End whatever still runs of an experiment: its manager first, which would start trials anew."""
    end(list(manager_processes(experiment)))
    end(list(trial_processes(experiment)))


def end_predecessor() -> None:
    """End the process, if there is one, that ran this very trial before NNI's manager was killed and resumed.

    NNI starts such a trial again under the same name and in the same folder, and knows nothing of the first.
    """
    experiment, trial = os.environ.get("NNI_EXP_ID"), os.environ.get("NNI_TRIAL_JOB_ID")
    first = os.environ.get("LOCAL_RANK", "0") == "0"  # of several processes that Lightning runs one search in
    if experiment and trial and first:
        end(list(trial_processes(experiment, trial)))
