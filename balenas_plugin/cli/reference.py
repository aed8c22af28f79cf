"""`balenas methods`, `balenas spaces` and `balenas schema`: what can be searched, for people and for editors."""

from __future__ import annotations

import argparse
import dataclasses
import json
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, get_args

_EXAMPLES = """\
example:
  balenas schema > schema.json
  balenas schema recipe > recipes/schema.json

An editor with a YAML language server (VS Code with the extension YAML, Neovim, PyCharm) then completes, describes and
checks the options of a config whose first line is
  # yaml-language-server: $schema=schema.json
The configs that come with this package have it. Make it anew after another version of torch, or a package with
proxies or distributions of its own, is installed.
"""


_METHODS = """\
example:
  balenas methods

A config takes a method by its name, `strategy: DrNAS`, with its options; parts combine:
  strategy: {name: BaLeNAS, perturbation: sdarts-adv}
"""


_SPACES = """\
example:
  balenas spaces

A config takes a space by its name, with the options of its supernet:
  space: {name: darts-reference, width: 16, num_cells: 8}
Model spaces of NNI's hub (`space: DARTS`) and your own (`space: module:Class`) are searched too, by NNI's conventions.
"""


def add_reference(commands: Any, formatter: Any) -> None:
    """Add `balenas methods`, `balenas spaces` and `balenas schema`."""
    methods = commands.add_parser(
        "methods",
        help="list the methods, the parts that they are made of, and what does not go together",
        epilog=_METHODS,
        formatter_class=formatter,
    )
    methods.set_defaults(run_command=_methods)
    spaces = commands.add_parser(
        "spaces",
        help="list the search spaces: their sizes, choices and sources, and the ground truth that is at hand",
        epilog=_SPACES,
        formatter_class=formatter,
    )
    spaces.set_defaults(run_command=_spaces)
    schema = commands.add_parser(
        "schema",
        help="print the JSON schema of configs, or of recipes, for editors",
        epilog=_EXAMPLES,
        formatter_class=formatter,
    )
    schema.add_argument("of", nargs="?", choices=("config", "recipe"), default="config", help="of what (config)")
    schema.set_defaults(run_command=_schema)


def _schema(options: argparse.Namespace) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NNI warns about every class of a torch newer than itself
        from balenas_plugin.adapters.nni.run.config_schema import config_schema, recipe_schema

    print(json.dumps({"config": config_schema, "recipe": recipe_schema}[options.of](), indent=1))
    return 0


def _methods(options: argparse.Namespace) -> int:
    from balenas_plugin.costs import CostOptions
    from balenas_plugin.costs.table import Measure
    from balenas_plugin.distributions import distribution_options, get_distribution, list_distributions
    from balenas_plugin.mixed_ops import get_mixed_op, list_mixed_ops, mixed_op_options
    from balenas_plugin.perturbations import get_perturbation, list_perturbations, perturbation_options
    from balenas_plugin.presets import get_preset, list_presets
    from balenas_plugin.schedules import get_schedule, list_schedules, schedule_options

    presets = [get_preset(name) for name in list_presets()]
    print("METHODS")
    for preset in presets:
        changed = ", ".join(f"{name}: {json.dumps(value)}" for name, value in preset.options.items())
        print(f"  {preset.name:<17}{preset.summary}")
        print(f"  {'':<17}learns {preset.distribution}{'; ' + changed if changed else ''}")
        print(f"  {'':<17}{preset.source}")
    parts = {name: distribution_options(get_distribution(name)) for name in list_distributions()}
    perturbations = {name: perturbation_options(get_perturbation(name)) for name in list_perturbations()}
    mixed_ops = {name: mixed_op_options(get_mixed_op(name)) for name in list_mixed_ops()}
    schedules = {name: schedule_options(get_schedule(name)) for name in list_schedules()}
    found: list[Any] = [*map(get_distribution, parts), *map(get_perturbation, perturbations)]
    found += [*map(get_mixed_op, mixed_ops), *map(get_schedule, schedules)]
    sources = {part.name: part.source for part in found}
    kinds: dict[str, dict[str, Any]] = {
        "DISTRIBUTIONS": parts,
        "PERTURBATIONS": perturbations,
        "MIXED OPERATIONS": mixed_ops,
        "SCHEDULES": schedules,
        "COSTS": dict.fromkeys(get_args(Measure), CostOptions),
    }
    for title, of_kind in kinds.items():
        print(f"\n{title}, with their options and defaults")
        for name, declared in of_kind.items():
            print(textwrap.fill(_defaults(name, declared), 118, subsequent_indent=" " * 26, break_long_words=False))
            if name in sources:
                print(f"  {'':<24}{sources[name]}")
    print("\nWHAT DOES NOT GO TOGETHER")
    for reason, names in refusals().items():
        print(
            "\n".join(
                textwrap.wrap(f"{' or '.join(names)} {reason}", 118, initial_indent="  ", subsequent_indent="    ")
            )
        )
    return 0


