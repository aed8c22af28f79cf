"""Tables of a reproduction: what they need, how they are counted, what they say."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from scipy import stats

from balenas_plugin import machine
from balenas_plugin.bayes import Posterior
from balenas_plugin.bayes.decisions import Architectures
from balenas_plugin.errors import OptionError, SearchFailedError
from balenas_plugin.reproduce import searches
from balenas_plugin.reproduce.experiments import DATASETS, EXPERIMENTS, Experiment, Pick, Row
from balenas_plugin.reproduce.picks import COLUMNS, Picker
from balenas_plugin.reproduce.progress import Progress
from balenas_plugin.reproduce.run import experiment_of, seeds_of
from balenas_plugin.reproduce.scales import SCALES, ProxyNetworks, load_scale, merged
from balenas_plugin.reproduce.searches import Search, run_searches, searches_of
from balenas_plugin.reproduce.tables import Table, compare
from balenas_plugin.run_folder import RunFolder
from balenas_plugin.search_spaces import nasbench201
from balenas_plugin.selection.candidates import drawn_candidates, enumerated_candidates
from balenas_plugin.signals import PARENT_VARIABLE

ALARM = "balenas: epoch 7: 67% of the chosen operations are skip connections: the search is collapsing.\n"
TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n    f(\n    ^^\n'


def accuracies(value: float) -> dict[str, float]:
    return dict.fromkeys(COLUMNS, value)


ONE = {0: accuracies(93.0), 1: accuracies(94.0), 2: accuracies(93.5)}
OTHER = {0: accuracies(91.0), 1: accuracies(91.5), 2: accuracies(92.5), 3: accuracies(10.0)}


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_has_a_valid_config_for_every_search(scale: str) -> None:
    loaded = load_scale(scale)
    needed = {row.search for experiment in EXPERIMENTS.values() for row in experiment.rows if row.search}
    assert needed == set(loaded.searches)
    for search in needed:
        config = loaded.config(search, seed=7)
        assert (config.name, config.seed) == (search, 7)


@pytest.mark.parametrize("scale", SCALES)
def test_methods_get_equal_budgets(scale: str) -> None:
    """The same data, network and training for all; only the run that is longer on purpose differs."""
    configs = {name: load_scale(scale).config(name, 0) for name in load_scale(scale).searches}
    long = configs.pop("darts-long")
    first = configs["darts"]
    for config in configs.values():
        assert (config.space, config.data, config.evaluator) == (first.space, first.data, first.evaluator)
    assert long.evaluator.epochs >= 2 * first.evaluator.epochs
    assert long.strategy == first.strategy
    draws = [configs[name].strategy["num_mc_samples"] for name in ("balenas-m1", "balenas-m2", "balenas", "balenas-m4")]
    assert draws == [1, 2, 3, 4]
    assert configs["balenas-2nd"].strategy["order"] == "second"


def test_a_scale_of_the_users_own(tmp_path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text("common: {data: {name: digits}}\nsearches: {darts: {strategy: DARTS, evaluator: {epochs: 2}}}\n")
    scale = load_scale(str(path))
    assert (scale.name, scale.config("darts", 1).evaluator.epochs) == ("mine", 2)
    with pytest.raises(OptionError, match="has no search 'dart'; did you mean 'darts'"):
        scale.config("dart", 0)
    with pytest.raises(OptionError, match="did you mean 'small'"):
        load_scale("smal")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("", "must hold a mapping with the keys common, searches, proxy_networks"),
        ("commen: {}", "did you mean 'common'"),
        ("common: [1]", r"common must be a mapping of options, got \[1\]"),
        ("searches: null", "searches must be a mapping of options, got None"),
        ("searches: {}", "has no searches: name at least one"),
        ("common: {}", "has no searches: name at least one"),
        ("searches: {balenas: null}", "balenas must be a mapping of options, got None"),
        ("{searches: {darts: {}}, proxy_networks: null}", "proxy_networks must be a mapping"),
        ("{searches: {darts: {}}, proxy_networks: {channels: abc}}", "channels must be a whole number of at least 1"),
    ],
)
def test_a_malformed_scale_is_refused(tmp_path, document: str, message: str) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(document)
    with pytest.raises(OptionError, match=message):
        load_scale(str(path))


@pytest.mark.parametrize(
    ("threads", "cores", "gibibytes", "accelerator", "jobs"),
    [
        (1, 2, 16, False, 2),
        (1, 8, 5, False, 2),
        (4, 9, 64, False, 2),
        (4, 2, 64, False, 1),
        (1, 2, 1, False, 1),
        (1, 8, 64, True, 1),
        ("null", 8, 64, False, 1),
    ],
    ids=["cores", "memory", "threads", "few cores", "little memory", "GPU", "the scale does not say"],
)
def test_as_many_searches_at_a_time_as_the_machine_has_room_for(
    tmp_path, monkeypatch, threads, cores, gibibytes, accelerator, jobs
) -> None:
    pages = {"SC_PHYS_PAGES": gibibytes << 18, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(machine, "cores", lambda: cores)
    monkeypatch.setattr(machine.os, "sysconf", pages.__getitem__, raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
    path = tmp_path / "mine.yml"
    path.write_text(f"common: {{threads: {threads}}}\nsearches: {{darts: {{strategy: DARTS}}}}\n")
    assert load_scale(str(path)).jobs == jobs


def test_mappings_are_merged_at_every_depth() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merged(base, {"a": {"c": 4}, "e": 5}) == {"a": {"b": 1, "c": 4}, "d": 3, "e": 5}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}


def test_seeds() -> None:
    assert seeds_of("0-3") == [0, 1, 2, 3]
    assert seeds_of("5") == [5]
    assert seeds_of("0,2, 7-9,2") == [0, 2, 7, 8, 9]
    for bad in ("", "a", "3-1", "1-", "-2", "\N{SUPERSCRIPT TWO}"):
        with pytest.raises(OptionError, match="--seeds wants"):
            seeds_of(bad)


def test_methods_choose_rows_and_the_pairs_among_them() -> None:
    some = experiment_of("table1", ["darts", "balenas"])
    assert {row.method for row in some.rows} == {"darts", "balenas"}
    assert ("BaLeNAS 1st", "DARTS 1st") in some.pairs
    assert not any("GumbelDARTS" in pair for pair in some.pairs)
    with pytest.raises(OptionError, match="has no method 'balnas'; did you mean 'balenas'"):
        experiment_of("table1", ["balnas"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("balenas-tf", r"'balenas-tf': it is .*BaLeNAS-TF \(100\).*, which come with --methods balenas\."),
        ("BaLeNAS-TF (1,000)", r"which come with --methods balenas\. Its methods: darts, "),
        ("zero-cost-nas", r"which come with --methods zero-cost\."),
        ("DARTS 2nd", "did you mean 'darts-2nd'"),
        ("DARTS", "did you mean 'darts'"),
    ],
)
def test_the_name_of_a_row_in_the_place_of_its_method(given: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        experiment_of("table1", [given])


def test_pairs_name_rows() -> None:
    for experiment in EXPERIMENTS.values():
        titles = [row.title for row in experiment.rows]
        assert len(set(titles)) == len(titles)
        assert {title for pair in experiment.pairs for title in pair} <= set(titles)


def test_the_paired_test_uses_common_seeds() -> None:
    found = compare("one", "other", "cifar10", ONE, OTHER)
    differences = [2.0, 2.5, 1.0]
    assert found.seeds == 3
    assert found.difference == pytest.approx(sum(differences) / 3)
    assert found.standard_error == pytest.approx(stats.sem(differences))
    assert found.p_value == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)


def test_one_seed_or_no_variation_has_no_p_value() -> None:
    single = compare("one", "other", "cifar10", {0: accuracies(93.0)}, OTHER)
    assert (single.standard_error, single.p_value, single.seeds) == (None, None, 1)
    same = compare("one", "one", "cifar10", ONE, ONE)
    assert (same.difference, same.standard_error, same.p_value) == (0.0, 0.0, None)


@pytest.fixture
def table() -> Table:
    rows = [
        Row("one", "one", Pick(), "one", {"cifar10": (94.0, 0.1)}),
        Row("other", "other", Pick(), "other"),
        Row("absent", "absent", Pick(), "absent"),
    ]
    experiment = Experiment("example", "An example", rows, [("one", "other"), ("one", "absent")])
    return Table(experiment, {"one": ONE, "other": OTHER, "absent": {}}, {"scale": "tiny"})


def test_markdown_has_means_deviations_and_the_paper(table: Table) -> None:
    lines = table.markdown().splitlines()
    row = next(line for line in lines if line.startswith("| one |"))
    assert "| 3 | 93.50_±_0.50 |".replace("_", "\N{NO-BREAK SPACE}") in row
    assert row.endswith("| 94.00_±_0.10 |".replace("_", "\N{NO-BREAK SPACE}"))
    assert "not run" in next(line for line in lines if line.startswith("| absent |"))
    assert sum(line.startswith("| one - other |") for line in lines) == len(DATASETS)
    assert not any(line.startswith("| one - absent |") for line in lines)
    assert "- scale: tiny" in lines


def test_csv_and_json_hold_every_seed(table: Table, tmp_path) -> None:
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert [(row["row"], row["seed"]) for row in rows] == [
        *(("one", str(seed)) for seed in range(3)),
        *(("other", str(seed)) for seed in range(4)),
    ]
    assert float(rows[0]["cifar10"]) == 93.0
    names = {path.name for path in table.write(tmp_path)}
    assert names == {"example.md", "example.csv", "example.json"}
    assert [path.name for path in replace(table, name="mine").write(tmp_path)] == ["mine.md", "mine.csv", "mine.json"]
    document = json.loads((tmp_path / "example.json").read_text())
    assert document["rows"][0]["seeds"]["1"]["cifar100"] == 94.0
    assert document["comparisons"][0]["seeds"] == 3
    assert math.isclose(document["comparisons"][0]["difference"], 5.5 / 3)


def test_a_failure_is_told_by_what_the_last_attempt_logged(tmp_path, monkeypatch) -> None:
    """A double of the search's process, which is killed before it can say anything of its own."""
    (search,) = searches_of(tmp_path, [load_scale("small").config("darts", 0)])
    search.log.parent.mkdir(parents=True)
    search.log.write_text("balenas: cannot write x: disk full\n")
    script = f"open({str(search.log)!r}, 'a').write('Out of memory'); raise SystemExit(137)"
    monkeypatch.setattr(searches, "_start", lambda _: subprocess.Popen([sys.executable, "-c", script]))
    with pytest.raises(SearchFailedError, match="darts seed 0 failed and said: Out of memory"):
        run_searches([search], jobs=1)


