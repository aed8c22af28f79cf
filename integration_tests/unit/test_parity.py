"""The package's own code replays the reference vectors, and a changed number is noticed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

PARITY = Path(__file__).resolve().parents[1] / "parity.py"
FAMILY = "gdas drnas snas_dsnas sdarts gaea parsec pcdarts mergenas dropnas proxyless early_stop pdarts"
SPACES = "nb1shot1_supernet nb1shot1_discretise rnn"
FILES = (
    "vadam",
    "architect",
    *(f"family/{name}" for name in FAMILY.split()),
    *(f"spaces/{name}" for name in SPACES.split()),
)


@pytest.fixture(scope="module")
def parity():
    spec = importlib.util.spec_from_file_location("parity", PARITY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", FILES)
def test_every_section_is_replayed(parity, parity_dir, name):
    found = dict(parity.lines(parity_dir / f"{name}.json"))
    assert {section for section, off in found.items() if off is None} == set()
    assert all(off <= 1e-9 for off in found.values() if off is not None)


def test_the_recipes_are_replayed(parity):
    found = dict(parity.lines(PARITY.parent / "replays" / "recipes.json"))
    assert found.keys() == {"learning_rate", "drop_path"}
    assert max(found.values()) <= 1e-9


def test_the_proxies_are_replayed(parity, parity_dir, tmp_path):
    """One network of the file; all of them, and second derivatives of large ones, take minutes."""
    document = json.loads((parity_dir / "proxies.json").read_text())
    small = {name: document["archs"][name] for name in ("all_skip",)}
    for name in ("proxies_weights.pt", "proxies_batch.pt"):
        (tmp_path / name).symlink_to(parity_dir / name)
    (tmp_path / "proxies.json").write_text(json.dumps({"archs": small}))
    assert dict(parity.lines(tmp_path / "proxies.json"))["archs"] <= 1e-9


SMALL = {
    "darts_supernet": lambda d: {"discretise": d["discretise"]},
    "robustdarts_supernet": lambda d: {"discretise": d["discretise"], "supernet": {"s1": d["supernet"]["s1"]}},
    "darts_eval": lambda d: {
        "counts": {"NASNet": d["counts"]["NASNet"]},
        "tiny": {"NASNet/cifar": d["tiny"]["NASNet/cifar"]},
    },
}
"""File of a space -> the part of it that takes seconds; the whole of each takes half a minute."""


@pytest.mark.parametrize("name", SMALL)
def test_the_spaces_are_replayed(parity, parity_dir, tmp_path, name):
    document = SMALL[name](json.loads((parity_dir / "spaces" / f"{name}.json").read_text()))
    (tmp_path / f"{name}.pt").symlink_to(parity_dir / "spaces" / f"{name}.pt")
    (tmp_path / f"{name}.json").write_text(json.dumps(document))
    found = dict(parity.lines(tmp_path / f"{name}.json"))
    assert set(found) == set(document)
    assert all(off <= 1e-9 for off in found.values())


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("vadam", ("cases", "A_author_M3_noise", "steps", 4, "mu", 2)),
        ("vadam", ("newton_form_eq17_18", "M1_noise", "steps", 3, "s", 0)),
        ("architect", ("runs", "darts_second", 1, "alpha_grad_final", 3)),
        ("architect", ("runs", "hessian", "H", 0, 0)),
        ("architect", ("runs", "darts_second", 2, "hvp_calls", 0, "R")),
        ("family/gdas", ("search", "steps", 1, "index_arch_step", 0)),
        ("family/drnas", ("search_l2", "steps", 1, "mixing_weights_arch_step", 0, 0)),
        ("family/gdas", ("search", "steps", 2, "alpha", 0, 1)),
        ("family/gdas", ("sampling", 0, "grad_hardwts", 0, 0)),
        ("family/drnas", ("search_kl", "steps", 0, "eta_grad", 0, 0)),
        ("family/drnas", ("pathwise_gradient_masked", 0, "eta_grad", 0)),
        ("family/sdarts", ("pgd_perturbations", 4, "losses_in_order", 3)),
        ("family/sdarts", ("search_adv_clipped", "steps", 5, "W", 1, 2, 0, 0)),
        ("family/snas_dsnas", ("snas", "rows", 0, "z", 0, 0)),
        ("family/snas_dsnas", ("dsnas", "steps", 3, "log_alpha_grad", 1, 0)),
        ("family/parsec", ("cases", 0, "steps", 4, "importance_weights", 2)),
        ("family/parsec", ("cases", 1, "steps", 5, "grad_v", 1, 1)),
        ("family/drnas", ("partial_cell", "momentum_after_widening", "edges.3<-2.3.op.1.weight", 3, 3, 0, 0)),
        ("family/pcdarts", ("mixed_op", 1, "grad_weights", 3)),
        ("family/pcdarts", ("search", "steps", 6, "arch_parameters", "betas_reduce", 4)),
        ("family/mergenas", ("merge_sep_conv", 1, "rows", 1, "grad_logits", 3)),
        ("family/mergenas", ("nasbench201", "rows", 4, "output", 1, 1, 4, 4)),
        ("family/proxyless", ("sequences", 4, "steps", 6, "alpha_after", 1, 2)),
        ("family/proxyless", ("sequences", 1, "steps", 3, "alpha_grad_from_latency_only", 0, 1)),
        ("family/gaea", ("cases", 1, "steps", 5, "after", "theta", "reduce", 8, 4)),
        ("family/gaea", ("projection", "rows", 1, "output", 2)),
        ("spaces/nb1shot1_discretise", ("space_3", 5, "adjacency", 0, 6)),
        ("family/early_stop", ("darts_es", 2, "rows", 20, "ev_local_avg", 3)),
        ("family/early_stop", ("darts_plus", 0, "rows", 3, "epochs_unchanged")),
        ("family/pdarts", ("cases", 1, "stages", 1, "ops_kept_reduce", 5, 1)),
        ("family/pdarts", ("dropout_schedule", "stages", 2, "epochs", 12, "dropout_p")),
    ],
)
def test_a_changed_number_is_noticed(parity, parity_dir, tmp_path, capsys, name, path):
    document = json.loads((parity_dir / f"{name}.json").read_text())
    *above, last = path
    place = document
    for key in above:
        place = place[key]
    place[last] += 1e-4
    file = tmp_path / f"{name.rpartition('/')[2]}_heldout_1.json"
    file.write_text(json.dumps(document))
    assert parity.main([str(file)]) == 1
    assert f"  {path[0]} " in capsys.readouterr().out


def test_unknown_sections_and_damaged_files_are_said(parity, tmp_path, capsys):
    (tmp_path / "gdas_heldout.json").write_text('{"doc": "x", "novelty": [1]}')
    (tmp_path / "nothing.v2.json").write_text('{"doc": "x", "novelty": [1]}')
    assert parity.main([str(tmp_path / "gdas_heldout.json"), str(tmp_path / "nothing.v2.json")]) == 0
    assert capsys.readouterr().out.count("  unknown: novelty") == 2
    (tmp_path / "gdas.json").write_text('{"tau_schedule": [{"tau": [1.0]}]}')
    assert parity.main([str(tmp_path / "gdas.json")]) == 1
    assert "tau_schedule cannot be replayed: KeyError" in capsys.readouterr().out


def test_runs_of_more_draws_are_replayed_and_those_of_other_methods_named(parity, parity_dir, tmp_path, capsys):
    document = json.loads((parity_dir / "architect.json").read_text())
    (first,) = (document["runs"][name] for name in ("vadam_first_M1",))
    document["runs"] = {"vadam_first_M3": first, "something_else": []}
    (tmp_path / "architect_heldout_3.json").write_text(json.dumps(document))
    assert parity.main([str(tmp_path / "architect_heldout_3.json")]) == 1  # three draws are not one
    assert "unknown: runs/something_else" in capsys.readouterr().out
