"""NNI's manager: what keeps it from starting becomes one clear message, and when it stops nothing stays behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from operator import methodcaller
from pathlib import Path
from typing import Any

import requests
from nni.experiment import Experiment, RunMode, launcher, rest
from nni.experiment.config.training_services import RemoteConfig
from nni.mutable import CategoricalMultiple
from nni.nas.execution import training_service
from nni.nas.experiment import NasExperiment
from nni.runtime.tuner_command_channel import TunerCommandChannel
from nni.runtime.tuner_command_channel.command_type import Terminate
from nni.tools.nnictl.constants import NNI_HOME_DIR

from balenas_plugin.adapters.nni.run.processes import end, end_experiment, manager_processes
from balenas_plugin.adapters.nni.web.guard import LOOPBACK, hosts, start_guarded
from balenas_plugin.adapters.nni.web.machines import PYTHON
from balenas_plugin.adapters.nni.web.submission import lost
from balenas_plugin.doctor.checks import Surroundings, check_manager
from balenas_plugin.errors import BalenasError, ManagerLostError, MissingDependencyError, OptionError, StorageError
from balenas_plugin.files import write_atomically
from balenas_plugin.signals import STOPPING

_START_PATIENCE = 120.0
"""Seconds for the manager to answer: on a busy machine it needs more than the three that NNI gives it."""
_STOP_PATIENCE = 60.0
"""Seconds for the manager to end its trials and itself."""
_ROOM = 4 << 20
"""Bytes that must fit on the disk: NNI's database and logs of a short search."""


class _Stopped:
    """What both kinds of experiment share: how the manager is started and stopped.

    Attributes:
        on_started: called when the page can be opened.
        hosts: the addresses on which the manager listens.
    """

    hosts: Sequence[str] = (LOOPBACK,)
    on_started: Callable[[], None] = staticmethod(lambda: None)

    def _run_impl(self: Any, port: int, wait_completion: bool, debug: bool) -> bool | None:
        """Start; NNI's own would swallow Ctrl-C, and wait for what the strategy has waited for already.

        Raises:
            ManagerLostError: the manager ended, whatever that made fail here.
        """
        try:
            self.start(port, debug)
        except BalenasError:
            raise
        except Exception as error:
            if self._proc is None or self._proc.poll() is None:
                raise
            raise ManagerLostError(lost(self)) from error
        return True

    def _start_nni_manager(self: Any, port: int, debug: bool, *args: Any, **kwargs: Any) -> None:
        """Start the manager in the background, guarded, with its output in the experiment's log folder.

        Raises:
            ManagerLostError: it ended, or never answered.
        """
        prefix = f"{self.url_prefix}/" if self.url_prefix else ""
        kwargs |= {"run_mode": RunMode.Detach, "tuner_command_channel": f"ws://localhost:{port}/{prefix}tuner"}
        originals = launcher._start_rest_server, launcher._check_rest_server
        launcher._start_rest_server = lambda arguments, _: start_guarded(arguments, self.hosts)
        launcher._check_rest_server = self._await_manager
        try:
            super()._start_nni_manager(port, debug, **kwargs)  # type: ignore[misc]  # of NNI's, which comes behind it
        except (requests.RequestException, subprocess.SubprocessError, RuntimeError, OSError) as error:
            if isinstance(error, StorageError):
                raise
            end_experiment(self.id)
            raise ManagerLostError(f"NNI's manager could not be started: {self._last_words() or error}") from error
        finally:
            launcher._start_rest_server, launcher._check_rest_server = originals
        self.on_started()

    def _await_manager(self: Any, port: int, retry: int = 0, url_prefix: str | None = None) -> None:
        """Wait until the manager answers (in the place of NNI's own waiting, which gives up after three seconds)."""
        started = time.monotonic()
        while True:
            try:
                rest.get(port, "/check-status", url_prefix)
                return
            except requests.RequestException:
                waited = time.monotonic() - started
                if waited > _START_PATIENCE or (waited > 2 and not any(manager_processes(self.id))):
                    raise
                time.sleep(0.3)

    def _last_words(self: Any) -> str:
        """Return what the manager wrote last to its standard error."""
        folder = Path(self.config.canonical_copy().experiment_working_directory, self.id, "log")
        with contextlib.suppress(OSError):
            lines = (folder / "nnictl_stderr.log").read_text(encoding="utf-8", errors="replace").splitlines()
            reported = [line.strip() for line in lines if "Error" in line]
            if reported:
                return f"{reported[-1]} (see {folder})"
        return ""

    def stop(self: Any) -> None:
        """Stop the manager and the trials; leave no process of the experiment behind. Signals wait meanwhile."""
        with _deferred_signals():
            watchdog = threading.Timer(_STOP_PATIENCE, lambda: end(list(manager_processes(self.id))))
            watchdog.daemon = True
            watchdog.start()
            try:
                if self._proc is not None and self._proc.poll() is not None:
                    self._proc = None  # it has ended already
                super().stop()  # type: ignore[misc]  # the same
            finally:
                watchdog.cancel()
                end_experiment(self.id)

    def watch(self: Any) -> None:
        """Return when the manager has ended."""
        while self._proc is not None and self._proc.poll() is None:
            time.sleep(0.5)