@pytest.mark.parametrize(
    ("log", "code", "said"),
    [
        (f"{ALARM}{TRACEBACK}RuntimeError: CUDA error: out of memory\nHint\n", 1, "CUDA error: out of memory ("),
        (f"{TRACEBACK}KeyError: 1\nballast\n{ALARM}search:  9%|# | 1/9\nbalenas: disk full\n", 2, "said: disk full ("),
        (f"balenas: hint\n{TRACEBACK}zipfile.BadZipFile: x\n{ALARM}", 1, "said: zipfile.BadZipFile: x ("),
        (f"{ALARM}search:  9%|# | 1/9\n", -9, "said: nothing (it was ended by SIGKILL, as a system does that is out"),
        ("Fatal Python error: Segmentation fault\n\nThread 0x1:\n", -11, "fault (it was ended by SIGSEGV; all"),
        (f"{ALARM}terminate called after throwing std::bad_alloc\n", -6, "bad_alloc (it was ended by SIGABRT; all"),
        (ALARM, 3, "said: nothing (all of it"),
    ],
    ids=["traceback", "message", "other exception", "killed", "crashed", "aborted", "silent"],
)
def test_an_alarm_is_not_told_as_the_reason(log: str, code: int, said: str, tmp_path) -> None:
    (search,) = searches_of(tmp_path, [load_scale("small").config("darts", 0)])
    search.log.parent.mkdir(parents=True)
    search.log.write_text("balenas: of an earlier attempt\n" + log)
    told = searches._failure(search, len("balenas: of an earlier attempt\n"), code)
    assert said in told
    assert "collapsing" not in told


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watched(stream: io.StringIO, now: list[float], *, jobs: int) -> Progress:
    epochs = {("darts", 0): 10, ("darts-2nd", 0): 10, ("darts", 1): 10, ("darts-2nd", 1): 10}
    done = {**dict.fromkeys(epochs, 0), ("darts", 0): 4}
    return Progress(epochs, done, jobs=jobs, stream=stream, clock=lambda: now[0])


