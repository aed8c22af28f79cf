"""Scoring leaves the network and the process as they were, refuses what it cannot score, and finds proxies by name."""

from __future__ import annotations

import copy
import gc
import math
import random
import resource

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from balenas_plugin.errors import OptionError
from balenas_plugin.proxies import borrowed, get_proxy, list_proxies, rank_value, score

BUILT_IN = list_proxies()


class TinyNetwork(nn.Module):
    """Batch-norm, dropout of three sources, and optionally an error after half of the work."""

    def __init__(self, *, fails=False):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.3)
        )
        self.hidden = nn.Linear(4, 4)
        self.classifier = nn.Linear(4, 5)
        self.fails = fails

    def forward(self, x):
        x = self.features(x.mul_(1.5)).mean((2, 3))
        x = x * (1 + random.random() + np.random.rand())
        x = F.relu(self.hidden(x))
        if self.fails:
            raise RuntimeError("boom")
        return self.classifier(x)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 3, 8, 8, generator=generator), torch.arange(6) % 5


def used_network(*, fails=False):
    """A network in the middle of other work: mixed modes, gradients, a frozen weight, a hook, a shared weight."""
    torch.manual_seed(0)
    model = TinyNetwork(fails=fails)
    model.classifier.weight = nn.Parameter(torch.randn(5, 4))
    model.hidden.register_forward_hook(lambda layer, inputs, output: output * 2)
    model.features[1].eval()
    model.classifier.weight.requires_grad_(False)
    model.hidden.weight.grad = torch.ones_like(model.hidden.weight)
    return model


def snapshot(model, inputs):
    """Everything that scoring might change."""
    return {
        "parameters": {name: (id(value), value.detach().clone()) for name, value in model.named_parameters()},
        "buffers": {name: (id(value), value.clone()) for name, value in model.named_buffers()},
        "requires_grad": {name: value.requires_grad for name, value in model.named_parameters()},
        "gradients": {
            name: value.grad if value.grad is None else value.grad.clone() for name, value in model.named_parameters()
        },
        "modes": [module.training for module in model.modules()],
        "hooks": [
            [*module._forward_hooks, *module._forward_pre_hooks, *module._backward_hooks] for module in model.modules()
        ],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "inputs": inputs.clone(),
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.random.get_state()[1].astype(np.int64)),
        "python": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "grad_enabled": torch.is_grad_enabled(),
    }


def assert_same(before, after):
    if isinstance(before, torch.Tensor):
        assert torch.equal(before, after)
    elif isinstance(before, dict):
        assert list(before) == list(after)
        for key in before:
            assert_same(before[key], after[key])
    elif isinstance(before, (list, tuple)):
        assert len(before) == len(after)
        for left, right in zip(before, after, strict=True):
            assert_same(left, right)
    else:
        assert before == after


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_network_is_left_as_it_was(name, batch):
    model = used_network()
    before = snapshot(model, batch[0])
    value = score(name, model, *batch)
    assert math.isfinite(value)
    rank_value(name, model, *batch)
    assert_same(before, snapshot(model, batch[0]))


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name != "params"])
def test_the_network_is_left_as_it_was_after_a_failure(name, batch):
    model = used_network(fails=True)
    before = snapshot(model, batch[0])
    with pytest.raises(RuntimeError, match="boom") as caught:
        score(name, model, *batch)
    assert caught.value.__notes__ == [
        f"while computing the proxy '{name}' of TinyNetwork on inputs of shape (6, 3, 8, 8); the model is unchanged"
    ]
    with pytest.raises(RuntimeError, match="boom"):
        rank_value(name, model, *batch)
    assert_same(before, snapshot(model, batch[0]))


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_value_depends_on_the_seed_alone(name, batch):
    model = used_network()

    def value(seed):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        return score(name, model, *batch), score(name, model, *batch)

    first, again = value(1)
    assert first == again  # scoring does not advance the generators
    assert value(1) == (first, first)


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_callers_modes_do_not_matter(name, batch):
    model = used_network()
    expected = score(name, model, *batch)
    with torch.no_grad():
        assert score(name, model, *batch) == expected
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert score(name, model, *batch) == expected
    with torch.inference_mode():
        assert score(name, model, batch[0].clone(), batch[1]) == expected
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert score(name, model.eval(), *batch) == expected


def test_scoring_many_networks_keeps_memory_constant(batch):
    inputs, targets = batch[0][:3], batch[1][:3]

    def score_some(count):
        """Score `count` networks of 1 MiB; return how many tensors and modules are left, and the peak memory in MiB."""
        for _ in range(count):
            model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1820))
            for name in BUILT_IN:
                rank_value(name, model, inputs, targets)
        del model
        gc.collect()
        left = sum(issubclass(type(thing), (torch.Tensor, nn.Module)) for thing in gc.get_objects())
        return left, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    score_some(10)
    left, peak = score_some(10)
    left_later, peak_later = score_some(60)
    assert left_later == left
    assert peak_later - peak < 15  # a quarter of a copy of each network


