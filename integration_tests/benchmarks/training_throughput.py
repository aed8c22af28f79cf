"""Steps of `balenas train` and of a plain Lightning script, of the same network on the same images, in turn.

    python integration_tests/benchmarks/training_throughput.py
    python integration_tests/benchmarks/training_throughput.py --recipe darts-cifar --channels 16 --cells 8

The plain script is what everybody writes: a LightningModule that logs its loss, and a DataLoader whose images
torchvision's transforms crop, mirror and normalise one by one. Prints medians of CPU time per step, and their ratio.
"""

from __future__ import annotations

import argparse
import copy
import logging
import statistics
import tempfile
import time
import warnings
from typing import Any
from unittest import mock

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from measuring import Stopwatch, machine, write_json
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from balenas_plugin.data import ImageSet
from balenas_plugin.data.image_task import ImageTask
from balenas_plugin.data.images import MemoryImages
from balenas_plugin.training import TrainingData, fitting, load_recipe, train_network
from balenas_plugin.training.architecture import find_architecture

NB201 = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"
PAIRS = [("sep_conv_3x3", 0), ("sep_conv_3x3", 1)] * 2 + [("skip_connect", 0), ("dil_conv_3x3", 2)] * 2
DARTS = f"Genotype(normal={PAIRS}, normal_concat=[2, 3, 4, 5], reduce={PAIRS}, reduce_concat=[2, 3, 4, 5])"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class PlainImages(Dataset[Any]):
    def __init__(self, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        self.pixels, self.labels = pixels, labels
        self.transform = v2.Compose(
            [
                v2.RandomCrop(pixels.shape[-1], padding=pixels.shape[-1] // 8),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.pixels[index]), self.labels[index]


class Plain(pl.LightningModule):
    def __init__(self, network: nn.Module, recipe: Any) -> None:
        super().__init__()
        self.network, self.recipe = network, recipe

    def training_step(self, batch: Any, number: int) -> torch.Tensor:
        outputs = self.network(batch[0])
        logits, *others = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = F.cross_entropy(logits, batch[1])
        for other in others:
            loss = loss + self.recipe.auxiliary * F.cross_entropy(other, batch[1])
        self.log("train_loss", loss)
        self.log("train_acc", (logits.argmax(1) == batch[1]).float().mean())
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.025, momentum=0.9, weight_decay=3e-4)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.recipe.epochs)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--cells", type=int, default=5)
    parser.add_argument("--cells-per-stage", type=int, default=1)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=15, help="of a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", help="JSON file for the numbers")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    sizes = {name: getattr(options, name) for name in ("channels", "cells", "cells_per_stage")}
    recipe = load_recipe(options.recipe).replace(
        epochs=1, batch_size=options.batch_size, network=sizes, augment="crop_flip"
    )
    count, size = options.steps * options.batch_size, options.image_size
    pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    labels = torch.randint(0, 10, (count,))
    images = ImageSet(MemoryImages(pixels), labels, mean=MEAN, std=STD, augmentation="crop_flip")
    task = ImageTask(class_names=tuple("0123456789"), image_size=size, mean=MEAN, std=STD)
    data = TrainingData(training=images, test=images.part(torch.arange(10)).augmented("none"), task=task)
    network = find_architecture(DARTS if recipe.auxiliary else NB201).build(recipe, data)
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {"balenas train": [], "plain Lightning": []}
    accelerator = "gpu" if options.device == "cuda" else "cpu"
    for _ in range(options.rounds):
        for name in seconds:
            watch = Stopwatch(3, clock)
            if name == "plain Lightning":
                trainer = pl.Trainer(
                    accelerator=accelerator,
                    devices=1,
                    max_epochs=1,
                    callbacks=[watch],
                    gradient_clip_val=recipe.gradient_clip_val or None,
                    logger=False,
                    enable_checkpointing=False,
                    enable_progress_bar=False,
                    enable_model_summary=False,
                )
                loader = DataLoader(PlainImages(pixels, labels), options.batch_size, shuffle=True)
                trainer.fit(Plain(copy.deepcopy(network), recipe), loader)
            else:
                made = fitting.make_trainer

                def watched(*given: Any, watch: Stopwatch = watch, made: Any = made, **more: Any) -> pl.Trainer:
                    trainer = made(*given, **more)
                    trainer.callbacks.insert(0, watch)
                    return trainer

                with tempfile.TemporaryDirectory() as folder, mock.patch.object(fitting, "make_trainer", watched):
                    train_network(
                        copy.deepcopy(network),
                        data,
                        recipe,
                        folder=folder,
                        devices=fitting.Devices(accelerator=accelerator),
                        progress=False,
                    )
            seconds[name] += watch.seconds()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ours, plain = medians.values()
    for name, median in medians.items():
        print(f"{name:<16}{1e3 * median:9.2f} ms a step, {options.batch_size / median:9.0f} images a second")
    print(f"throughput against plain Lightning: {plain / ours:.3f}")
    write_json(options.output, {"options": vars(options), "machine": machine(), "seconds": medians})


if __name__ == "__main__":
    main()
