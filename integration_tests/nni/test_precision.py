"""The network computes in 16 bits, the posterior does not."""

from __future__ import annotations

import pytest
import torch

from balenas_plugin.errors import EvaluatorError

from .searches import classification, prepare
from .spaces import Layers


@pytest.mark.parametrize("order", ["first", "second"])
def test_bf16_mixed_keeps_the_posterior_in_float32(order, tmp_path):
    strategy = prepare(
        Layers(), classification(tmp_path, precision="bf16-mixed", max_epochs=2), num_mc_samples=2, order=order
    )
    module, seen, noises = strategy.oneshot_module, set(), set()
    strategy.supernet.head.register_forward_hook(lambda layer, inputs, output: seen.add((output.dtype, layer.training)))
    strategy.supernet.op.register_forward_pre_hook(lambda *_: noises.update(a.dtype for a in module.arch_parameters()))
    strategy.run()
    assert (torch.bfloat16, True) in seen
    assert noises == {torch.float32}
    for alpha in module.arch_parameters():
        assert alpha.dtype == torch.float32
        for name, value in module.distribution.optimizer.state[alpha].items():
            assert name == "step" or value.dtype == torch.float32, name
    assert all(value.dtype == torch.float32 for value in strategy.supernet.state_dict().values())
    assert all((precision > 1).any() for precision in strategy.posterior.precision.values())


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_16_bits_for_everything_is_refused(precision, tmp_path):
    strategy = prepare(Layers(), classification(tmp_path, precision=precision))
    with pytest.raises(EvaluatorError, match="use bf16-mixed"):
        strategy.run()
