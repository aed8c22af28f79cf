"""`balenas train` and `balenas recipes`: train what a search has found, and say what it is worth."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from balenas_plugin.training import TrainResult

_EXAMPLES = """\
examples:
  balenas train runs/quickstart                           the winner of a run, on its images, with the recipe small
  balenas train runs/quickstart --rank 2 --seeds 0-2 --set epochs=60
  balenas train runs/quickstart --warm-start              from the weights of the supernet, in its sizes
  balenas train "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|" \\
      --recipe nas-bench-201 --data cifar10 --set data.root=~/data
  balenas train "Genotype(normal=[('sep_conv_3x3', 1), ...], ...)" --recipe darts-cifar --data cifar10
  balenas train export/architectures.json --data photos/  a folder of images by class
  balenas train "Genotype(recurrent=[('relu', 0), ...], concat=range(1, 9))" --data ptb/ --recipe darts-ptb
  balenas train runs/quickstart --onnx --int8             and files that run without this package, each measured
  balenas train runs/quickstart --output trained --resume after a crash or Ctrl-C: ends as if it had not been

The folder then holds train.json (accuracy, interval, confusion, costs), and of each seed weights.safetensors,
metrics.csv, and last.ckpt, from which --resume goes on. A recipe is a YAML file: `balenas recipes` lists those that
come with the package, and yours can begin with `base: darts-cifar`.
"""

_RECIPES = """\
examples:
  balenas recipes
  balenas train runs/quickstart --recipe small            one of them by its name
  balenas train runs/quickstart --recipe mine.yml         one of your own, which may begin with `base: small`
