"""The two loaders of a search on images: on the device where that can be, else NNI's DataLoader."""

from __future__ import annotations

import logging
from typing import Any

import torch
from nni.nas.evaluator.pytorch import DataLoader

from balenas_plugin.data import DataConfig, DeviceLoader, ImageSet, SearchData, collate
from balenas_plugin.data.device_loader import unfit_for_device

_logger = logging.getLogger(__name__)


def search_loaders(
    config: DataConfig, data: SearchData, *, seed: int, device: torch.device, verbose: bool = True
) -> tuple[Any, Any]:
    """Return the loader of the weight half and that of the architecture half, both shuffled.

    Args:
        config: batch size, and whether the images may lie on the device.
        data: the two halves.
        seed: of orders and augmentation, where the images lie on the device; else torch's global generator is used.
        device: that trains.
        verbose: whether to say that images which should lie on the device do not.
    """
    halves = (data.weight_set, data.architecture_set)
    if config.on_device is False or config.num_workers:
        reason: str | None = "another loader was asked for"
    else:
        reason = next((why for half in halves if (why := unfit_for_device(half, device)) is not None), None)
        if reason is not None and config.on_device is True and verbose:
            _logger.warning("data.on_device: the images are not kept on %s, because %s", device, reason)
    weight_set, architecture_set = halves
    if reason is None:
        return (
            _device_loader(weight_set, config, seed=2 * seed, device=device),
            _device_loader(architecture_set, config, seed=2 * seed + 1, device=device),
        )
    return _data_loader(weight_set, config), _data_loader(architecture_set, config)


def _device_loader(images: ImageSet, config: DataConfig, *, seed: int, device: torch.device) -> DeviceLoader:
    return DeviceLoader(images, batch_size=config.batch_size, shuffle=True, seed=seed, device=device)


def _data_loader(images: ImageSet, config: DataConfig) -> Any:
    return DataLoader(
        images,
        batch_size=config.batch_size,
        shuffle=True,
        num_workers=config.num_workers,
        persistent_workers=False,
        collate_fn=collate,
    )
