"""BaLeNAS inside Microsoft NNI."""

from balenas_plugin.adapters.nni.strategy import BaLeNAS

__all__ = ["BaLeNAS"]
