"""What schedules ask for, and what they refuse; the numbers of their papers are replayed (`replays`)."""

from __future__ import annotations

import math

import pytest
import torch

from balenas_plugin.bayes.decisions import OneOf
from balenas_plugin.distributions import get_distribution
from balenas_plugin.errors import FileFormatError, OptionError
from balenas_plugin.mixed_ops.merged_convolutions import MergedConvolutions
from balenas_plugin.mixed_ops.partial_channels import PartialChannels
from balenas_plugin.schedules import Anew, Keep, Lower, Schedule, Seen, Stop, Widen, list_schedules, schedule_of
from balenas_plugin.search import Order, Search
from balenas_plugin.search_spaces import NONE, PARAMETRIC, SKIP

from .distribution_members import MEMBERS, every_member

KINDS = {f"cell/{k}": [NONE, SKIP, PARAMETRIC, PARAMETRIC, PARAMETRIC] for k in range(4)}
DECISIONS = [OneOf(label, tuple("nsabc")) for label in KINDS]
OPTIONS = {"darts-es": {"every": 1, "window": 1, "delta": 1, "start": 0}, "darts-plus": {"criterion": "ranking"}}
"""Of schedules that would not do anything in a few epochs; every schedule is searched with below."""


def seen(epoch, scores, **more):
    return Seen(epoch=epoch, scores=scores, decisions=DECISIONS, kinds=KINDS, **more)


def distribution_of(name="point"):
    torch.manual_seed(0)
    return get_distribution(name)({label: torch.randn(5).double() for label in KINDS}, **MEMBERS[name])


def run(schedule, distribution, part=range(6)):
    """Return the edits of a search of 6 epochs, or of a part of it, made on the distribution."""
    edits = list(schedule.begin(6, KINDS, 6))
    for epoch in part:
        found = schedule.after(seen(epoch, distribution.scores(), last=epoch == 5, eigenvalue=1.0 + epoch))
        for edit in found:
            for label, value in getattr(edit, "labels", {}).items():
                (distribution.keep if isinstance(edit, Keep) else distribution.lower)(label, value)
        schedule.made(epoch, found)
        edits += found
    return edits


@every_member
def test_every_distribution_is_pruned_in_stages(name):
    """P-DARTS's numbers for five operations; in the end no "none", and two skip connections at most."""
    distribution = distribution_of(name)
    for label in KINDS:
        distribution.parameters[label][1] += 9  # skip connections everywhere
    edits = run(schedule_of("p-darts"), distribution)
    assert [type(edit) for edit in edits] == [Anew, Anew, Keep, Anew, Keep, Lower, Keep]
    assert [edit.depth for edit in edits if isinstance(edit, Anew)] == [2, 4, 6]
    assert [str(edit) for edit in edits if isinstance(edit, Keep)][:2] == ["3 choices kept", "2 choices kept"]
    chosen = [int(scores.argmax()) for scores in distribution.scores().values()]
    assert chosen.count(1) == 2
    assert 0 not in chosen
    for weights in distribution.mean().weights.values():
        assert float(weights.detach().sum()) == pytest.approx(1)
        assert int((weights > 0).sum()) <= 2


@pytest.mark.parametrize("name", ["point", "dirichlet"])
def test_labels_compare_by_probability_after_the_last_epoch(name):
    """Also when "none" is dropped then: the others are not raised."""
    distribution = distribution_of(name)
    before = {label: scores.softmax(-1) for label, scores in distribution.scores().items()}
    for label, scores in distribution.scores().items():
        distribution.lower(label, float(scores.logsumexp(-1)))
        distribution.keep(label, [1, 2, 3, 4])
    again = distribution_of(name)
    for label, parameter in distribution.parameters.items():
        again.parameters[label].copy_(parameter)
    again.load_state_dict(distribution.state_dict())
    for label, scores in again.scores().items():
        torch.testing.assert_close(scores.exp()[1:], before[label][1:])
    state = {key: value for key, value in distribution.state_dict().items() if key != "levels"}
    again.load_state_dict(state)  # of an earlier version


def test_two_operations_are_searched_in_every_stage():
    kinds = {"a": [SKIP, PARAMETRIC], "b": [SKIP, PARAMETRIC, PARAMETRIC]}
    schedule = schedule_of("p-darts")
    schedule.begin(3, kinds, None)
    scores = {label: torch.arange(float(len(each))) for label, each in kinds.items()}
    for stage in (0, 1):
        _, kept = schedule.after(Seen(epoch=stage, scores=scores, kinds=kinds))
        assert kept.labels == {"a": [0, 1], "b": [1, 2]}


