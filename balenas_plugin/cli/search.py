"""`balenas search`, `balenas latency` and `balenas naslib`: searches from YAML files, in NNI and in NASLib."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import shlex
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

from balenas_plugin.cli.inputs import require_config, require_file

_EXAMPLES = """\
examples:
  balenas search configs/quickstart.yml
  balenas search configs/quickstart.yml --set strategy.num_mc_samples=1 --set data.name=cifar10 --set data.root=~/data
  balenas search configs/quickstart.yml --set strategy.name=DARTS     another method with the same settings
  balenas search configs/quickstart.yml --output runs/trial --overwrite

Before the first iteration its plan is printed: images, classes, halves, epochs, time. The run's folder then holds
config.yml, manifest.json, history.csv, posterior.json, architectures.json and checkpoints/.
"""

_LATENCY = """\
examples:
  balenas latency configs/quickstart.yml --output latency.json
  balenas latency quickstart --device cuda --batch-size 64 --unit us

A search on this machine then counts them in:
  strategy: {name: ProxylessNAS, cost: {name: latency, table: latency.json, reference: 5.0}}
"""

_NASLIB = """\
examples:
  balenas naslib NASLib/naslib/runners/nas/runner.py --config-file configs/naslib/nb201.yml
  balenas naslib NASLib/naslib/runners/nas/runner.py --config-file configs/naslib/nb201.yml optimizer balenas-gdas
  balenas naslib NASLib/naslib/runners/nas/runner.py --config-file configs/naslib/nb201.yml --resume

