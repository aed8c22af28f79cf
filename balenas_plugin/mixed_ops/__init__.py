"""How the edges of a supernet compute their candidates, one way a file.

To add one, write a module here with a subclass of `MixedOp` and its `name`, or offer the class from another package as
an entry point of the group ``balenas_plugin.mixed_ops``.
"""

from balenas_plugin.mixed_ops._mixed_op import IN_FULL, Alone, MixedOp
from balenas_plugin.mixed_ops._registry import (
    MixedOpOption,
    get_mixed_op,
    list_mixed_ops,
    mixed_op_of,
    mixed_op_options,
)

__all__ = [
    "IN_FULL",
    "Alone",
    "MixedOp",
    "MixedOpOption",
    "get_mixed_op",
    "list_mixed_ops",
    "mixed_op_of",
    "mixed_op_options",
]