"""


def add_train(commands: Any, formatter: Any) -> None:
    """Add `balenas train` and `balenas recipes`."""
    train = commands.add_parser(
        "train",
        help="train an architecture on all training images, and test it",
        epilog=_EXAMPLES,
        formatter_class=formatter,
    )
    train.add_argument(
        "architecture",
        metavar="ARCH",
        help="folder of a run, file of `balenas export` (.json, or a stand-alone .py, which is run), or a notation: "
        "NAS-Bench-201's string, a genotype, one of NAS-Bench-1Shot1, in quotes",
    )
    train.add_argument(
        "--recipe",
        metavar="NAME|FILE.yml",
        help="how to train (small; text-small for a text; user-module with --module)",
    )
    train.add_argument(
        "--module",
        metavar="MODULE:NAME",
        help="function of yours that is given the network and returns a Lightning module, or an evaluator of NNI, with "
        "its loaders; then there is no --data",
    )
    train.add_argument(
        "--data",
        metavar="NAME|FOLDER",
        help="digits, cifar10, cifar100, cifar10_parquet or svhn, or a folder of images by class; for a recurrent cell "
        "python_docs, or a folder of texts (that of the run; else digits, or python_docs)",
    )
    train.add_argument("--seeds", default="0", help='e.g. "0-2" or "0,3": one network each (0)')
    train.add_argument("--output", type=Path, metavar="DIR", help="where to write (RUN_DIR/trained, else trained)")
    train.add_argument("--epochs", type=int, metavar="E", help="instead of the recipe's")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override an option of the recipe, or with data.KEY of the data; repeatable",
    )
    train.add_argument("--rank", type=int, default=1, metavar="K", help="which of a run's architectures (1)")
    train.add_argument("--warm-start", action="store_true", help="begin with the weights of the run's supernet")
    train.add_argument(
        "--onnx",
        action="store_true",
        help="write the network as ONNX too, and for images a script that needs onnxruntime alone",
    )
    train.add_argument("--int8", action="store_true", help="also write an 8-bit ONNX file, and test it")
    train.add_argument("--resume", action="store_true", help="continue an interrupted training, exactly")
    train.add_argument("--accelerator", default="auto", metavar="NAME", help="cpu, gpu, ... (the best there is)")
    train.add_argument("--devices", default="1", metavar="N", help="that train together, or auto (1)")
    train.add_argument(
        "--precision", default="32-true", metavar="NAME", help="32-true, bf16-mixed or 16-mixed (32-true)"
    )
    train.add_argument("--num-workers", type=int, default=0, metavar="N", help="processes that load images (0)")
    train.set_defaults(run_command=_train)
    recipes = commands.add_parser(
        "recipes", help="list the recipes of `balenas train`", epilog=_RECIPES, formatter_class=formatter
    )
    recipes.set_defaults(run_command=_recipes)


def _train(options: argparse.Namespace) -> int:
    from balenas_plugin.deployment import ONNX
    from balenas_plugin.options import PositiveInt, Workers, checked
    from balenas_plugin.reproduce.run import seeds_of
    from balenas_plugin.run_folder.location import is_first_process
    from balenas_plugin.signals import end_with_parent
    from balenas_plugin.training import train

    end_with_parent()
    helps = options.devices != "1" and not is_first_process()
    overrides = list(options.overrides)
    if options.epochs is not None:
        overrides.append(f"epochs={options.epochs}")
    checked("--rank", options.rank, PositiveInt)
    if options.num_workers:
        checked("--num-workers", options.num_workers, Workers)
    of_run = Path(options.architecture, "manifest.json")
    output = options.output or (of_run.parent / "trained" if _exists(of_run) else Path("trained"))
    try:
        result = train(
            options.architecture,
            data=options.data,
            recipe=options.recipe,
            seeds=seeds_of(options.seeds),
            output=output,
            module=options.module,
            overrides=overrides,
            rank=options.rank,
            warm_start=options.warm_start,
            onnx=options.onnx,
            int8=options.int8,
            resume=options.resume,
            accelerator=options.accelerator,
            devices=int(options.devices) if options.devices.isdecimal() else options.devices,
            precision=options.precision,
            num_workers=options.num_workers,
        )
    except KeyboardInterrupt:
        if helps:
            raise
        again = [word for word in sys.argv[1:] if word != "--resume"]
        print(
            f"balenas: stopped. To continue exactly where it was: balenas {shlex.join([*again, '--resume'])}",
            file=sys.stderr,
        )
        return 130
    if not helps:
        print_result(result)
        if options.onnx and result.deployed is None:
            print(f"As ONNX: {Path(result.folder, ONNX)}")
    return 0


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a notation is no name of a file
        return False


def print_result(result: TrainResult) -> None:
    """Print what is known of trained networks."""
    from balenas_plugin.training.fitting import METRICS, has_tensorboard

    low, high = result.interval
    several, example = len(result.networks) > 1, "example" if result.test_perplexity is None else "word"
    tested = sum(map(sum, result.confusion))
    how = f"mean of {len(result.networks)} seeds" if several else f"{tested:,} test images" if tested else "one seed"
    print(f"\n{result.architecture}\n")
    if result.test_perplexity is not None:
        print(f"  perplexity     {result.test_perplexity:.2f}  (of the test text{'; ' + how if several else ''})")
        print(f"  next word      {result.test_accuracy:.2%} are predicted correctly")
    else:
        print(f"  test accuracy  {result.test_accuracy:.2%}  (95 % interval {low:.2%} to {high:.2%}; {how})")
    if several:
        shown = (
            f"{n.test_accuracy:.2%}" if n.test_perplexity is None else f"{n.test_perplexity:.2f}"
            for n in result.networks
        )
        print(
            f"                 {', '.join(f'{value} (seed {n})' for value, n in zip(shown, result.seeds, strict=True))}"
        )
    if result.top5_accuracy is not None:
        print(f"  top-5          {result.top5_accuracy:.2%}")
    for actual, taken, count in result.confused:
        print(f"  confused       {count:,} times {actual} is taken for {taken}")
    print(f"  parameters     {result.parameters:,}")
    print(f"  multiply-adds  {result.multiply_adds:,} per {example}")
    if result.latency_ms is not None:
        print(f"  latency        {result.latency_ms:.3g} ms per {example} on {result.first.machine}")
    print(f"  training       {result.seconds:,.0f} s, {result.first.epochs} epoch{'s' * (result.first.epochs > 1)}")
    if result.deployed is not None:
        print(f"\n{result.deployed.table()}")
        print(f"  to classify: python {Path(result.folder, 'classify.py')} IMAGE ...")
    curves = Path(result.first.folder, METRICS)
    if has_tensorboard():
        print(f"\nCurves: {curves}, or tensorboard --logdir {result.folder}")
    else:
        print(f"\nCurves: {curves}; TensorBoard shows them too where it is installed: pip install tensorboard")
    print(f"Everything about it: {result.folder}")


def _recipes(options: argparse.Namespace) -> int:
    from balenas_plugin.training import list_recipes, load_recipe

    for name in list_recipes():
        recipe = load_recipe(name)
        print(f"{name:<24}{recipe.summary}")
        print(
            f"{'':<24}{recipe.epochs} epochs, batches of {recipe.batch_size}, {recipe.optimizer['name']} "
            f"{recipe.optimizer['lr']:g} {recipe.schedule.name}{'; ' + recipe.source if recipe.source else ''}"
        )
    return 0
