"""torch.compile as an option: the same search, and one message where it cannot be."""

from __future__ import annotations

import shutil

import pytest
import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn

from balenas_plugin import BaLeNAS
from balenas_plugin.adapters.nni.supernets import compilation
from balenas_plugin.adapters.nni.supernets.compilation import CompiledForward
from balenas_plugin.errors import OptionError

from .searches import classification, loaders, search
from .spaces import Layers


def found(tmp_path, **options):
    """Return alphas, weights and the module of a search whose last batch of an epoch is smaller."""
    torch.manual_seed(0)
    evaluator = classification(tmp_path, max_epochs=2, **loaders(train=20, val=20))
    strategy = search(Layers(), evaluator, num_mc_samples=2, arc_learning_rate=0.1, **options)
    return {k: v.clone() for k, v in strategy.supernet.state_dict().items()}, strategy.oneshot_module


def assert_close(one, other):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)


def messages(caplog):
    return [record.getMessage() for record in caplog.records if record.name == compilation.__name__]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_search_is_the_same(tmp_path, caplog):
    """Of second order, whose passes are of more kinds."""
    plain, _ = found(tmp_path, order="second")
    compiled, module = found(tmp_path, order="second", compile=True)
    assert messages(caplog) == []
    assert not module._compiled.gave_up
    assert {shape[0] for *_, shape in module._compiled._known} == {8}  # not the last batch, of 4
    assert len({(training, trained) for training, _, trained, _ in module._compiled._known}) >= 2
    assert_close(plain, compiled)
    assert "forward" not in vars(module._space())


@pytest.mark.parametrize("broken", ["no compiler", "dynamo", "backward"])
def test_a_search_that_cannot_be_compiled_goes_on_and_says_so_once(broken, tmp_path, caplog, monkeypatch):
    if broken == "dynamo":

        def unable(function, **options):
            def compiled(*args, **kwargs):
                raise torch._dynamo.exc.Unsupported("this construct is not supported\nmore of it")

            return compiled

        monkeypatch.setattr(torch, "compile", unable)
    elif broken == "backward":

        class Failing(torch.autograd.Function):
            @staticmethod
            def forward(context, x):
                return x.clone()

            @staticmethod
            def backward(context, gradient):
                raise RuntimeError("the backward pass cannot be compiled")

        monkeypatch.setattr(torch, "compile", lambda function, **options: lambda x: Failing.apply(function(x)))
    else:
        torch._dynamo.reset()
        monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
        monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    plain, _ = found(tmp_path)
    fallen, module = found(tmp_path, compile=True)
    (message,) = messages(caplog)
    assert message.startswith("compile: Layers cannot be compiled, so it runs as it is (")
    assert "\n" not in message
    assert module._compiled.gave_up
    for name in plain:
        assert torch.equal(plain[name], fallen[name])


def test_compiling_leaves_statistics_and_random_numbers_as_they_were(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout())
    x, outputs, states = torch.randn(4, 3), [], []
    for compiled in (None, CompiledForward(network, "default")):
        network[0].reset_running_stats()
        torch.manual_seed(1)
        if compiled is None:
            outputs.append(network(x))
        else:
            with compiled.used(learning=True):
                outputs.append(network(x))
        states.append(network[0].running_mean.clone())
    assert torch.equal(*outputs)
    assert torch.equal(*states)
    assert all(p.grad is None for p in network.parameters())


def test_a_fused_module_is_compiled_anew_when_a_candidate_changes(monkeypatch):
    """The compiler looks at the plan only, which it cannot check: the plan of a compiled pass is a known one."""
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiler(function, backend="eager", dynamic=False))

    class Space(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.mix = LayerChoice([nn.Conv2d(2, 2, 1), nn.AdaptiveAvgPool2d((4, 4)), nn.Identity()], label="mix")

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(x)

    torch.manual_seed(0)
    model, x = BaLeNAS().mutate_model(Space()), torch.randn(2, 2, 4, 4)
    compiled, plain = CompiledForward(model, "default"), model.mix[0].forward

    def both() -> tuple[Tensor, Tensor]:
        with compiled.used(learning=True):
            first = model(x)
        return first, model(x)

    torch.testing.assert_close(*both())
    model.mix[0].forward = lambda x: 3 * plain(x)
    torch.testing.assert_close(*both())
    assert not compiled.gave_up
    assert model.mix.description() == (
        "fused, but 2 of 3 candidates called as they are "
        "(0: forward of this Conv2d was replaced; 1: AdaptiveAvgPool2d is not a plain layer)"
    )


def test_an_error_of_the_network_is_the_networks_own(monkeypatch):
    class Faulty(nn.Module):
        def forward(self, x):
            raise ValueError("wrong images")

    network = Faulty()
    compiled = CompiledForward(network, "default")
    with compiled.used(learning=True), pytest.raises(ValueError, match="wrong images"):
        network(torch.zeros(1))
    assert not compiled.gave_up
    assert "forward" not in vars(network)


def test_cuda_graphs_need_a_gpu_and_one_pass_at_a_time(caplog, monkeypatch):
    made = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: made.append(options["mode"]))
    network = nn.Linear(2, 2)
    assert not CompiledForward(network, "reduce-overhead").graphs
    monkeypatch.setattr(compilation, "_on_gpu", lambda network: True)
    assert not CompiledForward(network, "max-autotune", keeps_gradients=True).graphs
    assert CompiledForward(network, "reduce-overhead").graphs
    assert not CompiledForward(network, "default").graphs
    assert made == [None, None, "reduce-overhead", None]
    reported = messages(caplog)
    assert len(reported) == 2
    assert "this is not a GPU" in reported[0]
    assert 'order="second"' in reported[1]


def test_modes_are_checked(tmp_path):
    with pytest.raises(OptionError, match="did you mean 'reduce-overhead'"):
        found(tmp_path, compile="reduced-overhead")
