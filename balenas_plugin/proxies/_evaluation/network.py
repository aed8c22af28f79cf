"""Borrow a network to compute with, and give it back as it was.

A proxy needs a forward pass in a chosen mode and gradients, and must not leave a trace in the user's model. So the
network's function is called on copies of its parameters and buffers (`torch.func.functional_call`): the model's own
tensors, their ``grad`` and ``requires_grad``, and the statistics of its batch-norms are never touched. What cannot be
copied (the mode of each module, the random number generators) is put back, also after an error.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from balenas_plugin.errors import OptionError
from balenas_plugin.restoring import modes_restored, random_numbers_restored


@dataclass(frozen=True, eq=False)
class Network:
    """The function that a model computes, on copies of its tensors.

    Attributes:
        model: the model itself, for its structure. Call the `Network` instead of it.
        tensors: name -> copy of a parameter or buffer.
        weights: the weights among `tensors` of the layers that multiply by them, Conv2d and Linear above all: name ->
            tensor that requires grad. Embeddings, which look up, and normalisations are not among them.
    """

    model: nn.Module
    tensors: dict[str, Tensor]
    weights: dict[str, Tensor]

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the model's output for `inputs`.

        Raises:
            OptionError: the model returns something else than one tensor.
        """
        outputs = self.run(inputs)
        if not isinstance(outputs, Tensor):
            raise OptionError(
                f"{type(self.model).__name__} returned a {type(outputs).__name__}; a proxy needs one tensor of logits. "
                "Switch auxiliary heads off, or wrap the model in a module that returns its logits only."
            )
        return outputs

    def run(self, inputs: Tensor) -> Any:
        """Return the model's outputs for `inputs`, whatever they are."""
        return functional_call(self.model, self.tensors, (inputs.clone(),))

    def loss(self, inputs: Tensor, targets: Tensor | None) -> Tensor:
        """Return the mean cross-entropy, in nats, of the logits for `inputs` ``(N, ...)`` and class `targets` ``(N,)``.

        Raises:
            OptionError: `targets` are missing, or do not fit the logits.
        """
        if targets is None:
            raise OptionError("this proxy needs labels: pass `targets`, one class index per example")
        logits = self(inputs)
        if logits.dim() != 2 or logits.shape[0] != targets.shape[0]:
            raise OptionError(
                f"{type(self.model).__name__} returned logits of shape {tuple(logits.shape)}; "
                f"{targets.shape[0]} class targets need logits of shape ({targets.shape[0]}, number of classes)"
            )
        if int(targets.min()) < 0 or int(targets.max()) >= logits.shape[1]:
            raise OptionError(
                f"targets run from {int(targets.min())} to {int(targets.max())}; "
                f"the model has {logits.shape[1]} outputs, so they must be from 0 to {logits.shape[1] - 1}"
            )
        return F.cross_entropy(logits, targets)

    def gradients(self, of: Tensor, *, create_graph: bool = False) -> list[Tensor]:
        """Return the gradient of the scalar `of` for each of `weights`, in order; zero where it does not depend on one.

        Raises:
            OptionError: there are no `weights`.
        """
        self.require_weights()
        return gradients(of, self.weights.values(), create_graph=create_graph)

    def require_weights(self) -> None:
        """Raise OptionError if there are no `weights`, or complex ones."""
        name = type(self.model).__name__
        if not self.weights:
            raise OptionError(
                f"{name} has no Conv2d or Linear layer (nor another convolution, a recurrent or attention layer), and "
                "this proxy looks at those alone; choose one that looks at activations or sizes, such as jacob_cov, "
                "naswot, params"
            )
        if any(weight.is_complex() for weight in self.weights.values()):
            raise OptionError(
                f"{name} has complex weights, and this proxy is defined for real ones; choose flops, params"
            )


