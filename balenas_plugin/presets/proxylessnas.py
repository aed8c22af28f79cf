"""ProxylessNAS."""

from balenas_plugin.presets._preset import Preset

PROXYLESSNAS = Preset(
    name="ProxylessNAS",
    distribution="binary-gates",
    options={
        "first": "weights",
        "architecture_every": 5,
        "weight_step_alpha": "sample",
        "warmup_epochs": 1,
        "arc_learning_rate": 1e-3,
    },
    summary="Open one binary gate a choice, and learn from what the closed ones would have added.",
    source="Cai, Zhu and Han 2019, ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware",
    notes="As the reference's code, whose architecture steps begin in the second epoch. Its 40 epochs of warm-up "
    "before its 120 are warmup_epochs: 41 here, without a learning-rate schedule of their own; its latency term is "
    "cost: {name: latency, ...}. Its code draws with full_v2, the paper describes two paths: mode: two.",
)