def test_drnas_prunes_and_widens():
    edits = run(schedule_of({"name": "drnas-progressive", "channels": [4, 2, 1], "kept": [4, 2]}), distribution_of())
    assert [str(edit) for edit in edits] == [
        "4 choices kept",
        "operations widened to 1/2 of the channels",
        "2 choices kept",
        "operations widened to all channels",
    ]


def test_the_architecture_is_frozen_at_the_start_of_each_stage():
    schedule = schedule_of({"name": "drnas-progressive", "frozen_epochs": 2})
    schedule.begin(7, KINDS, None)
    search = Search(distribution_of(), Order(warmup_epochs=3), mixed_op=PartialChannels(), schedule=schedule)
    assert schedule.describe() == "schedule drnas-progressive: stages of 4, 3 epochs, frozen for the first 2, 2"
    assert [search.learns(epoch) for epoch in range(7)] == [False, False, False, True, False, False, True]


def test_none_alone_is_never_kept():
    scores = dict.fromkeys(KINDS, torch.tensor([9.0, 1.0, 2.0, 0.0, 0.0]))
    schedule = schedule_of({"name": "p-darts", "kept": [1, 1]})
    schedule.begin(3, KINDS, None)
    _, kept = schedule.after(seen(0, scores))
    assert list(kept.labels.values()) == [[2]] * 4


def test_a_limit_that_cannot_be_kept_ends():
    distribution = distribution_of()
    for label in KINDS:
        distribution.keep(label, [0, 1])
    schedule = schedule_of({"name": "p-darts", "skip_limit": 0})
    schedule.begin(3, KINDS, None)
    _, kept = schedule.after(seen(2, distribution.scores(), last=True))
    assert list(kept.labels.values()) == [[1]] * 4


def test_darts_plus_counts_skips_of_normal_cells():
    scores = dict.fromkeys(KINDS, torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0]))
    assert schedule_of("darts-plus").after(seen(0, scores)) == (Stop("a cell has 4 skip connections"),)
    reducing = [
        OneOf(label.replace("cell", "reduce"), decision.values)
        for label, decision in zip(KINDS, DECISIONS, strict=True)
    ]
    renamed = {d.label: s for d, s in zip(reducing, scores.values(), strict=True)}
    one = Seen(epoch=0, scores=renamed, decisions=reducing, kinds={d.label: KINDS["cell/0"] for d in reducing})
    assert schedule_of("darts-plus").after(one) == ()
    loose = [OneOf(label.replace("/", ""), decision.values) for label, decision in zip(KINDS, DECISIONS, strict=True)]
    kinds = {d.label: KINDS["cell/0"] for d in loose}
    outside = Seen(epoch=0, scores=dict.fromkeys(kinds, scores["cell/0"]), decisions=loose, kinds=kinds)
    assert schedule_of("darts-plus").after(outside) == ()


@pytest.mark.parametrize("name", ["darts-es", "darts-plus"])
def test_nothing_stops_in_the_warm_up_nor_goes_back_to_it(name):
    options = {"darts-es": {"window": 2}, "darts-plus": {"window": 1}}[name]
    schedule = schedule_of({"name": name, **OPTIONS[name], **options})
    stops = {}
    for epoch in range(9):
        found = schedule.after(seen(epoch, distribution_of().scores(), learned_since=4, eigenvalue=2.0**epoch))
        stops |= {epoch: found[0].epoch} if found else {}
    assert min(stops) == {"darts-es": 6, "darts-plus": 5}[name]
    assert name == "darts-plus" or min(stops.values()) >= 4


@pytest.mark.parametrize("name", list_schedules())
def test_resumed_equals_uninterrupted(name, tmp_path):
    def made(given):
        schedule = schedule_of({"name": name, **OPTIONS.get(name, {})})
        search = Search(distribution_of(), Order(), mixed_op=PartialChannels(), schedule=schedule)
        if given is not None:
            search.load_state_dict(given)
        return search

    whole, first = made(None), made(None)
    run(whole.schedule, whole.distribution)
    run(first.schedule, first.distribution, range(3))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    again = made(torch.load(tmp_path / "state.pt", weights_only=True))
    run(again.schedule, again.distribution, range(3, 6))
    assert again.schedule.state_dict() == whole.schedule.state_dict()
    assert all(torch.equal(m, whole.distribution.mask[label]) for label, m in again.distribution.mask.items())


