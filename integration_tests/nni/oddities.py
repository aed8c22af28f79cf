"""What can be odd about a mixed module: its candidates, patches of them, what comes in, and how it is called."""

from __future__ import annotations

import contextlib
import copy
import pickle
import random
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from nni.nas.hub.pytorch import nasbench201 as hub201
from nni.nas.hub.pytorch import nasnet
from nni.nas.oneshot.pytorch.supermodule.differentiable import DifferentiableMixedLayer
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, parametrize, prune
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from balenas_plugin.adapters.nni.supernets.parameters import architecture_parameters
from balenas_plugin.distributions import Draw
from balenas_plugin.search.mixing import mixing_of

C = 4


def sequential(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


class Own(nn.Module):
    """A candidate with code of its own that takes any number."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0.7


PLAIN: dict[str, Callable[[], nn.Module]] = {
    "skip": nn.Identity,
    "conv": lambda: nn.Conv2d(C, C, 3, padding=1),
    "thin": lambda: nn.Conv2d(C, C, 1),
    "block": lambda: sequential(nn.ReLU(), nn.Conv2d(C, C, 3, padding=1, bias=False), nn.BatchNorm2d(C)),
    "norm": lambda: nn.BatchNorm2d(C),
    "average": lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "maximum": lambda: nn.MaxPool2d(3, 1, 1),
    "hub block": lambda: hub201.ReLUConvBN(C, C, 3, 1, 1, 1),
    "hub separable": lambda: hub201.SepConv(C, C, 3, 1, 1, 1),
    "hub pooling": lambda: hub201.Pooling(C, C, 1, "max"),
    "hub zero": lambda: hub201.Zero(C, C, 1),
    "nasnet separable": lambda: nasnet.SepConv(C, C, 3, 1, 1),
    "rectified": nn.ReLU,
    "own": Own,
}


class Function(nn.Module):
    """A candidate with code of its own."""

    def __init__(self, code: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.code = code

    def forward(self, x: Tensor) -> Any:
        return self.code(x)


class Stateful(nn.Module):
    """One whose result depends on how often it was called, and on random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls * random.random() * torch.rand(())


class OnTheFly(nn.Module):
    """One that makes its weights when it is first called."""

    def __init__(self) -> None:
        super().__init__()
        self.scale: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = nn.BatchNorm2d(x.shape[1]).to(x.dtype)
            nn.init.normal_(self.scale.weight)
        return self.scale(x)


class Weird(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight * 2, bias)


class WeightOfClass(nn.ReLU):
    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)


ODD: dict[str, Callable[[], nn.Module]] = {
    "stateful": Stateful,
    "made on the fly": OnTheFly,
    "lazy": lambda: nn.LazyConv2d(C, 1),
    "scripted": lambda: torch.jit.script(nn.Conv2d(C, C, 1)),
    "shape that broadcasts": lambda: nn.AdaptiveAvgPool2d(1),
    "one channel": lambda: nn.Conv2d(C, 1, 1),
    "shape that differs": lambda: nn.Conv2d(C, C, 3),
    "integers": lambda: Function(lambda x: (x.real > 0).long()),
    "complex numbers": lambda: Function(torch.fft.fft2),
    "a tuple": lambda: Function(lambda x: (x, x)),
    "another precision": lambda: Function(lambda x: x.float()),
    "in place first": lambda: sequential(nn.ReLU(inplace=True), nn.Conv2d(C, C, 1)),
    "clipped in place": lambda: nn.Hardtanh(inplace=True),
    "in place later": lambda: sequential(nn.Conv2d(C, C, 1), nn.ReLU(inplace=True)),
    "in place behind dropout": lambda: sequential(nn.Dropout(0.0), nn.Hardtanh(inplace=True)),
    "in place in code": lambda: Function(lambda x: x.mul_(1.5)),
    "momentum none": lambda: nn.BatchNorm2d(C, momentum=None),
    "gamma only": lambda: nn.BatchNorm2d(C, bias=False),
    "overriding subclass": lambda: Weird(C, C, 1),
    "subclass with attributes": WeightOfClass,
    "hub pooling that widens": lambda: hub201.Pooling(C, C, 1, "avg"),
}

