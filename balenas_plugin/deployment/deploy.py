"""Write a trained network as files that run without this package, and say what each is worth on this machine."""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from balenas_plugin.data.image_set import ImageSet, collate
from balenas_plugin.data.network_task import NetworkTask
from balenas_plugin.deployment.inference_script import script_text
from balenas_plugin.deployment.latency import Latency, measure_latency
from balenas_plugin.deployment.quantisation import quantised
from balenas_plugin.errors import DataError, MissingDependencyError
from balenas_plugin.export.onnx_file import onnx_contents, onnx_runner, require_onnx, require_onnxruntime
from balenas_plugin.files import replaced_together, write_atomically
from balenas_plugin.proxies import get_proxy

WEIGHTS, ONNX, INT8 = "weights.safetensors", "network.onnx", "network-int8.onnx"
SCRIPT, RECORD = "classify.py", "deployed.json"
FILES = (WEIGHTS, ONNX, INT8, SCRIPT, RECORD)
"""All that `deploy` writes."""

_BATCH = 64


class Labelled(Protocol):
    """Examples by number: an input and the number of its class, as any `torch.utils.data.Dataset` with a length."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]: ...


class Examples(Protocol):
    """What a network was trained and tested on; `balenas_plugin.training.TrainingData` is one."""

    @property
    def training(self) -> Labelled:
        """Examples that it was trained on: activations are scaled by them, not augmented."""

    @property
    def test(self) -> Labelled:
        """Examples of classes, which accuracy is counted on."""

    @property
    def task(self) -> NetworkTask | None:
        """The classes, and how an image becomes an input; None for other inputs than images."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form of a deployed network.

    Attributes:
        file: its name in the folder.
        size: of the file in bytes.
        test_accuracy: share of the test examples that it gets right.
        latency_ms: median of a forward pass of one example, by PyTorch or onnxruntime.
    """

    file: str
    size: int
    test_accuracy: float
    latency_ms: float


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """What `deploy` has written.

    Attributes:
        folder: with the files.
        forms: "PyTorch", "ONNX" and, if it was asked for, "ONNX int8".
        parameters: of the network.
        multiply_adds: of one example.
        latency: how the latencies were measured.
        test_examples: that accuracy was counted on.
        largest_difference: of a logit between PyTorch and ONNX, on the test examples.
        calibration_examples: that the activations of "ONNX int8" are scaled by.
    """

    folder: Path
    forms: dict[str, Form]
    parameters: int
    multiply_adds: int
    latency: Latency
    test_examples: int
    largest_difference: float
    calibration_examples: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; the folder is left out, since files move."""
        plain = asdict(self)
        del plain["folder"], plain["latency"]["milliseconds"]
        return plain

    def table(self) -> str:
        """Return the forms side by side, for the terminal."""
        lines = [f"{'form':<10}  {'accuracy':>8}  {'latency':>10}  {'size':>10}  file"]
        for name, form in self.forms.items():
            lines.append(
                f"{name:<10}  {form.test_accuracy:8.2%}  {form.latency_ms:7.3f} ms  {form.size / 1e3:7,.0f} kB  "
                f"{self.folder / form.file}"
            )
        threads = "1 thread" if self.latency.threads == 1 else f"{self.latency.threads} threads"
        lines.append(
            f"accuracy on {self.test_examples:,} test examples; latency of {self.latency.batch_size} example on "
            f"{self.latency.processor}, {threads}, median of {self.latency.repeats}"
        )
        return "\n".join(lines)


def require_deployable() -> None:
    """Raise if a package that `deploy` needs is not installed: before a training, not after it.

    Raises:
        MissingDependencyError: the message says how to install it.
    """
    require_onnx()
    require_onnxruntime()
    _safetensors()