def test_a_state_of_another_schedule_is_refused():
    plain, es = (Search(distribution_of(), Order(), schedule=schedule_of(s)) for s in (None, "darts-es"))
    with pytest.raises(FileFormatError, match="whose schedule is 'darts-es', and that of this one is none"):
        plain.load_state_dict(es.state_dict())
    with pytest.raises(FileFormatError, match="whose schedule is none, and that of this one is 'darts-es'"):
        es.load_state_dict(plain.state_dict())


def test_networks_are_as_deep_as_all_choices_need():
    schedule = schedule_of("p-darts")
    schedule.least_depth = 3
    assert schedule.begin(6, KINDS, 5) == (Anew(3),)
    assert schedule.depths == [3, 3, 5]
    given = schedule_of({"name": "p-darts", "depths": [2, 3, 5]})
    given.least_depth = 3
    with pytest.raises(OptionError, match="below 3 the space lacks some of its choices"):
        given.begin(6, KINDS, 5)


@pytest.mark.parametrize(
    ("given", "epochs", "depth", "message"),
    [
        ({"name": "p-darts", "stage_epochs": [9, 1, 1]}, 6, 6, r"are 11 epochs in all, but the search has 6"),
        ({"name": "p-darts", "stage_epochs": [9, 1]}, 6, 6, r"stage_epochs must have 3 numbers for 3 stages"),
        ({"name": "p-darts"}, 2, 6, "3 stages need as many epochs at least, but the search has 2"),
        ({"name": "p-darts"}, -1, 6, "the search must have a last one"),
        ({"name": "p-darts", "frozen_epochs": 2}, 6, 6, "less than the epochs of the shortest stage, 2, .* got 2"),
        ({"name": "p-darts", "kept": [6, 2]}, 6, 6, "kept must be at most 5, the number of operations"),
        ({"name": "p-darts", "kept": [2, 3]}, 6, 6, "kept must not grow"),
        ({"name": "p-darts", "depths": [1, 2, 3]}, 6, None, "the space cannot be made deeper"),
        ({"name": "p-darts", "depths": [1, 2]}, 6, 6, "depths must have 3 numbers"),
        ({"name": "drnas-progressive", "channels": [4, 4]}, 6, 6, "channels must fall from stage to stage"),
        ({"name": "drnas-progressive", "channels": [4, 2, 1]}, 6, 6, "kept must be given for 3 stages"),
        ("darts-e", 6, 6, "did you mean 'darts-es'"),
        (3, 6, 6, "schedule must be one of darts-es, .* or a mapping of such a name and options, got 3"),
        ({"name": "darts-es", "patience": 3}, 6, 6, "the schedule darts-es has no option 'patience'"),
    ],
)
def test_what_does_not_fit_is_refused(given, epochs, depth, message):
    with pytest.raises(OptionError, match=message):
        schedule_of(given).begin(epochs, KINDS, depth)


@pytest.mark.parametrize(
    ("name", "mixed_op", "message"),
    [
        ("drnas-progressive", PartialChannels(k=2), "widens partial channels from k=4 on"),
        ({"name": "drnas-progressive", "channels": (6, 4)}, PartialChannels(), "from k=6 on"),
        (
            "p-darts",
            MergedConvolutions(),
            "drops candidates one by one, and merged-convolutions computes them together",
        ),
    ],
)
def test_parts_that_do_not_go_together_are_refused(name, mixed_op, message):
    with pytest.raises(OptionError, match=message):
        Search(distribution_of(), Order(), mixed_op=mixed_op, schedule=schedule_of(name))


def test_a_schedule_of_ones_own():
    """As docs/extending.md asks for one."""

    class Halving(Schedule):
        name = "halving"
        source = "a test"

        def after(self, seen):
            return (Keep({label: [0, 1] for label in seen.scores}), Widen(2)) if seen.epoch == 1 else ()

    schedule = schedule_of(Halving)
    assert run(schedule, distribution_of()) == [Keep({label: [0, 1] for label in KINDS}), Widen(2)]
    assert [str(edit) for _, edit in schedule.log] == ["2 choices kept", "operations widened to 1/2 of the channels"]
    assert math.isclose(schedule.skip_dropout(0), 0)
