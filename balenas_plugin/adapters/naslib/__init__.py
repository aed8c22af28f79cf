"""The searches of this package inside NASLib.

Importing this package imports NASLib, which takes seconds, and says what to do where that fails.
"""

from balenas_plugin.adapters.naslib.compatibility import import_naslib

import_naslib()  # before any module that imports NASLib by itself

from balenas_plugin.adapters.naslib.optimizer import BaLeNASOptimizer, DistributionOptimizer  # noqa: E402

__all__ = ["BaLeNASOptimizer", "DistributionOptimizer"]
