"""Run `balenas auto` as on a machine of a known speed, so that its plan does not depend on what else runs there.

The environment variable KILLED_BEFORE names what the process is killed before: "<call> <count>".
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from balenas_plugin.adapters.nni.callbacks.search_timing import TimedSearch
from balenas_plugin.auto import offered, pipeline, planning, splitting
from balenas_plugin.auto.step_timing import Timed
from balenas_plugin.cli import main
from balenas_plugin.training.epochs import TrainingBar

CALLS = {
    "pack": (splitting, "write_packed"),
    "rank": (pipeline, "rank"),
    "epoch": (TrainingBar, "on_train_epoch_end"),
    "deliver": (pipeline, "deliver"),
    "page": (pipeline, "write_page"),
}


def timed(*_: Any, **__: Any) -> Timed:
    return Timed(seconds=25.0, threads=1, memory=0)


offered.time_training = pipeline.time_training = timed
planning._timed_search = lambda *_: TimedSearch(iteration=12.0, epoch=1.0)

if "KILLED_BEFORE" in os.environ:
    called, count = os.environ["KILLED_BEFORE"].split()
    module, name = CALLS[called]
    original, calls = getattr(module, name), []

    def killed(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if len(calls) == int(count):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(module, name, killed)

sys.exit(main(sys.argv[1:]))