def _defaults(name: str, declared: Any) -> str:
    """Return a part's name, and its options with their defaults; those of a latency's table are no other cost's."""
    unused = {"name"} if name == "latency" else {"name", "table", "other_machine"}
    shown = []
    for field in dataclasses.fields(declared):
        made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        value = "" if made is dataclasses.MISSING else f": {json.dumps(made)}"
        if field.name not in unused:
            shown.append(f"{'arc_learning_rate' if field.name == 'lr' else field.name}{value}")
    return f"  {name:<24}{', '.join(shown) or 'no options'}"


def _spaces(options: argparse.Namespace) -> int:
    from balenas_plugin.ground_truth import open_table
    from balenas_plugin.search_spaces import SPACES

    for space in sorted(SPACES.all, key=lambda space: space.name):
        counts = Counter(len(values) for values in space.choices.values())
        choices = ", ".join(f"{count} choice{'s' * (count > 1)} among {among}" for among, count in counts.items())
        size = "unknown size" if space.size is None else f"{space.size:,} architectures"
        table = open_table(space)
        truth = "none" if not space.ground_truth else "not at hand" if table is None else table.name
        print(f"{space.name:<17}{space.title} ({space.source or 'no source'})")
        among = " of" if max(counts, default=0) < len(space.kinds) else ":"
        print(f"{'':<17}{size}; {choices}{among} {', '.join(map(str, space.kinds))}")
        print(f"{'':<17}ground truth: {truth}")
        if space.published:
            print(f"{'':<17}architectures by name: {', '.join(space.published)}")
    return 0


def refusals() -> dict[str, list[str]]:
    """Return why parts are refused together -> which: every distribution is tried with every other part."""
    import torch

    from balenas_plugin.distributions import ChosenDistribution, get_distribution, list_distributions
    from balenas_plugin.errors import OptionError
    from balenas_plugin.mixed_ops import MixedOp, list_mixed_ops, mixed_op_of
    from balenas_plugin.mixed_ops.partial_channels import PartialChannels
    from balenas_plugin.perturbations import list_perturbations, perturbation_of
    from balenas_plugin.schedules import list_schedules, schedule_of
    from balenas_plugin.search import Order, Search, require_splittable

    found: dict[str, list[str]] = {}

    def tried(subject: str, *parts: Any, together: Callable[..., object] = Search, **others: Any) -> None:
        try:
            together(*parts, **others)
        except OptionError as error:
            names = found.setdefault(str(error).removeprefix(f"{subject} "), [])
            if subject not in names and str(error).startswith(subject):
                names.append(subject)

    def made(name: str, **options: Any) -> Any:
        return ChosenDistribution(get_distribution(name), options)({"": torch.zeros(2)}, seed=0)

    def cost(loss: Any, expected: Any) -> Any:
        return loss

    tried("levels: 1", made("point", num_mc_samples=2), Order(levels=1))
    tried("levels: 1", made("point"), Order(levels=1), together=require_splittable)
    for name in list_distributions():
        tried(name, made(name), Order(order="second"))
        tried(name, made(name), Order(levels=1))
        tried(name, made(name), Order(), mixed_op=PartialChannels(edge_normalization=True))
        tried(name, made(name), Order(), cost=cost)
        tried(name, made(name), Order(), schedule=schedule_of("darts-plus"))
        tried(name, made(name), Order(), together=require_splittable)
    for perturbation in list_perturbations():
        for name in list_distributions():
            tried(name, made(name), Order(), perturbation_of(perturbation, seed=0))
        tried("levels: 1", made("point"), Order(levels=1), perturbation_of(perturbation, seed=0))
        uniform = Order(weight_step="uniform")
        tried("a uniform weight step", made("point"), uniform, perturbation_of(perturbation, seed=0))
    mixed_ops: list[MixedOp | None] = [None, *map(mixed_op_of, list_mixed_ops())]
    for schedule in list_schedules():
        tried(schedule, made("point"), Order(), cost=cost, schedule=schedule_of(schedule))
        for mixed_op in mixed_ops:
            tried(schedule, made("point"), Order(), mixed_op=mixed_op, schedule=schedule_of(schedule))
    return found
