"""The work of `balenas ui`: a search, or a finished one, in NNI's web page."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from nni.experiment.config import AlgorithmConfig, ExperimentConfig
from nni.experiment.config.training_services import LocalConfig, RemoteConfig
from nni.nas.experiment.config import NasExperimentConfig
from nni.tools.nnictl.config_utils import Experiments

from balenas_plugin.adapters.nni.run.build import build_evaluator, build_space
from balenas_plugin.adapters.nni.run.config_run import quiet, run_search
from balenas_plugin.adapters.nni.run.processes import end_experiment, manager_processes
from balenas_plugin.adapters.nni.run.tasks import task_of
from balenas_plugin.adapters.nni.strategies.nni_strategies import build_strategy
from balenas_plugin.adapters.nni.strategies.strategy import DistributionStrategy
from balenas_plugin.adapters.nni.web.guard import LOOPBACK, hosts
from balenas_plugin.adapters.nni.web.in_trials import TrainedCandidate
from balenas_plugin.adapters.nni.web.machines import read_machines
from balenas_plugin.adapters.nni.web.manager import (
    SearchExperiment,
    ViewedExperiment,
    free_port,
    require_manager,
    require_room,
)
from balenas_plugin.adapters.nni.web.recipes import ConfiguredSearch, found_in
from balenas_plugin.config import SearchConfig
from balenas_plugin.errors import FileFormatError, OptionError, SearchFailedError, nearest
from balenas_plugin.files import read_text, refused_writes_reported, write_text_atomically
from balenas_plugin.run_folder import RunFolder

NOTE = "experiment.json"
"""File in a run's folder that names its experiment."""

_SECRET = "Keep this address to yourself: whoever has it can stop the experiment and run programs as you."
_LOCAL = "Only this machine reaches it; --host 0.0.0.0 serves others too."
_OPEN = "Other machines reach it too, with this one's name in the place of 127.0.0.1; nothing is encrypted on the way."
_STAYS = "The page stays open until Ctrl-C."


def search_in_ui(
    config: SearchConfig,
    folder: RunFolder,
    *,
    host: str,
    port: int,
    url_prefix: str | None,
    concurrency: int | None,
    machines: Path | None,
    resume: bool,
    show: Callable[[], None],
    close: bool,
) -> None:
    """Search in an experiment with a web page, and keep the page open until Ctrl-C.

    Args:
        config: what to search, on what, how.
        folder: of the run; the experiment is kept inside it.
        host: address on which the page is served, beside the loopback interface.
        port: of the page; 0 for any free one.
        url_prefix: first part of the page's path; None for one that nobody guesses.
        concurrency: how many trials run at a time; None: one, or as many as there are machines.
        machines: file of those that train what is found, as of NNI's `RemoteConfig`; the search then runs here, before.
            None: the search is a trial, and all trials run here.
        resume: continue the folder's run, in its experiment where NNI knows it.
        show: called when the search has ended well.
        close: end with the search instead of keeping the page open.

    Raises:
        BalenasError: bad input, no room, no port, a failed search, a lost manager; nothing is left running.
        KeyboardInterrupt: the user stopped the search; nothing is left running.
    """
    quiet()
    require_manager()
    addresses = hosts(host)
    port = free_port(port, addresses)
    with folder.kept():
        service = LocalConfig() if machines is None else read_machines(machines)
        reached = None if machines is None else hashlib.sha256(machines.read_bytes()).hexdigest()
        identifier = _continued(folder, reached) if resume and not folder.replaces else None
        if identifier is not None:
            end_experiment(identifier)  # what a killed session has left
        experiment = _experiment(config, folder, service, concurrency, identifier)
        if machines is not None:
            run_search(config, folder, resume=resume, trains_candidates=True)
            experiment.strategy.found = found_in(folder)
        with folder.claimed():
            require_room(folder.path)
            if machines is None:
                folder.prepare(config, resumed=resume)
            note = {"experiment": experiment.id, "machines": reached}
            write_text_atomically(folder.path / NOTE, json.dumps(note) + "\n")
        place = folder.path / "nni"
        place.mkdir(exist_ok=True)
        place.chmod(0o700)  # the page's address is in what NNI keeps there
        _prepare_page(experiment, addresses, port, url_prefix)
        with _stopped_afterwards(experiment), refused_writes_reported(folder.path):
            try:
                (experiment.run if identifier is None else experiment.resume)(port)
            except SearchFailedError as error:
                if not close:
                    print(f"balenas: {error}\n{_STAYS}", file=sys.stderr, flush=True)
                    _watch(experiment)
                raise
            _record_trained(folder, experiment.strategy.trained, task_of(config).named)
            show()
            if not close:
                print(_STAYS, flush=True)
                _watch(experiment)