def test_the_time_that_is_left_counts_each_kind_of_search_by_its_own_epochs() -> None:
    now = [0.0]
    progress = watched(io.StringIO(), now, jobs=2)
    for search in (("darts", 0), ("darts-2nd", 0)):
        progress.started(search)
    assert progress.seconds_left() is None
    now[0] = 120
    progress.reached(("darts", 0), 6)  # two epochs of this session: a minute each
    assert progress.seconds_left() == (4 + 10 + 10 + 10) * 60 / 2  # the others are not known better
    progress.reached(("darts-2nd", 0), 1)  # 120 s an epoch
    assert progress.seconds_left() == (4 * 60 + 9 * 120 + 10 * 60 + 10 * 120) / 2
    now[0] = 360
    progress.ended(("darts", 0), well=True)
    assert progress.seconds_left() == (9 * 120 + 10 * 60 + 10 * 120) / 2
    progress.started(("darts", 1))
    progress.ended(("darts", 1), well=False)  # nothing of it is left
    assert progress.seconds_left() == 10 * 120  # the longest, which cannot be divided


def test_one_long_search_is_not_divided_among_jobs() -> None:
    now = [0.0]
    progress = Progress({("a", 0): 11}, {("a", 0): 0}, jobs=4, stream=io.StringIO(), clock=lambda: now[0])
    progress.started(("a", 0))
    now[0] = 10
    progress.reached(("a", 0), 1)
    assert progress.seconds_left() == 100


