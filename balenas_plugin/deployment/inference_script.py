"""A script that classifies images by an ONNX file, and needs neither this package nor PyTorch."""

from __future__ import annotations

from balenas_plugin.data.square import square_source

_SCRIPT = '''\
"""Classify images: python classify.py IMAGE ...        (pip install onnxruntime numpy pillow)"""

import json
import signal
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

MODEL = Path(__file__).with_name("network.onnx")  # {other}
network = onnxruntime.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
about = network.get_modelmeta().custom_metadata_map
names, size, mean, std = (json.loads(about[key]) for key in ("class_names", "image_size", "mean", "std"))
mean, std = np.array(mean, np.float32), np.array(std, np.float32)


{square}

sys.stdout.reconfigure(errors="replace")  # names that the terminal cannot show
if hasattr(signal, "SIGPIPE"):
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly when whoever reads the output has gone
for path in sys.argv[1:]:
    pixels = np.asarray(central_square(Image.open(path), size), np.float32)
    inputs = ((pixels - 255 * mean) * (1 / (255 * std))).transpose(2, 0, 1)[None]
    (logits,) = network.run(["logits"], {{"images": inputs}})[0]
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    print(f"{{path}}: {{names[logits.argmax()]}} ({{probabilities.max():.3f}})")
'''


def script_text(*, int8: bool) -> str:
    """Return the source of the script, which reads classes and preprocessing from the file's metadata.

    An image becomes an input as in training: `central_square`, then normalised in float32.

    Args:
        int8: whether there is a quantised file beside.
    """
    other = "or network-int8.onnx" if int8 else "in whose metadata all else is"
    return _SCRIPT.format(square=square_source(), other=other)