def _record_trained(
    folder: RunFolder, trained: Mapping[int, TrainedCandidate], named: Callable[[float], dict[str, float]]
) -> None:
    """Add to architectures.json what training the candidates gave, by the name of its task (`Task.named`)."""
    if not trained:
        return
    records = folder.read_architectures()
    for record in records:
        if record["rank"] in trained:
            result = trained[record["rank"]]
            checkpoint = result.checkpoint and str(result.checkpoint.relative_to(folder.path.resolve()))
            found = {name: value if math.isfinite(value) else None for name, value in named(result.metric).items()}
            record["trained"] = {"epochs": result.epochs, **found, "checkpoint": checkpoint}
            record["trained"] |= {} if result.recipe is None else {"recipe": result.recipe}
    folder.write_architectures(records)


def view_in_ui(wanted: str, *, host: str, port: int, url_prefix: str | None) -> None:
    """Show the page of a finished experiment until Ctrl-C.

    Args:
        wanted: NNI's identifier of it, or the folder of a run.
        host: see `search_in_ui`.
        port: likewise.
        url_prefix: likewise.

    Raises:
        OptionError: there is no such experiment, or it is running.
    """
    quiet()
    identifier = str(_note_of(RunFolder(Path(wanted)))["experiment"]) if Path(wanted).is_dir() else wanted
    known = Experiments().get_all_experiments()
    if identifier not in known:
        raise OptionError(
            f"NNI knows no experiment {identifier!r}{nearest(identifier, known)} Give an identifier (nnictl experiment "
            "list --all shows them) or the folder of a run that `balenas ui` started."
        )
    if any(manager_processes(identifier)):
        raise OptionError(f"experiment {identifier} is running, on port {known[identifier]['port']}: open its own page")
    require_manager()
    addresses = hosts(host)
    port = free_port(port, addresses)
    place = Path(known[identifier]["logDir"])
    if not (place / identifier / "db" / "nni.sqlite").exists():
        raise OptionError(f"{place / identifier}, where experiment {identifier} was kept, is not there any more")
    config = ExperimentConfig(
        "local",
        trial_command="none",
        trial_concurrency=1,
        search_space={},
        tuner=AlgorithmConfig(name="Random"),  # NNI insists; what is viewed has its own
        experiment_working_directory=place,
        experiment_name=known[identifier]["experimentName"],
        log_level="warning",
    )
    experiment = ViewedExperiment(config, id=identifier)
    experiment.tags = tuple(known[identifier].get("tag") or ())
    experiment._action = "view"
    _prepare_page(experiment, addresses, port, url_prefix)
    with _stopped_afterwards(experiment):
        experiment.start(port)
        print(_STAYS, flush=True)
        _watch(experiment)


def _watch(experiment: Any) -> None:
    with suppress(KeyboardInterrupt):
        experiment.watch()


