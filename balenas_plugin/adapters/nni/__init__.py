"""One-shot strategies inside Microsoft NNI."""

from balenas_plugin.machine import let_threads_sleep

let_threads_sleep()  # of a trial, before torch is imported

# Must come before any other import from nni.nas: if NNI's one-shot package is imported first, nni.nas.strategy catches
# its own circular import and leaves placeholders in the place of DARTS and the others.
import warnings  # noqa: E402

with warnings.catch_warnings():  # NNI warns about every class of a torch newer than itself
    warnings.filterwarnings("ignore", message=".*is found to be not a nn.Module")
    import nni.nas.strategy  # noqa: F401
    from nni.nas.execution import TrainingServiceExecutionEngine

    from balenas_plugin.adapters.nni.callbacks.diagnostics_callback import Diagnostics
    from balenas_plugin.adapters.nni.callbacks.plan import SearchPlan
    from balenas_plugin.adapters.nni.strategies.of_presets import strategy_of
    from balenas_plugin.adapters.nni.strategies.strategy import DistributionStrategy

BaLeNAS = strategy_of("BaLeNAS")


def _search_in_trials(strategy: DistributionStrategy, engine: TrainingServiceExecutionEngine) -> object:
    from balenas_plugin.adapters.nni.web.in_trials import SearchInTrials

    return SearchInTrials(strategy, engine)


DistributionStrategy.search_in_trials = staticmethod(_search_in_trials)

__all__ = ["BaLeNAS", "Diagnostics", "DistributionStrategy", "SearchPlan", "strategy_of"]
