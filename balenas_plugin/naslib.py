"""The searches of this package for NASLib::

    from balenas_plugin.naslib import BaLeNASOptimizer, DistributionOptimizer

    optimizer = DistributionOptimizer(config, preset="DrNAS")

NASLib is found on Python's path or where BALENAS_NASLIB_PATH says; docs/naslib.md says how to get it.
"""

from balenas_plugin.adapters.naslib import BaLeNASOptimizer, DistributionOptimizer

__all__ = ["BaLeNASOptimizer", "DistributionOptimizer"]
