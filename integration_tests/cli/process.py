"""Run one command line in this process, which a test has just started; stop it at a chosen point if asked to.

Executed by path with the global `REQUEST`:
    arguments: of `balenas`, or of `script` where that is given.
    script: path of a Python script to run in the place of `balenas`; None for `balenas`.
    folder: to work in.
    output, errors: files that standard output and standard error go to.
    environment: added to this process's.
    stop: {"at": name of a point in `POINTS`, "count": at its how-manieth passing, "signal": number}, or None.
    file_size: no file may grow beyond this many bytes, as on a full disk, from the `stop` point on; or None.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import resource
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

REQUEST: dict[str, Any] = globals()["REQUEST"]


def redirect() -> None:
    """Send what this process prints to files, and work in the test's folder."""
    for stream, path in ((1, REQUEST["output"]), (2, REQUEST["errors"])):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, stream)
        os.close(descriptor)
    multiprocessing.set_start_method("fork", force=True)  # as in a process that no server started
    os.environ.update(REQUEST["environment"])
    os.chdir(REQUEST["folder"])


def isolate() -> None:
    """Keep NNI's list of experiments, which is in the home directory, in the test's folder."""
    from nni.tools.nnictl.config_utils import Experiments

    Experiments.__init__.__defaults__ = (str(Path(REQUEST["folder"], "home")),)


def before(owner: Any, name: str, act: Callable[..., None]) -> None:
    """Call `act` with the same arguments before every call of `owner.name`."""
    original = getattr(owner, name)

    def replacement(*args: Any, **kwargs: Any) -> Any:
        act(*args, **kwargs)
        return original(*args, **kwargs)

    setattr(owner, name, replacement)


def after(owner: Any, name: str, act: Callable[..., None]) -> None:
    """Call `act` with the same arguments after every call of `owner.name`."""
    original = getattr(owner, name)

    def replacement(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        act(*args, **kwargs)
        return result

    setattr(owner, name, replacement)


def arrange_stop(at: str, count: int, happen: Callable[[], None]) -> None:
    """Let `happen` be called at the `count`-th passing of the point `at`."""
    import pytorch_lightning as pl

    from balenas_plugin.adapters.nni.callbacks.checkpoint import SearchCheckpoint
    from balenas_plugin.adapters.nni.run import config_run
    from balenas_plugin.adapters.nni.run.tasks.classification import ClassificationModule
    from balenas_plugin.distributions import Draw
    from balenas_plugin.run_folder import RunFolder
    from balenas_plugin.search import Search

    passed = 0

    def stop(*args: Any, **kwargs: Any) -> None:
        nonlocal passed
        passed += 1
        if passed == count:
            happen()

    def stop_before_replacing(path: Path, target: Any) -> None:
        if Path(target).name == "last.ckpt":
            stop()

    def tear(trainer: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        if passed == count - 1:  # half of the file is on the disk
            whole = Path(path).read_bytes()
            Path(path).write_bytes(whole[: len(whole) // 2])
        stop()

    points: dict[str, Callable[[], None]] = {
        "start": lambda: after(RunFolder, "start", stop),
        "architecture step": lambda: before(Search, "architecture_step", stop),
        "inside the architecture step": lambda: before(Draw, "pull_back", stop),
        "batch end": lambda: after(config_run.TrainingBar, "on_train_batch_end", stop),
        "validation end": lambda: after(ClassificationModule, "on_validation_epoch_end", stop),
        "checkpoint half written": lambda: after(pl.Trainer, "save_checkpoint", tear),
        "checkpoint written beside": lambda: before(Path, "replace", stop_before_replacing),
        "checkpoint in place": lambda: after(SearchCheckpoint, "on_train_epoch_end", stop),
        "architectures": lambda: before(config_run, "architecture_records", stop),
    }
    points[at]()


def main() -> Any:
    redirect()
    isolate()
    stop = REQUEST["stop"]
    if stop is not None:
        if REQUEST["file_size"] is not None:
            limit = (REQUEST["file_size"], resource.RLIM_INFINITY)
            arrange_stop(stop["at"], stop["count"], lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
        else:
            arrange_stop(stop["at"], stop["count"], lambda: os.kill(os.getpid(), stop["signal"]))
    if REQUEST["script"] is None:
        from balenas_plugin.cli import main as balenas

        sys.argv = [str(Path(sys.executable).with_name("balenas")), *REQUEST["arguments"]]  # starts further processes
        return balenas(REQUEST["arguments"])
    sys.argv = [REQUEST["script"], *REQUEST["arguments"]]
    runpy.run_path(REQUEST["script"], run_name="__main__")
    return 0


code = main()
atexit._run_exitfuncs()  # a child of the fork server would skip them
sys.exit(code)
