"""Versions that work together, and what processes that break print, shortened to the frames that matter."""

from __future__ import annotations

import json

from balenas_plugin.doctor.imports import Attempt

LIBRARIES = {
    "nni": "==3.0",
    "torch": ">=2.11,<2.16",
    "torchvision": ">=0.26,<0.30",
    "pytorch-lightning": ">=2.6,<2.7",
    "setuptools": "<81",
    "numpy": ">=1.26",
    "pyarrow": ">=15",
    "scikit-learn": ">=1.4",
}
INSTALLED = {
    "nni": "3.0",
    "torch": "2.15.0+cpu",
    "torchvision": "0.29.2",
    "pytorch-lightning": "2.6.6",
    "setuptools": "80.10.2",
    "numpy": "2.4.6",
    "pyarrow": "26.0.1",
    "scikit-learn": "1.9.1",
}
REINSTALL_PAIR = (
    'pip install --force-reinstall "torch>=2.11,<2.16" "torchvision>=0.26,<0.30" "setuptools<81" "nni==3.0"'
)

NMS = """Traceback (most recent call last):
  File "site-packages/torchmetrics/functional/image/arniqa.py", line 31, in <module>
    from torchvision import transforms
  File "site-packages/torchvision/_meta_registrations.py", line 163, in <module>
    @torch.library.register_fake("torchvision::nms")
RuntimeError: operator torchvision::nms does not exist
"""
OTHER_CUDA = """Traceback (most recent call last):
  File "site-packages/torchvision/extension.py", line 67, in _check_cuda_version
    raise RuntimeError(
RuntimeError: Detected that PyTorch and torchvision were compiled with different CUDA major versions. PyTorch has CUDA \
Version=12.8 and torchvision has CUDA Version=13.2. Please reinstall the torchvision that matches your PyTorch install.
"""
NO_LIGHTNING = """Traceback (most recent call last):
  File "site-packages/nni/nas/evaluator/pytorch/lightning.py", line 10, in <module>
    import pytorch_lightning as pl
ModuleNotFoundError: No module named 'pytorch_lightning'
"""
NO_PKG_RESOURCES = """Traceback (most recent call last):
  File "site-packages/nni/tools/nnictl/nnictl.py", line 7, in <module>
    import pkg_resources
ModuleNotFoundError: No module named 'pkg_resources'
"""
PLACEHOLDER = """Traceback (most recent call last):
  File "<string>", line 7, in <module>
ImportError: DARTS is an ImportFailedStrategy: ImportError("cannot import name 'LRScheduler'")
"""
TORCH_REPORT = {
    "version": "2.15.0+cpu",
    "built_for": "the CPU only",
    "devices": [],
    "error": "",
    "threads": 2,
    "mps": False,
    "said": [],
}


def reported(report):
    return Attempt(0, stdout="a library prints while it is imported\nBALENAS-REPORT " + json.dumps(report) + "\n")


def failed(stderr, code=1):
    return Attempt(code, stderr=stderr)


def missing(module):
    return failed(f"Traceback (most recent call last):\nModuleNotFoundError: No module named '{module}'\n")
