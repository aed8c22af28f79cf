"""Options declared once: a dataclass, or a signature, is checked, described and listed from its declaration.

Types and bounds are in the annotations, descriptions in the ``Args:`` of the docstring. Python, YAML, ``--set`` and
editors (`json_schema`) use the same declaration, and every mistake becomes one `OptionError`.
"""

from balenas_plugin.options.chosen_part import ChosenPart
from balenas_plugin.options.declaration import (
    MAX_FLOAT,
    MAX_WORKERS,
    Betas,
    NonNegative,
    NonNegativeInt,
    OneOf,
    Positive,
    PositiveInt,
    Seed,
    Share,
    Workers,
    checked,
    declared_options,
    default_options,
    given_options,
    json_schema,
    read_options,
)
from balenas_plugin.options.docstrings import descriptions, documentation, summary
from balenas_plugin.options.refusal import Schema
from balenas_plugin.options.signatures import joined_options, signature_options

__all__ = [
    "MAX_FLOAT",
    "MAX_WORKERS",
    "Betas",
    "ChosenPart",
    "NonNegative",
    "NonNegativeInt",
    "OneOf",
    "Positive",
    "PositiveInt",
    "Schema",
    "Seed",
    "Share",
    "Workers",
    "checked",
    "declared_options",
    "default_options",
    "descriptions",
    "documentation",
    "given_options",
    "joined_options",
    "json_schema",
    "read_options",
    "signature_options",
    "summary",
]
