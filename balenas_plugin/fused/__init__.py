"""Mixed operations computed together: the same numbers as one layer at a time, in fewer and larger kernels.

`chains` reads a candidate operation as a chain of plain layers, `lanes` runs equal chains side by side, `fan` runs all
candidates that leave one tensor, `sums` adds weighted results up, `depthwise` has faster backward passes, `cell` makes
one function of a whole cell of convolutions, `conditions` says where all of that is allowed.
"""

from balenas_plugin.fused import depthwise
from balenas_plugin.fused.cell import Cell, cell_of
from balenas_plugin.fused.chains import Chain, Opaque, Unwrap, Zero, departure, hooks_of, read_chain, replaced_method
from balenas_plugin.fused.conditions import Snapshot, surroundings, why_unfit
from balenas_plugin.fused.fan import Branch, Contribution, Fan, combine, departing

__all__ = [
    "Branch",
    "Cell",
    "Chain",
    "Contribution",
    "Fan",
    "Opaque",
    "Snapshot",
    "Unwrap",
    "Zero",
    "cell_of",
    "combine",
    "departing",
    "departure",
    "depthwise",
    "hooks_of",
    "read_chain",
    "replaced_method",
    "surroundings",
    "why_unfit",
]
