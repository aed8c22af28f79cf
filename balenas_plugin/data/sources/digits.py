"""scikit-learn's bundled handwritten digits: 1,797 images of 8x8 pixels, nothing to download."""

from __future__ import annotations

import torch

from balenas_plugin.data.images import ImageSource, MemoryImages, resize
from balenas_plugin.errors import MissingDependencyError

# scikit-learn names no test set. The last 297 images are held out by position, so that they never enter a search,
# whatever its seed; each digit occurs among them 27 to 33 times.
NUM_TRAINING_IMAGES = 1500
_GREY_LEVELS = 16  # the files count ink from 0 to 16

# Of the 1,500 training images; the three channels are equal.
MEAN = (0.3052, 0.3052, 0.3052)
STD = (0.3749, 0.3749, 0.3749)


def read_digits(*, train: bool, image_size: int | None = None) -> ImageSource:
    """Read the digits, grey repeated to three channels.

    Raises:
        MissingDependencyError: scikit-learn is not installed.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), as in sklearn.datasets.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError(
            f"data set 'digits' comes with scikit-learn, which cannot be imported ({error}): pip install scikit-learn"
        ) from error
    bunch = load_digits()
    part = slice(None, NUM_TRAINING_IMAGES) if train else slice(NUM_TRAINING_IMAGES, None)
    ink = torch.from_numpy(bunch.images[part])  # float64, (n, 8, 8), 0..16
    grey = (ink * (255 / _GREY_LEVELS)).round().to(torch.uint8)
    pixels = resize(grey[:, None].expand(-1, 3, -1, -1), image_size)
    return ImageSource(
        labels=torch.from_numpy(bunch.target[part]).to(torch.int64),
        class_names=tuple(str(name) for name in bunch.target_names),
        mean=MEAN,
        std=STD,
        augmentation="crop",  # no flip: a mirrored digit is no digit
        read=lambda rows: MemoryImages(pixels[rows]),
    )
