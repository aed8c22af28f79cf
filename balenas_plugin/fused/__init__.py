"""Mixed operations computed together: the same numbers as one layer at a time, in fewer and larger kernels.

`chains` reads a candidate operation as a chain of plain layers, `lanes` runs equal chains side by side, `fan` runs all
candidates that leave one tensor, `sums` adds weighted results up.
"""

from balenas_plugin.fused.chains import Chain, Unwrap, Zero, hooks_of, read_chain
from balenas_plugin.fused.fan import Branch, Contribution, Fan, combine

__all__ = ["Branch", "Chain", "Contribution", "Fan", "Unwrap", "Zero", "combine", "hooks_of", "read_chain"]
