"""What splitting the validation batch among draws does to batch-norm's running statistics.

    python integration_tests/benchmarks/split_batch_norm.py
    python integration_tests/benchmarks/split_batch_norm.py --data cifar10_parquet --image-size 16

Trains a small supernet a little, takes the exact statistics of the whole architecture half at the mean, and lets the
forward passes of many architecture steps (weights fixed) move the running statistics away from them.
"""

from __future__ import annotations

import argparse

import nni.nas.strategy  # noqa: F401  (first, see balenas_plugin.adapters.nni)
import torch
import torch.nn.functional as F
from nni.nas.hub.pytorch import NasBench201
from torch import nn

from balenas_plugin import BaLeNAS
from balenas_plugin.data import DataConfig, load_search_data

DRAWS, SIGMA = 3, 1.0


def whole(images):
    batch = images.__getitems__(list(range(min(len(images), 4096))))
    return batch.images, batch.labels


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--image-size", type=int, default=None)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = load_search_data(DataConfig(name=options.data, image_size=options.image_size))
    network = BaLeNAS().mutate_model(NasBench201(8, 1))
    alphas = list({id(p): p for n, p in network.named_parameters() if "_arch_alpha" in n}.values())
    weights = [p for n, p in network.named_parameters() if "_arch_alpha" not in n]
    (x, y), (train_x, train_y) = whole(data.architecture_set), whole(data.weight_set)
    optimizer = torch.optim.SGD(weights, lr=0.025, momentum=0.9, weight_decay=5e-4)
    for _ in range(150):
        rows = torch.randint(len(train_x), (options.batch_size,))
        optimizer.zero_grad()
        F.cross_entropy(network(train_x[rows]), train_y[rows]).backward()
        nn.utils.clip_grad_norm_(weights, 5)
        optimizer.step()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]

    @torch.no_grad()
    def measure():
        deviation = torch.cat([(n.running_mean - m) / v.sqrt() for n, (m, v) in zip(norms, exact, strict=True)])
        ratio = torch.cat([n.running_var / v for n, (_, v) in zip(norms, exact, strict=True)])
        logits = network.eval()(x)
        network.train()
        return deviation.square().mean().sqrt(), ratio.mean(), ratio.std(), F.cross_entropy(logits, y)

    with torch.no_grad():
        momentum = norms[0].momentum
        for norm in norms:
            norm.momentum = 1.0
        network.train()(x)  # one pass over everything: its statistics are the exact ones
        for norm in norms:
            norm.momentum = momentum
        exact = [(n.running_mean.clone(), n.running_var.clone()) for n in norms]
        print(f"{'':16}{'mean off by':>13}{'variance ratio':>16}{'its spread':>12}{'validation loss':>17}")
        print(f"{'exact':16}" + "{:13.3f}{:16.3f}{:12.3f}{:17.4f}".format(*measure()))
        for how, parts in (("full", 1), ("split", DRAWS)):
            for sigma in (0.0, SIGMA):
                for norm, (mean, variance) in zip(norms, exact, strict=True):
                    norm.running_mean.copy_(mean)
                    norm.running_var.copy_(variance)
                means = [alpha.clone() for alpha in alphas]
                found = []
                for _ in range(options.steps):
                    rows = torch.randint(len(x), (options.batch_size,))
                    for part in rows.chunk(parts) if parts > 1 else [rows] * DRAWS:
                        for alpha, mean in zip(alphas, means, strict=True):
                            alpha.copy_(mean + sigma * torch.randn_like(mean))
                        network(x[part])
                    for alpha, mean in zip(alphas, means, strict=True):
                        alpha.copy_(mean)
                    found.append(torch.stack(measure()))
                name = f"{how}, sigma {sigma:g}"
                values = torch.stack(found[len(found) // 3 :]).mean(0)
                print(f"{name:16}" + "{:13.3f}{:16.3f}{:12.3f}{:17.4f}".format(*values))
    print("mean off by: in standard deviations of the channel, root mean square over channels")


if __name__ == "__main__":
    main()