@contextlib.contextmanager
def borrowed(
    model: nn.Module, *, training: bool = True, absolute: bool = False, dtype: torch.dtype | None = None
) -> Iterator[Network]:
    """Yield the function of `model` on copies of its tensors, and leave the model as it was.

    Inside, gradients are on and autocast is off, whatever the caller's setting; random numbers drawn inside do not
    advance the caller's generators (PyTorch on the CPU and on the model's GPUs, NumPy, `random`). Attention and
    recurrent layers compute with plain operations, which can be counted and differentiated twice, not so fast kernels.

    Args:
        model: any network.
        training: the mode that all modules are in.
        absolute: replace every parameter by its absolute value (SynFlow's linearisation).
        dtype: convert floating-point parameters and buffers to this type; by default they keep theirs.

    Raises:
        OptionError: the weight of a Conv2d or Linear layer is not a parameter of that layer.
    """
    with _isolated(model):
        parameters = {name: _copy(value, dtype) for name, value in model.named_parameters()}
        buffers = {name: _copy(value, dtype) for name, value in model.named_buffers()}
        if absolute:
            parameters = {name: value.abs().to(value.dtype) for name, value in parameters.items()}
        weights = {name: parameters[name].requires_grad_() for name in _weight_names(model)}
        try:
            for module in model.modules():
                module.training = training
            yield Network(model, parameters | buffers, weights)
        finally:
            for module in model.modules():
                if isinstance(module, nn.RNNBase):  # which holds its weights a second time
                    for name, parameter in module.named_parameters(recurse=False):
                        setattr(module, name, parameter)


def gradients(of: Tensor, tensors: Iterable[Tensor], *, create_graph: bool = False) -> list[Tensor]:
    """Return the gradient of the scalar `of` for each of `tensors`; zero where it does not depend on one."""
    leaves = list(tensors)
    if not of.requires_grad or not leaves:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return list(torch.autograd.grad(of, leaves, create_graph=create_graph, allow_unused=True, materialize_grads=True))


def total(values: Iterable[Tensor]) -> float:
    """Return the sum of scalar tensors, added in float64; 0 of none."""
    scalars = [value.double() for value in values]
    return torch.stack(scalars).sum().item() if scalars else 0.0


def _copy(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    if is_lazy(value):
        raise OptionError("the model has a lazy layer without weights yet; call the model once on a batch first")
    if dtype is not None and value.is_complex():
        dtype = dtype.to_complex()
    elif not value.is_floating_point():
        dtype = None
    return value.detach().to(dtype, copy=True)


@contextlib.contextmanager
def _isolated(model: nn.Module) -> Iterator[None]:
    """Switch gradients on and autocast off; restore modes and random generators afterwards."""
    devices = {parameter.device for parameter in model.parameters()} or {torch.device("cpu")}
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device_type in sorted({device.type for device in devices} - {"meta"}):
            stack.enter_context(torch.autocast(device_type, enabled=False))
        stack.enter_context(random_numbers_restored())
        stack.enter_context(modes_restored(model))
        stack.enter_context(_plain_operations(model))
        yield


@contextlib.contextmanager
def _plain_operations(model: nn.Module) -> Iterator[None]:
    """Take the fast kernels of attention and recurrent layers out of use."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with contextlib.ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about Intel's GPUs
                stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


def _weights_of(layer: nn.Module) -> list[str]:
    """Return the names of the parameters that a layer multiplies its inputs by."""
    if isinstance(layer, (_ConvNd, nn.Linear, nn.Bilinear)):
        return ["weight"]
    if isinstance(layer, (nn.RNNBase, nn.RNNCellBase)):
        return [name for name, _ in layer.named_parameters(recurse=False) if name.startswith("weight_")]
    if isinstance(layer, nn.MultiheadAttention):  # its output layer is a Linear of its own
        names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        return [name for name in names if getattr(layer, name) is not None]
    return []


def _weight_names(model: nn.Module) -> list[str]:
    """Return the names, as in `named_parameters`, of the weights of all layers that multiply, each once."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, None] = {}
    for path, layer in model.named_modules():
        for own in _weights_of(layer):
            weight = getattr(layer, own)
            if id(weight) not in names:
                raise OptionError(
                    f"the weight of layer {path!r} is not a parameter of it (weight_norm, spectral_norm or another "
                    "parametrization); score the network without it, see torch.nn.utils.parametrize"
                )
            found[names[id(weight)]] = None
    return list(found)
