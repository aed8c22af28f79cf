"""Augment a whole batch of uint8 images at once, where it lies: on the CPU or on another device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

AUGMENTATIONS = ("none", "crop", "crop_flip")


def augment(pixels: Tensor, *, augmentation: str, generator: torch.Generator | None = None) -> Tensor:
    """Return the batch `pixels`, uint8 (B, 3, H, W), randomly cropped and flipped as `augmentation` says.

    "crop": pad each side with black by an eighth of the image (at least 1 pixel), then cut out the original size at a
    uniformly random place. "crop_flip": also mirror left and right with probability 1/2. For 32 pixels the padding is
    4: RandomCrop(32, padding=4) and RandomHorizontalFlip of DARTS (Liu et al., 2019) and NAS-Bench-201 (Dong and Yang,
    2020). Every image has its own draw.

    The random numbers come from `generator`, which lies on the device of `pixels`; without one, from torch's global
    CPU generator, so `torch.set_rng_state` restores the augmentation exactly. How many are drawn depends only on B and
    `augmentation`.
    """
    if augmentation == "none":
        return pixels
    B, C, H, W = pixels.shape
    pad = padding(min(H, W))
    source = torch.device("cpu") if generator is None else generator.device
    top, left = torch.randint(0, 2 * pad + 1, (2, B, 1), generator=generator, device=source).to(pixels.device)
    rows = top + torch.arange(H, device=pixels.device)  # (B, H), in the padded image
    columns = torch.arange(W, device=pixels.device).expand(B, W)
    if augmentation == "crop_flip":
        mirrored = torch.rand(B, 1, generator=generator, device=source).to(pixels.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    columns = left + columns
    # One gather of flat positions crops and mirrors together: the fastest of five ways tried (index, unfold, ...).
    positions = (rows[:, :, None] * (W + 2 * pad) + columns[:, None, :]).view(B, 1, H * W)
    padded = F.pad(pixels, (pad, pad, pad, pad)).flatten(2)
    return padded.gather(2, positions.expand(B, C, H * W)).view(B, C, H, W)


def cutout(images: Tensor, side: int, generator: torch.Generator | None = None) -> Tensor:
    """Return the normalised batch `images` (B, C, H, W) with a square of each at 0, which is the mean of its channel.

    The middle of the square is uniformly random, and what of it lies outside is cut off, so torchvision's
    RandomErasing, which keeps inside, is another thing. Random numbers are drawn as in `augment`.

    Source: DeVries and Taylor 2017; as in the code of Liu et al. 2019 (DARTS).
    """
    B, _, H, W = images.shape
    source = torch.device("cpu") if generator is None else generator.device
    y, x = (torch.randint(0, size, (B, 1), generator=generator, device=source).to(images.device) for size in (H, W))
    rows, columns = torch.arange(H, device=images.device), torch.arange(W, device=images.device)
    in_rows = (rows >= y - side // 2) & (rows < y + side // 2)  # (B, H)
    in_columns = (columns >= x - side // 2) & (columns < x + side // 2)
    return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)


def padding(image_size: int) -> int:
    """Return by how many pixels an image of `image_size` is padded before the random crop: 4 for 32, 1 for 8."""
    return max(1, image_size // 8)
