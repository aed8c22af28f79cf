"""Find mixed operations by name, and make the one that an option asks for."""

from __future__ import annotations

from typing import Annotated, Any

from balenas_plugin.mixed_ops._mixed_op import MixedOp
from balenas_plugin.options import ChosenPart
from balenas_plugin.parts import Parts

MIXED_OPS: Parts[type[MixedOp]] = Parts("mixed operation", "balenas_plugin.mixed_ops", MixedOp, classes=True)
list_mixed_ops, get_mixed_op = MIXED_OPS.names, MIXED_OPS.get

_CHOICE: ChosenPart[MixedOp] = ChosenPart("mixed_op", MIXED_OPS)

mixed_op_of, mixed_op_options = _CHOICE.make, _CHOICE.options

MixedOpOption = Annotated[Any, _CHOICE]
"""An option that takes a mixed operation: its name, a mapping of name and options, a class, or None."""