def deploy(
    network: nn.Module,
    data: Examples,
    folder: str | Path,
    *,
    int8: bool = False,
    calibration_examples: int = 256,
    threads: int = 1,
    repeats: int = 50,
    progress: bool = False,
) -> Deployed:
    """Write a trained network to files that run without this package, test each, and measure its latency.

    Written are weights.safetensors (the state dict), network.onnx (any batch size; checked against PyTorch),
    network-int8.onnx if asked for, classify.py, which classifies image files by onnxruntime, NumPy and Pillow alone,
    and deployed.json: all or none.

    Args:
        network: trained; it is not changed. It maps inputs of shape (N, ...) to logits of shape (N, classes).
        data: that it was trained and tested on.
        folder: made if it is not there; files of an earlier deployment in it are replaced.
        int8: quantise statically, with 8-bit weights and activations.
        calibration_examples: of the training examples, that activations are scaled by.
        threads: of the measurements of latency.
        repeats: of these, of which the median is taken.
        progress: show a progress bar of the test.

    Raises:
        MissingDependencyError: onnx, onnxscript, onnxruntime or safetensors is not installed.
        SpaceError: the network cannot be exported or quantised, or its export gives other outputs.
        DataError: the examples have no classes.
        StorageError: a file could not be written.
    """
    require_deployable()
    network = copy.deepcopy(network).cpu().eval()
    training = data.training.augmented("none") if isinstance(data.training, ImageSet) else data.training
    example = next(_batches(training, most=3))[0]
    contents = {"ONNX": onnx_contents(network, example=example, task=data.task)}
    calibration = min(calibration_examples, len(training)) if int8 else 0
    if int8:
        typical = (inputs.numpy() for inputs, _ in _batches(training, most=calibration))
        contents["ONNX int8"] = quantised(contents["ONNX"], typical)
    runs: dict[str, Callable[[Tensor], Tensor]] = {"PyTorch": network}
    for name, content in contents.items():
        runs[name] = _by_onnxruntime(content)
    accuracy, difference = _tested(runs, data.test, progress=progress)
    latency = measure_latency({"PyTorch": network, **contents}, example[:1], threads=threads, repeats=repeats)
    described = {} if data.task is None else data.task.metadata()
    files = dict(zip((ONNX, INT8), contents.values(), strict=False))
    files[WEIGHTS] = _safetensors().save(_unshared(network.state_dict()), described)
    forms = {
        name: Form(
            file=file, size=len(files[file]), test_accuracy=accuracy[name], latency_ms=latency.milliseconds[name]
        )
        for name, file in zip(runs, (WEIGHTS, ONNX, INT8), strict=False)
    }
    deployed = Deployed(
        folder=Path(folder),
        forms=forms,
        parameters=sum(p.numel() for p in network.parameters()),
        multiply_adds=round(get_proxy("flops")(network, example[:1]) / 2),
        latency=latency,
        test_examples=len(data.test),
        largest_difference=difference,
        calibration_examples=calibration,
    )
    if data.task is not None:
        files[SCRIPT] = script_text(int8=int8).encode()
    files[RECORD] = (json.dumps(deployed.to_dict(), indent=1) + "\n").encode()
    with replaced_together(deployed.folder, FILES.__contains__) as staging:
        for name, content in files.items():
            write_atomically(staging / name, partial(_write, content=content))
    return deployed


def _write(file: BinaryIO, *, content: bytes) -> None:
    file.write(content)


def _safetensors() -> Any:
    try:
        return importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise MissingDependencyError(
            "writing weights needs the package safetensors, which is not installed: pip install safetensors"
        ) from error


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that share no memory, as safetensors asks for."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _batches(examples: Labelled, *, most: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs (B, ...) and labels (B,), of so many examples, evenly spread, or of all."""
    found = cast("Dataset[tuple[Tensor, int]]", examples)
    if most is not None and most < len(examples):
        found = Subset(found, torch.linspace(0, len(examples) - 1, most).round().long().tolist())
    return iter(DataLoader(found, batch_size=_BATCH, collate_fn=collate))


def _by_onnxruntime(content: bytes) -> Callable[[Tensor], Tensor]:
    run = onnx_runner(content)
    return lambda inputs: torch.from_numpy(run(inputs.numpy()))


@torch.no_grad()
def _tested(
    runs: Mapping[str, Callable[[Tensor], Tensor]], test: Labelled, *, progress: bool
) -> tuple[dict[str, float], float]:
    """Return the accuracy of each form, and the largest difference of a logit between the first two."""
    right, count, difference = dict.fromkeys(runs, 0), len(test), 0.0
    if not count:
        raise DataError("there are no test examples to count accuracy on")
    for inputs, labels in tqdm(_batches(test), total=-(-count // _BATCH), desc="deploy", disable=not progress):
        if labels.ndim != 1 or labels.is_floating_point():
            raise DataError(
                f"accuracy is counted on labels that are the numbers of classes; the test examples have {labels.dtype} "
                f"of shape {tuple(labels.shape)}"
            )
        outputs = [run(inputs) for run in runs.values()]
        difference = max(difference, float((outputs[0] - outputs[1]).abs().max()))
        for name, logits in zip(runs, outputs, strict=True):
            right[name] += int((logits.argmax(1) == labels).sum())
    return {name: n / count for name, n in right.items()}, difference
