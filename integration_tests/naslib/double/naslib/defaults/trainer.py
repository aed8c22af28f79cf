"""Drives a search: epochs, checkpoints of the model alone, evaluation."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from naslib.search_spaces.core.query_metrics import Metric


class Trainer:
    def __init__(self, optimizer, config, lightweight_output=False):
        self.optimizer, self.config = optimizer, config
        self.epochs = config.search.epochs
        self.parameters = optimizer.get_model_size()

    def search(self, resume_from="", summary_writer=None, after_epoch=None, report_incumbent=True):
        np.random.seed(self.config.search.seed)
        torch.manual_seed(self.config.search.seed)
        self.optimizer.before_training()
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.optimizer.op_optimizer, self.epochs, self.config.search.learning_rate_min
        )
        start = self._setup_checkpointers(resume_from, scheduler=self.scheduler)
        train_queue, valid_queue, _ = self.build_search_dataloaders(self.config)
        for epoch in range(start, self.epochs):
            self.optimizer.new_epoch(epoch)
            for data_train in train_queue:
                if self.config.save_arch_weights is True:
                    raise NotImplementedError
                logits_train, logits_val, train_loss, val_loss = self.optimizer.step(
                    data_train, next(iter(valid_queue))
                )
                print(f"Epoch {epoch}, {train_loss:.5f}, {val_loss:.5f}, {len(logits_train)}, {len(logits_val)}")
            self.scheduler.step()
            self._save(f"model_{epoch:07d}.pth", epoch)
            if epoch == self.epochs - 1:
                self._save("model_final.pth", epoch)
            self.optimizer.test_statistics()
            if after_epoch is not None:
                after_epoch(epoch)
        self.optimizer.after_training()

    def evaluate(self, retrain=True, search_model="", resume_from="", best_arch=None, dataset_api=None, metric=None):
        if not best_arch:
            self._setup_checkpointers(search_model or f"{self.config.save}/search/model_final.pth")
            best_arch = self.optimizer.get_final_architecture()
        print(f"Final architecture: {best_arch.get_hash()}")
        if best_arch.QUERYABLE:
            return best_arch.query(metric or Metric.TEST_ACCURACY, self.config.dataset, dataset_api=dataset_api)
        for images, classes in self.build_search_dataloaders(self.config)[0]:  # a test in the place of training
            print(f"Evaluation finished: {best_arch(images).argmax(-1).eq(classes).float().mean()}")
        return None

    @staticmethod
    def build_search_dataloaders(config):
        data = TensorDataset(torch.randn(4, 3, 8, 8), torch.randint(10, (4,)))
        loader = DataLoader(data, config.search.batch_size, shuffle=True)
        return loader, loader, None

    def _save(self, name, epoch):
        folder = Path(self.config.save, "search")
        torch.save({"model": self.model.state_dict(), "iteration": epoch}, folder / name)
        (folder / "last_checkpoint").write_text(name)

    def _setup_checkpointers(self, resume_from="", search=True, period=1, **more):
        checkpointables = self.optimizer.get_checkpointables()
        checkpointables.update(more)
        self.model = checkpointables.pop("model")  # the others are forgotten
        if not resume_from:
            return 0
        checkpoint = torch.load(resume_from, weights_only=True)
        own, loaded = self.model.state_dict(), checkpoint["model"]
        for key in [key for key in loaded if key in own and loaded[key].shape != own[key].shape]:
            del loaded[key]
        self.model.load_state_dict(loaded, strict=False)
        return checkpoint["iteration"] + 1
