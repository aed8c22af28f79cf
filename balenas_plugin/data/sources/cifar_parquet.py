"""CIFAR-10 as JPEG in two parquet files: columns `image` (JPEG bytes, 32x32) and `label` (0..9).

JPEG costs 2-3 % accuracy against the lossless set: do not compare absolute accuracies with published ones.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from balenas_plugin.data.images import ImageSource, MemoryImages, resize
from balenas_plugin.data.sources.cifar import CIFAR10_MEAN, CIFAR10_STD
from balenas_plugin.data.sources.location import ENVIRONMENT_VARIABLE, data_folder
from balenas_plugin.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_SIDE = 32
_COLUMNS = "`image` (binary, JPEG) and `label` (a whole number, 0..9)"


def read_cifar10_parquet(*, train: bool, root: str | None = None, image_size: int | None = None) -> ImageSource:
    """Read the labels of cifar10_train_jpeg.parquet or cifar10_test_jpeg.parquet; decode the rows asked for.

    Raises:
        DataError: the file is absent, is not parquet, has other columns or labels, or an image cannot be decoded.
    """
    path = data_folder(root, name="cifar10_parquet") / f"cifar10_{'train' if train else 'test'}_jpeg.parquet"
    table = _read_table(path)
    labels = torch.from_numpy(table["label"].to_numpy().astype(np.int64))
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= len(CLASS_NAMES)):
        raise DataError(f"{path} has labels from {labels.min()} to {labels.max()}; CIFAR-10's go from 0 to 9")
    return ImageSource(
        labels=labels,
        class_names=CLASS_NAMES,
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
        augmentation="crop_flip",
        read=lambda rows: MemoryImages(resize(_decode(table, rows, path), image_size)),
    )


def _read_table(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(
            f"there is no file {path}: set data.root, or the environment variable {ENVIRONMENT_VARIABLE}, "
            "to the folder that holds it. What torchvision stores is the data set cifar10 (`download: true` fetches "
            "it); `balenas reproduce` searches on that with --scale small-lossless"
        )
    try:
        with pq.ParquetFile(path) as file:
            columns = {field.name: field.type for field in file.schema_arrow}
            image, label = columns.get("image", pa.null()), columns.get("label", pa.null())
            if not pa.types.is_binary(image) or not pa.types.is_integer(label):
                found = ", ".join(f"{name} ({kind})" for name, kind in columns.items())
                raise DataError(f"{path} has the columns {found}; wanted are {_COLUMNS}")
            table = file.read(columns=["image", "label"])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet: {error}. Copy the file again.") from error
    if table["image"].null_count or table["label"].null_count:
        raise DataError(f"{path} has empty cells; every row needs {_COLUMNS}")
    return table


def _decode(table: pa.Table, rows: Tensor, path: Path) -> Tensor:
    """Decode the JPEGs of `rows` to uint8, shape (m, 3, 32, 32).

    In one thread: 50,000 take about 4 s. The images are so small that Pillow's Python code dominates, and two threads
    contending for the interpreter lock took 1.7 times as long as one.
    """
    images = table["image"].take(rows.numpy()).to_pylist()
    pixels = np.empty((len(images), _SIDE, _SIDE, 3), dtype=np.uint8)
    for i, jpeg in enumerate(images):
        try:
            with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
                if image.size != (_SIDE, _SIDE):
                    raise ValueError(f"it has {image.width}x{image.height} pixels")
                pixels[i] = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
            raise DataError(
                f"row {int(rows[i])} of {path} is not a readable JPEG image of {_SIDE}x{_SIDE} pixels: {error}. "
                "Copy the file again, or remove the row."
            ) from error
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)