def test_a_weight_that_two_layers_share_counts_once(batch):
    model = TinyNetwork()
    model.hidden.weight = model.classifier.weight = nn.Parameter(torch.randn(4, 4))
    model.classifier.bias = None
    with borrowed(model) as network:
        assert list(network.weights) == ["features.0.weight", "hidden.weight"]
    assert score("params", model, *batch) == 3 * 4 * 9 + 4 + 4 + 4 + 16 + 4


def test_fisher_is_the_same_if_the_activation_overwrites_the_layers_output():
    torch.manual_seed(0)
    inputs, targets = torch.randn(4, 3, 8, 8), torch.arange(4)
    layers = nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5)
    values = [
        score("fisher", nn.Sequential(layers[0], nn.ReLU(inplace=in_place), *layers[1:]), inputs, targets)
        for in_place in (False, True)
    ]
    assert values[0] == values[1] > 0


@pytest.mark.parametrize("name", [name for name in BUILT_IN if get_proxy(name).needs_labels])
def test_a_network_whose_layers_are_not_used_scores_zero(name, batch):
    class Constant(TinyNetwork):
        def forward(self, x):
            return torch.zeros(len(x), 5)

    assert score(name, Constant(), *batch) == 0
    assert rank_value(name, Constant(), *batch) == -math.inf


def test_naswot_equals_its_definition():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU6(), nn.Linear(20, 3))
    inputs = torch.randn(5, 4)
    codes = torch.cat([model[0](inputs) > 0, model[:3](inputs) > 0], dim=1)
    kernel = torch.tensor([[float((a == b).sum()) for a in codes] for b in codes], dtype=torch.float64)
    assert kernel[0, 0] == 50
    assert score("naswot", model, inputs) == pytest.approx(kernel.logdet().item(), rel=1e-12)


def test_naswot_of_a_network_without_rectified_units_is_last(batch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.GELU())
    with pytest.warns(UserWarning, match="Sequential has no rectified units"):
        assert rank_value("naswot", model, *batch) == -math.inf


def test_flops_and_params_of_a_small_network(batch):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
    assert score("params", model, *batch) == 108 + 8 + 144 * 5 + 5
    assert score("flops", model, *batch) == 2 * (36 * 4 * 27 + 144 * 5)  # of one example, not of six


@pytest.mark.parametrize("name", BUILT_IN)
def test_labels_are_asked_for_where_they_are_needed(name, batch):
    if not get_proxy(name).needs_labels:
        assert score(name, TinyNetwork(), batch[0]) is not None
        return
    with pytest.raises(OptionError, match=f"proxy '{name}' needs labels: pass `targets`"):
        score(name, TinyNetwork(), batch[0])
    with pytest.raises(OptionError, match="needs labels"):
        get_proxy(name)(TinyNetwork(), batch[0])