def _experiment(
    config: SearchConfig,
    folder: RunFolder,
    service: LocalConfig | RemoteConfig,
    concurrency: int | None,
    identifier: str | None,
) -> SearchExperiment:
    data = task_of(config).load(config.data)  # here only to refuse bad input before anything is started
    space = build_space(config.space, num_classes=data.num_classes)
    strategy = build_strategy(config.strategy)
    if not isinstance(strategy, DistributionStrategy):
        raise OptionError(
            f"balenas ui searches with strategies of this package, and {config.strategy['name']} is one of NNI's. The "
            "page shows it as a trial: see configs/nni."
        )
    evaluator = build_evaluator(config, data, folder, [])
    if evaluator.trainer.world_size > 1:
        raise OptionError(
            f"balenas ui searches on one device, got {evaluator.trainer.world_size} (evaluator.devices). "
            "`balenas search` uses several."
        )
    here = isinstance(service, LocalConfig)
    concurrency = concurrency or (1 if here else len(service.machine_list))
    nni_config = NasExperimentConfig("ts", "raw", training_service=service, trial_concurrency=concurrency)
    nni_config.experiment_name = f"{config.strategy['name']} {config.name}"
    nni_config.experiment_working_directory = folder.path / "nni"
    nni_config.log_level = "warning"
    nni_config._trial_command_params = {"envs": "PYTHONWARNINGS=ignore"}
    strategy.recipe = ConfiguredSearch(config=config.to_dict(), folder=str(folder.path.resolve()) if here else None)
    return SearchExperiment(space, evaluator, strategy, nni_config, id=identifier)


def _prepare_page(experiment: Any, addresses: list[str], port: int, url_prefix: str | None) -> None:
    """Give the page its address, and print it when it can be opened."""
    experiment.hosts = addresses
    experiment.url_prefix = secrets.token_hex(12) if url_prefix is None else url_prefix.strip("/") or None
    os.environ["NO_PROXY"] = ",".join(filter(None, (os.environ.get("NO_PROXY"), "localhost,127.0.0.1")))
    path = f"{experiment.url_prefix}/" if experiment.url_prefix else ""

    def announce() -> None:
        reach = _LOCAL if list(experiment.hosts) == [LOOPBACK] else _OPEN
        print(f"Experiment {experiment.id}: http://127.0.0.1:{port}/{path}oview\n{_SECRET}\n{reach}", flush=True)

    experiment.on_started = announce


@contextmanager
def _stopped_afterwards(experiment: Any) -> Iterator[None]:
    """Stop the experiment when the block ends, however."""
    try:
        yield
    finally:
        with suppress(OSError):  # the terminal may be closed
            print("Stopping the experiment ...", file=sys.stderr, flush=True)
        experiment.stop()


def _continued(folder: RunFolder, machines: str | None) -> str | None:
    """Return NNI's identifier of the folder's experiment; None where a new one has to go on with the run.

    NNI keeps to the machines that an experiment began with: with others, a new one goes on.

    NNI knows its experiments by a list in the home directory: one that is not there, or is kept in another folder, may
    come from anyone, or be another run's. One whose manager was killed before it wrote its first line cannot go on.
    """
    if not (folder.path / NOTE).exists():
        return None
    noted, place = _note_of(folder), (folder.path / "nni").resolve()
    identifier = str(noted["experiment"])
    if noted.get("machines") != machines:
        return None
    known = Experiments().get_all_experiments().get(identifier)
    if known is None or Path(str(known.get("logDir"))).resolve() != place:
        return None
    database = f"{(place / identifier / 'db' / 'nni.sqlite').as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(database, uri=True)) as connection:
            row = connection.execute("select 1 from ExperimentProfile where id = ?", (identifier,)).fetchone()
    except sqlite3.Error:
        row = None
    return None if row is None else identifier


def _note_of(folder: RunFolder) -> dict[str, Any]:
    path = folder.path / NOTE
    try:
        note = dict(json.loads(read_text(path)))
        note["experiment"]  # it must be there
        return note
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FileFormatError(
            f"cannot read {path}: {error}. Only a run that `balenas ui` started can be viewed there; to go on with a "
            "run whose file is damaged, remove that file."
        ) from error