NASLib is looked for on Python's path and where BALENAS_NASLIB_PATH says: docs/naslib.md.
"""

_EVEN = 0.5
"""Probability of winning below which a choice counts as undecided."""


def add_search(commands: Any, formatter: Any) -> None:
    """Add `balenas search`."""
    search = commands.add_parser(
        "search", help="run a search from a YAML file", epilog=_EXAMPLES, formatter_class=formatter
    )
    search.add_argument(
        "config",
        type=Path,
        metavar="CONFIG.yml",
        help="what to search, on what, how: a file, or one of configs/ by its name (quickstart)",
    )
    add_run_options(search)
    search.set_defaults(run_command=_search)
    latency = commands.add_parser(
        "latency",
        help="measure how long each operation of a search space takes on this machine",
        epilog=_LATENCY,
        formatter_class=formatter,
    )
    latency.add_argument("config", type=Path, metavar="CONFIG.yml", help="of a search: its space, images and threads")
    latency.add_argument(
        "--set", action="append", default=[], metavar="A.B=VALUE", dest="overrides", help="override one option"
    )
    latency.add_argument("--output", type=Path, default=Path("latency.json"), metavar="FILE", help="(latency.json)")
    latency.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device to measure (cpu)")
    latency.add_argument("--threads", type=_count, metavar="N", help="threads of the CPU (the config's)")
    latency.add_argument("--batch-size", type=_count, default=1, metavar="N", help="images at a time (1)")
    latency.add_argument(
        "--repeats",
        type=_count,
        default=50,
        metavar="N",
        help="measurements of each operation; the median is kept (50)",
    )
    latency.add_argument("--unit", choices=("ms", "us"), default="ms", help="milliseconds or microseconds (ms)")
    latency.set_defaults(run_command=_latency)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def add_run_options(command: Any) -> None:
    """Add the options that say where a run goes and how it starts."""
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="A.B=VALUE",
        dest="overrides",
        help="override one option; repeatable",
    )
    command.add_argument("--seed", type=int, help="random seed, instead of the config's")
    command.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of the run (default: runs/<name>, numbered when it exists)"
    )
    existing = command.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="continue an interrupted run, exactly")
    existing.add_argument("--overwrite", action="store_true", help="replace the run that is in --output")


def add_naslib(commands: Any, formatter: Any) -> None:
    """Add `balenas naslib`."""
    naslib = commands.add_parser(
        "naslib",
        help="run one of NASLib's own scripts with our methods among its optimizers",
        epilog=_NASLIB,
        formatter_class=formatter,
    )
    naslib.add_argument("script", type=Path, metavar="SCRIPT", help="e.g. NASLib/naslib/runners/nas/runner.py")
    naslib.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the script's own arguments")
    naslib.set_defaults(run_command=_naslib)


def _search(options: argparse.Namespace) -> int:
    path = require_config(options.config)
    from balenas_plugin.config import load_config
    from balenas_plugin.run_folder.location import helps_another, new_run_folder, resumed_run_folder, shared_run_folder
    from balenas_plugin.signals import end_with_parent

    end_with_parent()
    config = load_config(path, options.overrides, seed=options.seed)
    helps, finished, compared = helps_another(config), False, ""
    if helps:
        folder = shared_run_folder(options.output)
    elif options.resume:
        folder = resumed_run_folder(config, options.output)
        finished = folder.finished
        if finished:
            print(f"{folder.path} is finished already; its architectures:")
            if config.train is None:
                print_architectures(folder)
                return 0
    else:
        folder = new_run_folder(config, options.output, overwrite=options.overwrite)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NNI warns about every class of a torch newer than itself
            from balenas_plugin.adapters.nni.beside_random import require_trainable, train_beside_random
            from balenas_plugin.adapters.nni.run.config_run import run_search
        require_trainable(config)
        with contextlib.nullcontext() if helps else folder.kept():
            if not finished:
                run_search(config, folder, resume=options.resume)
            if config.train is not None:
                compared = str(train_beside_random(folder))
    except KeyboardInterrupt:
        if helps or not folder.manifest.exists():
            raise
        print(f"balenas: stopped. To continue exactly where it was: {resume_command(options, folder)}", file=sys.stderr)
        return 130
    finally:
        if not helps:
            folder.release()
    if not helps:
        print_architectures(folder, compared)
    return 0


def _latency(options: argparse.Namespace) -> int:
    path = require_config(options.config)
    from balenas_plugin.config import load_config

    config = load_config(path, options.overrides)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NNI warns about every class of a torch newer than itself
        from balenas_plugin.adapters.nni.run.latency_run import measure_latencies
    given = ("device", "threads", "batch_size", "repeats", "unit")
    table = measure_latencies(config, **{name: getattr(options, name) for name in given})
    table.save(options.output)
    dearest = table.fixed + sum(max(by_choice.values()) for by_choice in table.costs.values())
    print(
        f"{options.output}: {len(table.costs)} choices of {table.space} on {table.machine} ({table.processor}); "
        f"an architecture takes {table.least:.3g} to {dearest:.3g} {table.unit}, {table.fixed:.3g} of it in any case"
    )
    return 0


def _naslib(options: argparse.Namespace) -> int:
    require_file(options.script, "the script")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NASLib's code warns about newer Pythons, NumPys and torches
        from balenas_plugin.adapters.naslib.runner import run_script

    run_script(options.script, options.arguments)
    return 0


def resume_command(options: argparse.Namespace, folder: Any) -> str:
    """Return the command that resumes the search."""
    words = ["balenas", options.command, str(options.config)]
    for override in options.overrides:
        words += ["--set", override]
    if options.seed is not None:
        words += ["--seed", str(options.seed)]
    return shlex.join([*words, "--output", str(folder.path), "--resume"])


def print_architectures(folder: Any, compared: str = "") -> None:
    """Print the architectures that a run has found, and how the winner compares with others if that is known."""
    records = folder.read_architectures()
    trained = {record["rank"]: record["trained"] for record in records if record.get("trained")}
    column = f"  {'trained':>8}" if trained else ""
    print(f"\n{'rank':>4}  {'probability':>11}{column}  architecture")
    for record in records:
        name = next(iter(record["notation"].values()), None) or json.dumps(record["choices"])
        probability = f"{record['probability']:11.3g}" if "probability" in record else " " * 11
        mark = "  <- argmax" if record.get("chosen_by") == "argmax of the mean" else ""
        result = trained.get(record["rank"], {})
        forms = {"accuracy": "{:8.2%}", "perplexity": "{:8.2f}"}
        shown = next((form.format(value) for key, form in forms.items() if (value := result.get(key)) is not None), "")
        print(f"{record['rank']:>4}  {probability}{f'  {shown:>8}' if trained else ''}  {name}{mark}")
    for result in list(trained.values())[:1]:
        recipe = f"recipe: {result['recipe']}; " if result.get("recipe") else ""
        weights = folder.path / "candidates" if result.get("checkpoint") else "on the machines that trained them"
        print(
            f"\ntrained: validation {'perplexity' if 'perplexity' in result else 'accuracy'} of the architecture alone "
            f"(not the supernet's), trained from scratch; {recipe}epochs: {result['epochs']}; weights: {weights}"
        )
    for text in filter(None, (compared, _conclusion(folder, records))):
        print(f"\n{textwrap.fill(text, 110, break_on_hyphens=False)}")
    print()
    for command in _next_commands(folder):
        print(f"  {command}")
    print(f"\nEverything about this run: {folder.path}")


def _conclusion(folder: Any, records: list[dict[str, Any]]) -> str:
    """Return in plain sentences what won, and how sure the search is of it."""
    best = records[0]
    name = next(iter(best["notation"].values()), None) or json.dumps(best["choices"])
    manifest = folder.read_manifest() if folder.manifest.exists() else {}
    if "winning_probability" not in best:
        return f"The winner is {name}. {manifest.get('strategy')} does not say how sure it is; BaLeNAS would. Next:"
    argmax = best.get("chosen_by") == "argmax of the mean"
    text = "The winner" + ("" if argmax or "chosen_by" not in best else f" by {best['chosen_by']}")
    text += f" is {name}, with a probability of {best['probability']:.3g}"
    found, guess = best.get("log_probability"), manifest.get("log_probability_of_a_guess")
    if found is not None and guess is not None:
        text += f", {math.exp(min(found - guess, 700)):,.3g} times that of a blind guess"
    choices = best["winning_probability"]
    likeliest = max(records, key=lambda record: record["probability"])
    if argmax and likeliest["probability"] > best["probability"]:
        text += (
            f". In every choice it has what ranks first (the argmax); the likeliest network is that of rank "
            f"{likeliest['rank']}, with {likeliest['probability']:.3g}"
        )
    if found is not None and guess is not None and math.isclose(found, guess, abs_tol=1e-9):
        return f"{text}. {manifest.get('strategy')} has not learned which candidates are better. Next:"
    undecided = sum(probability < _EVEN for probability in choices.values())
    if not undecided:
        return f"{text}. It is decided: in each of {len(choices)} choices, what won is likelier than all others. Next:"
    return (
        f"{text}. It is undecided: in {undecided} of {len(choices)} choices, what won has less than an even chance to "
        "be the best. Search longer (evaluator.epochs), raise strategy.arc_learning_rate, or search again with other "
        "seeds and see what they agree on. Next:"
    )


def _next_commands(folder: Any) -> list[str]:
    run = shlex.quote(str(folder.path))
    export = [f"balenas export {run} --format python"] if folder.posterior.exists() else []
    return [f"balenas report {run}", f"balenas train {run}", *export]
