"""The benchmark script."""

from naslib import utils
from naslib.defaults.trainer import Trainer
from naslib.optimizers import DARTSOptimizer, DrNASOptimizer, GDASOptimizer
from naslib.search_spaces import NasBench201SearchSpace, NasBench301SearchSpace

config = utils.get_config_from_args(config_type="nas")

supported_optimizers = {
    "darts": DARTSOptimizer(config),
    "drnas": DrNASOptimizer(config),
    "gdas": GDASOptimizer(config),
}
supported_search_spaces = {"nasbench201": NasBench201SearchSpace(), "nasbench301": NasBench301SearchSpace()}

dataset_api = utils.get_dataset_api(config.search_space, config.dataset)
utils.set_seed(config.seed)
optimizer = supported_optimizers[config.optimizer]
optimizer.adapt_search_space(supported_search_spaces[config.search_space], dataset_api=dataset_api)

trainer = Trainer(optimizer, config, lightweight_output=True)
trainer.search(resume_from="")
print("result:", trainer.evaluate(resume_from="", dataset_api=dataset_api))
