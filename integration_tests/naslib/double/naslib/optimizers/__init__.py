"""The optimizers that the runner offers; DrNAS and GDAS are DARTS by other names."""

from naslib.optimizers.oneshot.darts.optimizer import DARTSOptimizer


class DrNASOptimizer(DARTSOptimizer):
    def adapt_search_space(self, search_space, dataset, scope=None):
        super().adapt_search_space(search_space, dataset, scope)


class GDASOptimizer(DrNASOptimizer):
    pass