WRONG = {
    "model": (lambda x, y: ("snip", lambda z: z, x, y), "model is a function; it must be a torch.nn.Module"),
    "inputs": (lambda x, y: ("snip", TinyNetwork(), x.tolist(), y), "inputs are a list; they must be a batch"),
    "empty": (lambda x, y: ("snip", TinyNetwork(), x[:0], y[:0]), r"inputs are shape \(0, 3, 8, 8\)"),
    "dtype": (lambda x, y: ("snip", TinyNetwork(), x.double(), y), "float64, the model is torch.float32"),
    "device": (lambda x, y: ("params", TinyNetwork(), x.to("meta"), y), "inputs are on meta, the model on cpu"),
    "count": (lambda x, y: ("snip", TinyNetwork(), x, y[:4]), r"torch.int64 of shape \(4,\).* shape \(6,\)"),
    "floats": (lambda x, y: ("snip", TinyNetwork(), x, y.float()), "targets are torch.float32 of shape"),
    "range": (lambda x, y: ("snip", TinyNetwork(), x, y + 3), "targets run from 3 to 7; the model has 5 outputs"),
    "logits": (lambda x, y: ("snip", nn.Conv2d(3, 5, 1), x, y), r"logits of shape \(6, 5, 8, 8\)"),
    "one": (lambda x, y: ("jacob_cov", TinyNetwork(), x[:1], y), "needs 2 floating-point examples or more, not 1"),
    "lazy": (lambda x, y: ("naswot", nn.LazyConv2d(2, 1), x, y), "lazy layer without weights yet"),
    "weights": (lambda x, y: ("snip", nn.Sequential(nn.Flatten(), nn.PReLU()), x, y), "no Conv2d or Linear layer"),
    "weightless": (lambda x, y: ("fisher", nn.Sequential(nn.Flatten(), nn.PReLU()), x, y), "no Conv2d or Linear layer"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_scored_is_refused(case, batch):
    arguments, message = WRONG[case]
    with pytest.raises(OptionError, match=message):
        score(*arguments(*batch))


def test_a_network_that_returns_several_tensors_is_refused(batch):
    class TwoHeads(TinyNetwork):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(OptionError, match=r"TwoHeads returned a tuple.* Switch auxiliary heads off"):
        score("snip", TwoHeads(), *batch)


def test_a_parametrized_weight_is_refused(batch):
    model = TinyNetwork()
    nn.utils.parametrizations.weight_norm(model.hidden)
    with pytest.raises(OptionError, match="weight of layer 'hidden' is not a parameter of it"):
        score("snip", model, *batch)


class OfTokens(nn.Module):
    """A classifier of tokens: embeddings, a layer, the mean over the sequence."""

    def __init__(self, layer):
        super().__init__()
        self.embedding, self.layer, self.head = nn.Embedding(9, 4), layer, nn.Linear(4, 5, bias=False)

    def forward(self, tokens):
        hidden = self.layer(self.embedding(tokens))
        return self.head((hidden[0] if isinstance(hidden, tuple) else hidden).mean(1))


class Convolution(nn.Conv1d):
    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


TOKENS = torch.arange(18).reshape(6, 3) % 9
SEQUENCE_LAYERS = {
    "identity": (nn.Identity, []),
    "convolution": (lambda: Convolution(4, 4, 1), ["weight"]),
    "lstm": (lambda: nn.LSTM(4, 4, batch_first=True), ["weight_ih_l0", "weight_hh_l0"]),
    "norm": (lambda: nn.LayerNorm(4), []),
    "attention": (
        lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
        ["self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"],
    ),
}


@pytest.mark.parametrize("layer", SEQUENCE_LAYERS)
def test_networks_of_tokens_are_scored_and_left_as_they_were(layer, batch):
    torch.manual_seed(0)
    make, weights = SEQUENCE_LAYERS[layer]
    model = OfTokens(make())
    with borrowed(model) as network:
        assert list(network.weights) == [*(f"layer.{name}" for name in weights), "head.weight"]
    before = snapshot(model, TOKENS)
    for name in BUILT_IN:
        if name not in ("jacob_cov", "naswot"):
            assert math.isfinite(rank_value(name, model, TOKENS, batch[1])), name
            # behind a layer norm that is kept, ones are zeros
            assert score(name, model, TOKENS, batch[1]) != 0 or (name, layer) == ("synflow_bn", "norm")
    assert_same(before, snapshot(model, TOKENS))
    copy.deepcopy(model)  # an LSTM holds its weights a second time
    if isinstance(model.layer, nn.LSTM):
        assert all(held is own for held, own in zip(model.layer._flat_weights, model.layer.parameters(), strict=True))


def test_synflow_begins_with_ones_behind_the_embeddings():
    model = OfTokens(nn.Linear(4, 4, bias=False)).double()
    first, second = model.layer.weight.detach().abs(), model.head.weight.detach().abs()
    assert score("synflow", model, TOKENS) == pytest.approx(2 * float((second @ first).sum()), rel=1e-12)


def test_a_network_of_tokens_can_be_dead(batch):
    model = OfTokens(nn.Linear(4, 4, bias=False))
    nn.init.zeros_(model.layer.weight)
    assert rank_value("params", model, TOKENS) == -math.inf


def test_a_network_that_converts_its_activations_is_scored_in_its_own_type():
    class OneHot(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(9, 2, bias=False)

        def forward(self, tokens):
            return self.layer(F.one_hot(tokens, 9).float().sum(1))

    model = OneHot()
    expected = model.layer.weight.detach().abs()[:, TOKENS[0]].sum()
    assert score("synflow", model, TOKENS) == pytest.approx(float(expected), rel=1e-6)


def test_complex_weights_are_refused_by_proxies_of_weights(batch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5, dtype=torch.complex64))
    inputs = batch[0].to(torch.complex64)
    with pytest.raises(OptionError, match="complex weights, and this proxy is defined for real ones"):
        rank_value("synflow", model, inputs)
    assert rank_value("params", model, inputs) == 965


def test_sizes_and_codes_do_not_ask_what_a_network_returns(batch):
    class TwoHeads(TinyNetwork):
        def forward(self, x):
            return {"logits": super().forward(x), "shape": x.shape}

    for name in ("params", "flops", "naswot"):
        assert rank_value(name, TwoHeads(), batch[0]) > -math.inf


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("layer", SEQUENCE_LAYERS)
def test_networks_of_tokens_have_the_value_of_the_cpu_on_a_gpu(layer, batch):
    torch.manual_seed(0)
    model = OfTokens(SEQUENCE_LAYERS[layer][0]()).double()
    names = [name for name in BUILT_IN if name not in ("jacob_cov", "naswot")]
    expected = {name: score(name, model, TOKENS, batch[1]) for name in names}
    model = model.cuda()
    for name in names:
        assert score(name, model, TOKENS.cuda(), batch[1].cuda()) == pytest.approx(expected[name], rel=1e-9), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_gpu_gives_the_value_of_the_cpu_and_keeps_its_generator(name, batch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).double()
    inputs, targets = batch[0].double(), batch[1]
    expected = score(name, model, inputs, targets)
    state = torch.cuda.get_rng_state()
    assert score(name, model.cuda(), inputs.cuda(), targets.cuda()) == pytest.approx(expected, rel=1e-9)
    assert torch.equal(torch.cuda.get_rng_state(), state)
