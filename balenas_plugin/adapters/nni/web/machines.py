"""The machines of NNI's `remote` training service, from a file; what is wrong with them stands in its log only."""

from __future__ import annotations

import ipaddress
import re
import sqlite3
from contextlib import closing
from pathlib import Path

from nni.experiment import Experiment
from nni.experiment.config.training_services import RemoteConfig
from nni.nas.experiment.config import NasExperimentConfig

from balenas_plugin.config import read_yaml
from balenas_plugin.errors import OptionError, first_line

PYTHON = "$(command -v python || command -v python3)"
"""Python on a machine, for its shell: that of `python_path`, which NNI puts first, or the one of the user there."""

_LOST = re.compile(r"ERROR \([^)]*\) Failed to recover worker (\S+):")
_NOT_STARTED = re.compile(r"ERROR \([^)]*\) Training srevice initialize failed: (?:Error: )?(.+)")  # NNI's spelling
_NOT_COPIED = re.compile("too many files|too large|no files")


def read_machines(path: Path) -> RemoteConfig:
    """Return the options of NNI's `RemoteConfig` from a YAML file.

    Raises:
        OptionError: the file is missing, not YAML, or NNI refuses what is in it.
    """
    document = {"platform": "remote", **read_yaml(path, ("machine_list", "nni_manager_ip"))}
    try:
        service = RemoteConfig(**document)
        NasExperimentConfig("ts", "raw", training_service=service, trial_concurrency=1).canonical_copy()
    except (AttributeError, TypeError, ValueError, AssertionError) as error:
        raise OptionError(f"NNI refuses the machines of {path}: {first_line(error)}") from error
    return service


class Machines:
    """The machines of an experiment; none where its training service is another.

    NNI notices a machine that is gone, gives its trials up (as it does with trials that a user cancels), tries once to
    start it again, and from then on takes the others; without any it waits for ever.

    Args:
        experiment: which runs; what its log said before does not count.

    Raises:
        OptionError: the machines could not find the manager.
    """

    def __init__(self, experiment: Experiment) -> None:
        config = experiment.config.canonical_copy()
        service = config.training_service
        self._folder = _folder(experiment)
        self._read = len(_log(self._folder))
        self.names: list[str] = []
        self.lost: list[str] = []
        if not isinstance(service, RemoteConfig):
            return
        self.names = [machine.host for machine in service.machine_list]
        if not isinstance(service.nni_manager_ip, str) and not all(map(_is_here, self.names)):
            raise OptionError(
                "the trials on other machines report to NNI's manager, and nothing says where it is: set "
                "nni_manager_ip of the experiment's config to an address of this machine that they reach"
            )

    @property
    def none_left(self) -> bool:
        """Whether there were machines, and all are lost."""
        return 0 < len(self.names) <= len(self.lost)

    def look(self) -> list[str]:
        """Return the machines that were lost since the last look."""
        if not self.names:
            return []
        found = _LOST.findall(_log(self._folder)[self._read :])
        new = found[len(self.lost) :]
        self.lost = found
        return new

    def gave_up(self, trial: str) -> bool:
        """Return whether NNI calls a trial cancelled that no user has cancelled: its process or its machine is gone."""
        database = f"{(self._folder / 'db' / 'nni.sqlite').as_uri()}?mode=ro"
        with closing(sqlite3.connect(database, uri=True)) as connection:
            asked = "select 1 from TrialJobEvent where trialJobId = ? and event = 'USER_TO_CANCEL'"
            return bool(self.names) and connection.execute(asked, (trial,)).fetchone() is None


def why_not_started(experiment: Experiment) -> str:
    """Return why the manager could not start the training service, or nothing."""
    reasons = _NOT_STARTED.findall(_log(_folder(experiment)))
    if not reasons:
        return ""
    copied = "; NNI copies the working directory to the machines, but what .nniignore lists"
    return f": {reasons[-1]}{copied if _NOT_COPIED.search(reasons[-1]) else ''}"


def _folder(experiment: Experiment) -> Path:
    return Path(experiment.config.canonical_copy().experiment_working_directory).resolve() / experiment.id


def _log(folder: Path) -> str:
    try:
        return (folder / "log" / "nnimanager.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