def test_a_file_gets_one_line_a_finished_search_and_a_terminal_a_bar() -> None:
    for stream in (io.StringIO(), Terminal()):
        now = [0.0]
        with watched(stream, now, jobs=1) as progress:
            progress.started(("darts", 0))
            for epoch in range(5, 11):
                now[0] += 600
                progress.reached(("darts", 0), epoch)
            progress.ended(("darts", 0), well=True)
            progress.started(("darts", 1))
            progress.ended(("darts", 1), well=False)
        text = stream.getvalue()
        lines = ["searches: darts seed 0 finished, 1 of 4, about 5 h 0 min left"]
        lines.append("searches: darts seed 1 failed, 2 of 4, about 3 h 20 min left")
        if not stream.isatty():
            assert text.splitlines() == lines
        assert all(line in text for line in lines)
    assert "| 10/40 epochs" in text
    assert "about 5 h 50 min left, darts seed 0" in text


def test_a_process_ends_when_its_parent_has_ended() -> None:
    script = "from balenas_plugin.signals import end_with_parent; import time; end_with_parent(); print(flush=True)"
    command = [sys.executable, "-c", f"{script}; time.sleep(60)"]
    environment = {**os.environ, PARENT_VARIABLE: "stdin"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        assert process.poll() is None
        process.stdin.close()  # as the system does when the parent is killed
        assert process.wait(30) == -signal.SIGTERM


# -- picks ------------------------------------------------------------------------------------------------------------


class Truth:
    """A benchmark that knows one accuracy of every architecture: its number of 3x3 convolutions."""

    space = "nasbench201"

    def query(self, architecture: str, dataset: str, metric: str) -> float:
        return float(architecture.count("nor_conv_3x3"))


class Network(torch.nn.Module):
    """Gets right as many of 12 images as its architecture has skip connections."""

    def __init__(self, sample: dict[str, str]) -> None:
        super().__init__()
        self.right = sum(choice == "skip_connect" for choice in sample.values())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        wrong = torch.arange(len(images)) >= self.right
        return torch.nn.functional.one_hot(wrong.long(), 2).float()


class SkipLovingSupernet:
    def network(self, sample: dict[str, str]) -> torch.nn.Module:
        return Network(sample)

    def weight_batches(self, count: int, *, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return []

    def architecture_batches(self, images: int, *, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(torch.zeros(12, 3, 8, 8), torch.zeros(12, dtype=torch.int64))]


@pytest.fixture
def search_and_picker(tmp_path):
    labels = nasbench201.to_nni([0] * 6)
    names = tuple(next(iter(nasbench201.to_nni([k] * 6).values())) for k in range(5))
    uniform = Posterior(
        {label: torch.zeros(5) for label in labels},
        {label: torch.ones(5) for label in labels},
        dict.fromkeys(labels, names),
    )
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    uniform.save(folder.posterior)
    opened = []

    def supernet_of(found: RunFolder) -> SkipLovingSupernet:
        opened.append(found.path)
        return SkipLovingSupernet()

    scale = load_scale("small")
    networks = ProxyNetworks(channels=2, cells_per_stage=1, image_size=8)
    config = scale.config("balenas", 0)
    picker = Picker(tmp_path / "scores", Truth(), networks, config.data, supernet_of=supernet_of)
    return Search(config, folder), picker, opened


def drawn(picker: Picker, search: Search, n: int) -> list[dict[str, str]]:
    """Return the distinct draws."""
    architectures = Architectures(picker.space.decisions, Posterior.load(search.folder.posterior))
    return [dict(candidate.sample) for candidate in drawn_candidates(architectures, n, seed=0)]


def row(n: int, selection: str, candidates: str = "sample") -> Row:
    return Row(f"{selection}, {n}", "balenas", Pick("proxy", n, selection, candidates), "balenas")


def test_a_named_selection_picks_and_its_scores_are_kept(search_and_picker) -> None:
    search, picker, opened = search_and_picker
    found = picker.accuracies(row(60, "supernet"), search, 0)
    draws = drawn(picker, search, 60)
    skips = [list(sample.values()).count("skip_connect") for sample in draws]
    best = [sample for sample, count in zip(draws, skips, strict=True) if count == max(skips)]
    assert found["cifar10"] in {list(sample.values()).count("conv_3x3") for sample in best}
    (file,) = picker.folder.iterdir()
    scores = json.loads(file.read_text())["scores"]
    assert scores == {
        picker.space.notations(sample)["nasbench201"]: count / 12 for sample, count in zip(draws, skips, strict=True)
    }
    before = file.read_bytes()
    assert picker.accuracies(row(60, "supernet"), search, 0) == found
    picker.accuracies(row(20, "supernet"), search, 0)  # the first of the same draws
    picker.accuracies(row(60, "synflow+supernet"), search, 0)
    assert opened == [search.folder.path]  # once
    assert file.read_bytes() == before
    picker.accuracies(row(70, "supernet"), search, 0)
    assert set(scores) < set(json.loads(file.read_text())["scores"])


def test_scores_of_another_posterior_or_other_networks_are_not_used(search_and_picker) -> None:
    search, picker, opened = search_and_picker
    for selection in ("supernet", "synflow"):
        picker.accuracies(row(10, selection), search, 0)
    files = {name: picker.folder / f"{name}-seed-0.json" for name in ("supernet_accuracy-balenas", "synflow")}
    before = {name: json.loads(file.read_text())["scores"] for name, file in files.items()}
    posterior = Posterior.load(search.folder.posterior)
    posterior.mean["cell/0_1"][2] += 5
    posterior.save(search.folder.posterior)
    wider = Picker(
        picker.folder,
        picker.benchmark,
        ProxyNetworks(channels=3, cells_per_stage=1, image_size=8),
        search.config.data,
        supernet_of=picker.supernet_of,
    )
    for selection in ("supernet", "synflow"):
        wider.accuracies(row(10, selection), search, 0)
    assert len(opened) == 2
    after = {name: json.loads(file.read_text())["scores"] for name, file in files.items()}
    names = {wider.space.notations(sample)["nasbench201"] for sample in drawn(wider, search, 10)}
    assert all(set(scores) == names for scores in after.values())
    shared = names & set(before["synflow"])
    assert all(
        after["synflow"][name] != before["synflow"][name] for name in shared if math.isfinite(before["synflow"][name])
    )


def test_proxies_need_no_supernet(search_and_picker) -> None:
    search, picker, opened = search_and_picker
    few, many = (picker.accuracies(row(n, "synflow"), search, 0) for n in (5, 200))
    assert many["cifar10"] >= few["cifar10"]  # SynFlow likes 3x3
    assert opened == []


def test_the_best_of_the_most_probable_is_picked(search_and_picker) -> None:
    search, picker, _ = search_and_picker
    posterior = Posterior.load(search.folder.posterior)
    for mean in posterior.mean.values():
        mean[nasbench201.OPERATIONS.index("nor_conv_1x1")] += 3
    posterior.save(search.folder.posterior)
    probable = enumerated_candidates(Architectures(picker.space.decisions, posterior), 12)
    for seed in range(2):
        networks = picker.space.networks(seed)
        best = max(probable, key=lambda candidate: networks.fast_rank_value("synflow", candidate.sample))
        found = picker.accuracies(row(12, "synflow", "enumerate"), search, seed)
        assert found["cifar10"] == list(best.sample.values()).count("conv_3x3")
        scores = json.loads((picker.folder / f"synflow-seed-{seed}.json").read_text())["scores"]
        assert max(scores, key=scores.get) == picker.space.notations(best.sample)["nasbench201"]


def test_the_probability_pulls_a_pick_back(search_and_picker) -> None:
    """Every 3x3 is improbable: SynFlow's pick has most of them, its rank averaged with the probability's fewer."""
    search, picker, _ = search_and_picker
    posterior = Posterior.load(search.folder.posterior)
    for mean in posterior.mean.values():
        mean[nasbench201.OPERATIONS.index("nor_conv_3x3")] -= 1
        mean[nasbench201.OPERATIONS.index("skip_connect")] += 1
    posterior.save(search.folder.posterior)
    alone = row(200, "synflow")
    both = replace(alone, pick=replace(alone.pick, include_probability=True))
    assert picker.accuracies(both, search, 0)["cifar10"] < picker.accuracies(alone, search, 0)["cifar10"]


def test_the_oracle_picks_the_best_of_the_draws_by_validation(search_and_picker) -> None:
    search, picker, _ = search_and_picker
    found = picker.accuracies(Row("best", "balenas", Pick("oracle", 30), "balenas"), search, 0)
    assert found["cifar10"] == max(list(s.values()).count("conv_3x3") for s in drawn(picker, search, 30))
    assert not picker.folder.exists()  # it scores nothing


def test_a_row_may_name_a_selection_with_options_of_its_own(search_and_picker) -> None:
    search, picker, _ = search_and_picker
    named, plain = (row(12, selection, "enumerate") for selection in ("synflow-enumerated", "synflow"))
    assert picker.accuracies(named, search, 0) == picker.accuracies(plain, search, 0)
