"""BaLeNAS inside Microsoft NNI."""

# Must come before any other import from nni.nas: if NNI's one-shot package is imported first, nni.nas.strategy catches
# its own circular import and leaves placeholders in the place of DARTS and the others.
import warnings

with warnings.catch_warnings():  # NNI warns about every class of a torch newer than itself
    warnings.filterwarnings("ignore", message=".*is found to be not a nn.Module")
    import nni.nas.strategy  # noqa: F401

    from balenas_plugin.adapters.nni.callbacks.diagnostics_callback import Diagnostics
    from balenas_plugin.adapters.nni.callbacks.plan import SearchPlan
    from balenas_plugin.adapters.nni.strategies.strategy import BaLeNAS

__all__ = ["BaLeNAS", "Diagnostics", "SearchPlan"]
