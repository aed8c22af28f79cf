"""The mathematics of BaLeNAS: torch and the standard library only.

`vadam` learns the Gaussian posterior; `posterior` holds what any search has learned, as `laws` of random scores;
`decisions`, `architectures` and `ranking` say which architectures are probable; `architect` and `second_derivatives`
differentiate the bilevel problem.
"""

from balenas_plugin.bayes.noise import SeededNoise
from balenas_plugin.bayes.posterior import Posterior
from balenas_plugin.bayes.vadam import VAdam

__all__ = ["Posterior", "SeededNoise", "VAdam"]
