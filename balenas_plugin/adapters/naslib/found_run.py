"""What a search in NASLib has found, as the folder of a run that `balenas report` shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from balenas_plugin.bayes.architectures import Architectures
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.diagnostics import SearchState, summarise
from balenas_plugin.diagnostics.log_file import as_written, write_log
from balenas_plugin.files import write_text_atomically
from balenas_plugin.ground_truth import ground_truth_of
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.search_spaces import SearchSpace

_DRAWS = 100


def write_run(path: Path, method: str, posterior: Posterior, space: SearchSpace, epoch: int, top_k: int) -> Path:
    """Write posterior.json, architectures.json and the diagnostics of the last epoch; return the folder.

    Args:
        path: of the folder.
        method: name of the preset.
        posterior: what was learned.
        space: the exporter's view of the space.
        epoch: the last one.
        top_k: how many architectures to list.

    Raises:
        StorageError: a file cannot be written.
    """
    folder = RunFolder(path)
    path.mkdir(parents=True, exist_ok=True)
    names = {label: tuple(map(str, values)) for label, values in posterior.choices.items()}
    kinds = {label: [space.kinds[name] for name in choices] for label, choices in names.items()}
    state = SearchState(posterior=posterior, decisions=space.decisions, choices=names, kinds=kinds, space=space)
    header = {"strategy": method, "distribution": posterior.kind, "choices": names, "kinds": kinds}
    record = {"epoch": epoch, **summarise(state, draws=_DRAWS, seed=0)}
    posterior.save(folder.posterior)
    write_log(folder.diagnostics, as_written(header), [as_written(record)])
    settings = {"name": path.name, "framework": "NASLib", "space": {"name": space.name}, "strategy": {"name": method}}
    write_text_atomically(folder.config, yaml.safe_dump(settings, sort_keys=False))
    write_text_atomically(
        folder.manifest, json.dumps({"status": "finished", "name": path.name, "strategy": method, "sessions": []})
    )
    folder.write_architectures(list(_records(posterior, space, top_k)))
    return path


def _records(posterior: Posterior, space: SearchSpace, top_k: int) -> Iterator[dict[str, Any]]:
    architectures = Architectures(space.decisions, posterior)
    best = architectures.iterate(first=architectures.discretise(posterior.scores))
    for rank, found in enumerate(islice(best, top_k), start=1):
        notation = space.notations(found.sample)
        truth = ground_truth_of(notation)
        yield found.to_dict(rank, notation=notation, **({} if truth is None else {"ground_truth": truth}))