class _Channel(TunerCommandChannel):
    """NNI's line to the manager, which breaks neither at what a resumed manager says of finished trials nor with it."""

    def receive(self) -> Any:
        """Return the next command that NNI's engine knows; the last one when the manager is gone."""
        while True:
            try:
                return super().receive()
            except ValueError:  # "Unknown command type: ImportData"
                continue
            except Exception:  # whatever the lost connection raises; who waits for the trials reports it
                return Terminate()


class SearchExperiment(_Stopped, NasExperiment):
    """A `NasExperiment` whose page may have a prefix (NNI's own cannot) and that cleans up after itself.

    With NNI's `remote` service the manager listens on `nni_manager_ip` too, and trials run the machines' own Python.
    """

    def _start_nni_manager(self, port: int, debug: bool, *args: Any, **kwargs: Any) -> None:
        service = self.config.canonical_copy().training_service
        if isinstance(service, RemoteConfig):
            self.config._trial_command_params = {"python": PYTHON, **(self.config._trial_command_params or {})}
            if isinstance(service.nni_manager_ip, str):
                self.hosts = list(dict.fromkeys([*self.hosts, *hosts(service.nni_manager_ip)]))
        super()._start_nni_manager(port, debug, *args, **kwargs)

    def execution_engine_factory(self, config: Any) -> Any:
        """Return NNI's engine with a channel that a resume does not break."""
        original = training_service.TunerCommandChannel
        training_service.TunerCommandChannel = _Channel
        try:
            return super().execution_engine_factory(config)
        finally:
            training_service.TunerCommandChannel = original

    def _send_space_to_nni_manager(self) -> None:
        """Let the page show what architectures choose, also where a space says that it is not what its supernet mixes.

        NNI's own leaves out inputs; here those are left out of which a node takes several.
        """
        choices = getattr(self.model_space, "architecture_choices", lambda: self.model_space.simplify().values())()
        self.update_search_space({choice.label: values for choice in choices if (values := _as_shown(choice))})

    def load_checkpoint(self) -> None:
        """Load nothing: the trials' state is the manager's and the run folder's, and a kill may cut NNI's pickle."""


def _as_shown(choice: Any) -> dict[str, Any] | None:
    """Return a mutable as the page takes it; None if it cannot."""
    if isinstance(choice, CategoricalMultiple):
        return {"_type": "choice", "_value": list(choice.values)} if choice.n_chosen == 1 else None
    try:
        return dict(choice.as_legacy_dict())
    except NotImplementedError:
        return None


class ViewedExperiment(_Stopped, Experiment):
    """A finished experiment, to look at."""

    def _start_nni_manager(self, port: int, debug: bool, *args: Any, **kwargs: Any) -> None:
        super()._start_nni_manager(port, debug, tags=list(self.tags))

    tags: tuple[str, ...] = ()


@contextlib.contextmanager
def _deferred_signals() -> Iterator[None]:
    """Ignore the signals that ask a command to stop: it is what the block does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def require_manager() -> None:
    """Raise unless NNI's manager can start.

    Raises:
        MissingDependencyError: a file of it is missing or does not run.
    """
    finding = check_manager(Surroundings())
    if finding.status != "ok":
        raise MissingDependencyError(
            f"NNI's page cannot be served: {finding.detail.partition(' (no web page')[0]}. To mend it: {finding.cure}"
        )


def free_port(wanted: int, hosts: Sequence[str] = (LOOPBACK,)) -> int:
    """Return the port if it is free on all of the addresses, or any free one for 0.

    Raises:
        OptionError: it is in use, or not to be had; the message names a free one.
    """
    if not 0 <= wanted < 1 << 16:
        raise OptionError(f"--port must be between 1 and 65535, or 0 for any free one, got {wanted}")
    try:
        return _bound(wanted, hosts)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise OptionError(
            f"port {wanted} cannot be used: {why}. Another program, perhaps another experiment, has it. "
            f"Choose another: --port {_bound(0, hosts)} is free now."
        ) from error


def _bound(port: int, hosts: Sequence[str]) -> int:
    with contextlib.ExitStack() as listeners:
        for host in hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            port = listeners.enter_context(socket.create_server((host, port), family=family)).getsockname()[1]
        return port


def require_room(folder: Path) -> None:
    """Raise unless the experiment can be written to `folder`, and NNI's list of experiments to the home directory.

    Raises:
        StorageError: a disk is full, or does not let us write.
    """
    for place, size in ((folder, _ROOM), (Path(NNI_HOME_DIR), 1)):
        probe = place / ".room.tmp"
        try:
            write_atomically(probe, methodcaller("write", os.urandom(size)))
        except StorageError as error:
            with contextlib.suppress(OSError):
                place.rmdir()  # made for the probe, and empty
            raise StorageError(
                f"NNI cannot keep its experiment in {place}: {error.__cause__}. Free some space there or choose "
                "another place: --output DIR for the run, the environment variable HOME for NNI's list of experiments."
            ) from error
        probe.unlink(missing_ok=True)