SHARED: dict[str, Callable[[], list[nn.Module]]] = {
    "zeros only": lambda: [hub201.Zero(C, C, 1), nasnet.Zero(1)],
    "zeros of another stride": lambda: [nasnet.Zero(2), nn.Identity()],
    "a shared batch-norm": lambda: [sequential(nn.ReLU(), norm := nn.BatchNorm2d(C)), norm],
    "a shared convolution": lambda: [conv := nn.Conv2d(C, C, 1), sequential(nn.ReLU(), conv)],
    "one candidate twice": lambda: [same := hub201.ReLUConvBN(C, C, 1, 1, 0, 1), same],
}


def _of(model: nn.Module, kind: type[nn.Module], rng: random.Random) -> Any:
    return rng.choice([m for m in model.modules() if type(m) is kind])


def _forward(kind: type[nn.Module]) -> Callable[..., None]:
    def patch(model: nn.Module, rng: random.Random, stack: contextlib.ExitStack) -> None:
        module = _of(model, kind, rng)
        original = module.forward
        module.forward = lambda x: 0.5 * original(x)

    return patch


def _set(kind: type[nn.Module], attribute: str, value: Callable[[Any], Any]) -> Callable[..., None]:
    def patch(model: nn.Module, rng: random.Random, stack: contextlib.ExitStack) -> None:
        module = _of(model, kind, rng)
        setattr(module, attribute, value(module))

    return patch


