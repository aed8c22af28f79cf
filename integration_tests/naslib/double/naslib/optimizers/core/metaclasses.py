"""What every optimizer has."""


class MetaOptimizer:
    using_step_function = True

    def new_epoch(self, epoch):
        pass

    def before_training(self):
        pass

    def after_training(self):
        pass

    def train_statistics(self):
        pass

    def test_statistics(self):
        pass