def _conv_forward(module: Any) -> Any:
    def standardised(self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return nn.Conv2d._conv_forward(self, x, weight - weight.mean(), bias)

    return types.MethodType(standardised, module)


def _method_of_class(kind: type[nn.Module]) -> Callable[..., None]:
    def patch(model: nn.Module, rng: random.Random, stack: contextlib.ExitStack) -> None:
        original = kind.forward
        kind.forward = lambda self, x: 0.5 * original(self, x)
        stack.callback(setattr, kind, "forward", original)

    return patch


def _swapped(model: nn.Module, rng: random.Random, stack: contextlib.ExitStack) -> None:
    parents = [(p, name) for p in model.modules() for name, m in p.named_children() if isinstance(m, nn.Conv2d)]
    parent, name = rng.choice(parents)
    old = getattr(parent, name)
    setattr(parent, name, sequential(old, nn.Tanh()))


def _plain_tensor(model: nn.Module, rng: random.Random, stack: contextlib.ExitStack) -> None:
    conv = _of(model, nn.Conv2d, rng)
    weight = conv.weight
    del conv.weight
    conv.weight = weight.detach() * 2


def _class_swap(model: nn.Module, rng: random.Random, stack: contextlib.ExitStack) -> None:
    _of(model, nn.ReLU, rng).__class__ = nn.Sigmoid


def _statistics_removed(model: nn.Module, rng: random.Random, stack: contextlib.ExitStack) -> None:
    norm = _of(model, nn.BatchNorm2d, rng)
    norm.running_mean = norm.running_var = None


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x


def _reduction(model: nn.Module, rng: random.Random, stack: contextlib.ExitStack) -> None:
    layers = [m for m in model.modules() if isinstance(m, DifferentiableMixedLayer)]
    for layer in layers:
        layer._reduction = lambda items, weights, layer=layer: 2 * type(layer)._reduction(layer, items, weights)


PATCHES: dict[str, Callable[..., None]] = {
    **{f"forward of {k.__name__}": _forward(k) for k in (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Sequential)},
    **{f"forward of hub {k.__name__}": _forward(k) for k in (hub201.ReLUConvBN, hub201.SepConv, hub201.Pooling)},
    "forward of Identity": _forward(nn.Identity),
    "forward of hub Zero": _set(hub201.Zero, "forward", lambda m: lambda x: x * 2),
    "class's forward": _method_of_class(nn.Conv2d),
    "class's forward of hub": _method_of_class(hub201.ReLUConvBN),
    "_conv_forward": _set(nn.Conv2d, "_conv_forward", _conv_forward),
    "compiled call": _set(nn.Conv2d, "_compiled_call_impl", lambda m: lambda x: m.forward(x) * 3),
    "weight of another kind": _set(nn.Conv2d, "weight", lambda m: nn.Parameter(m.weight.detach() * 2)),
    "weight a plain tensor": _plain_tensor,
    "layer swapped": _swapped,
    "class swapped": _class_swap,
    "in place from now on": _set(nn.ReLU, "inplace", lambda m: True),
    "eps": _set(nn.BatchNorm2d, "eps", lambda m: 0.3),
    "without statistics": _set(nn.BatchNorm2d, "track_running_stats", lambda m: False),
    "statistics removed": _statistics_removed,
    "one layer evaluates": lambda m, r, s: _of(m, nn.BatchNorm2d, r).eval(),
    "frozen weights": lambda m, r, s: _of(m, nn.Conv2d, r).requires_grad_(False),
    "forward hook": lambda m, r, s: _of(m, nn.Conv2d, r).register_forward_hook(lambda _, a, y: y * 2),
    "forward pre-hook": lambda m, r, s: _of(m, nn.BatchNorm2d, r).register_forward_pre_hook(lambda _, a: (a[0] * 2,)),
    "backward hook": lambda m, r, s: _of(m, nn.Conv2d, r).register_full_backward_hook(lambda _, i, o: (i[0] * 2,)),
    "hook on all": lambda m, r, s: s.callback(
        register_module_forward_hook(lambda m, a, y: y * 2 if isinstance(m, nn.Conv2d) else None).remove
    ),
    "parametrization": lambda m, r, s: parametrize.register_parametrization(_of(m, nn.Conv2d, r), "weight", Half()),
    "weight norm": lambda m, r, s: parametrizations.weight_norm(_of(m, nn.Conv2d, r)),
    "spectral norm": lambda m, r, s: nn.utils.spectral_norm(_of(m, nn.Conv2d, r)),
    "pruned": lambda m, r, s: prune.l1_unstructured(_of(m, nn.Conv2d, r), "weight", 0.5),
    "reduction": _reduction,
}

INPUTS: dict[str, Callable[[Tensor], Any]] = {
    "complex": lambda x: torch.complex(x, x.flip(0)),
    "integer": lambda x: (10 * x).long(),
    "parameter": lambda x: nn.Parameter(x),
    "unbatched": lambda x: x[0],
    "flat": lambda x: x[:, :, 0, 0],
    "empty": lambda x: x[:0],
    "one pixel": lambda x: x[:, :, :1, :1],
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "expanded": lambda x: x[:1].expand(4, -1, -1, -1),
    "sparse": lambda x: x.to_sparse(),
}


def real(y: Any) -> Tensor:
    parts = y if isinstance(y, list | tuple) else [y]
    flat = [torch.view_as_real(p).flatten() if p.is_complex() else p.flatten() for p in parts]
    return torch.sin(torch.cat([p.to_dense() if p.is_sparse else p for p in flat]).double())


def derivatives(model: nn.Module, x: Tensor, *, second: bool = False) -> list[Any]:
    """Return results, gradients in the input and in all parameters (of a derivative in alpha if `second`)."""
    if x.is_floating_point() or x.is_complex():
        x = x.detach().requires_grad_() if type(x) is Tensor else x
    y = model(x)
    loss = real(y).sum()
    leaves = [p for p in (x, *model.parameters()) if p.requires_grad]
    if second:
        alphas = [p for name, p in model.named_parameters() if "_arch_alpha" in name]
        of_alpha = torch.autograd.grad(loss, alphas, create_graph=True)
        loss = sum((g * torch.linspace(1, 2, len(g))).sum() for g in of_alpha)
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return [real(y), *gradients, *(b for b in model.buffers() if b.is_floating_point())]


class Counting(TorchFunctionMode):
    calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func in (F.relu, F.conv2d, F.batch_norm, F.max_pool2d)
        return func(*args, **(kwargs or {}))


class Dispatched(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += "convolution" in str(func)
        return func(*args, **(kwargs or {}))


def watched(mode: type) -> Callable[..., list[Any]]:
    def way(model: nn.Module, x: Tensor) -> list[Any]:
        with mode() as counter:
            y = model(x)
        return [real(y), torch.tensor(counter.calls)]

    return way


def dual(model: nn.Module, x: Tensor) -> list[Any]:
    with forward_ad.dual_level():
        return list(forward_ad.unpack_dual(model(forward_ad.make_dual(x, torch.ones_like(x)))))


def autocast(model: nn.Module, x: Tensor) -> list[Any]:
    with torch.autocast("cpu", torch.bfloat16):
        return [copy.deepcopy(model).float()(x.float())]


def inference(model: nn.Module, x: Tensor) -> list[Any]:
    with torch.inference_mode():
        return [model(x.clone()), model(x * 1)]


def copied(duplicate: Callable[[Any], Any]) -> Callable[..., list[Any]]:
    def way(model: nn.Module, x: Tensor) -> list[Any]:
        model(x)
        twin = duplicate(model)
        with torch.no_grad():
            for p in twin.parameters():
                p.mul_(0.5)
        for layer in [m for m in twin.modules() if isinstance(m, nn.ReLU)]:
            layer.forward = torch.tanh
        return [*derivatives(twin, x), *derivatives(model, x)]

    return way


def jacobian(model: nn.Module, x: Tensor) -> list[Any]:
    alphas = tuple(p for name, p in model.named_parameters() if "_arch_alpha" in name)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    y = model(x).sum((1, 2, 3))
    return list(torch.autograd.grad(y, (x, *alphas), torch.eye(len(y), dtype=y.dtype), is_grads_batched=True))


def drawn(model: nn.Module, x: Tensor) -> list[Any]:
    """As `derivatives`, where modules mix with a draw, in which there are gradients too."""
    parameters = architecture_parameters(model)
    draw = Draw({}, {label: torch.linspace(1, 2, len(p)).to(p).softmax(-1) for label, p in parameters.items()})
    with mixing_of(model).using(draw, parameters):
        of_weights = torch.autograd.grad(real(model(x)).sum(), list(draw.weights.values()))
        return [*of_weights, *derivatives(model, x)]


WAYS: dict[str, Callable[..., list[Any]]] = {
    "a draw": drawn,
    "second derivative": lambda model, x: derivatives(model, x, second=True),
    "vmap": lambda model, x: [torch.func.vmap(lambda row: model(row[None])[0])(x)],
    "jacrev": lambda model, x: [torch.func.jacrev(lambda z: model(z).sum((1, 2, 3)))(x)],
    "jvp": lambda model, x: list(torch.func.jvp(model, (x,), (torch.ones_like(x),))),
    "forward mode": dual,
    "several gradients at once": jacobian,
    "functional call": lambda model, x: [
        torch.func.functional_call(model, {n: 2 * p for n, p in model.named_parameters()}, (x,))
    ],
    "a function mode": watched(Counting),
    "a dispatch mode": watched(Dispatched),
    "traced": lambda model, x: [torch.jit.trace(model, x, check_trace=False)(x)],
    "autocast": autocast,
    "inference mode": inference,
    "copied": copied(copy.deepcopy),
    "pickled": copied(lambda model: pickle.loads(pickle.dumps(model))),
}
