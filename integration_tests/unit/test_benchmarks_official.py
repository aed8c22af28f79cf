import bz2
import collections
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from balenas_plugin.benchmarks import OfficialApiBenchmark, import_official, open_benchmark
from balenas_plugin.benchmarks.plain_pickle import GENERATIONS, PlainReader
from balenas_plugin.cli import main
from balenas_plugin.errors import DataError, FileFormatError, OptionError
from balenas_plugin.search_spaces.nasbench201 import format_string

nas_201_api = pytest.importorskip("nas_201_api", reason="the official package nas-bench-201 is not installed")
from nas_201_api.api_utils import ArchResults, ResultsCount  # noqa: E402 - after its importorskip

DATASETS = {"cifar10-valid": 10, "cifar10": 10, "cifar100": 100, "ImageNet16-120": 120}
IMAGE_SETS = {
    "cifar10-valid": ("x-valid", "ori-test"),
    "cifar10": ("ori-test",),
    "cifar100": ("ori-test", "x-valid", "x-test"),
    "ImageNet16-120": ("ori-test", "x-valid", "x-test"),
}
ARCHITECTURES = [format_string(tuple((number // 5**edge) % 5 for edge in range(6))) for number in range(400)]


def trial(random, dataset, seed, epochs, architecture, *, weights=None, pad=0):
    """Make a trial with the official package's own class; numbers are random, one in each place."""

    def percents(names):
        return {name: float(random.uniform(10, 95)) for name in names}

    arch_config = {"channel": 16, "num_cells": 5, "arch_str": architecture, "class_num": DATASETS[dataset]}
    params = np.float64(random.uniform(0.1, 1.5))  # a NumPy number, as in the published files
    result = ResultsCount(
        dataset, weights, {}, {}, params, float(random.uniform(10, 200)), arch_config, seed, epochs, None
    )
    curve = [percents(range(epochs)) for _ in range(3)]
    result.update_train_info(
        *curve, collections.OrderedDict((epoch, float(random.uniform(5, 9))) for epoch in range(epochs))
    )
    names = [f"{name}@{epoch}" for name in IMAGE_SETS[dataset] for epoch in range(epochs)]
    result.update_eval(percents(names), percents(names), percents(names))
    result.update_latency([np.float64(random.uniform(0.01, 0.02))])
    if pad:
        result.padding = f"{seed} {random.random()}".ljust(pad)
    return result


def schedules(random, index, *, seeds=(777, 888, 999), epochs=(5, 3), weights=None, pad=0):
    """Return what the official file holds of architecture `index`; the long schedule pads its trials with text."""
    full, less = (ArchResults(index, ARCHITECTURES[index]) for _ in range(2))
    (long, short), name = epochs, ARCHITECTURES[index]
    for dataset in DATASETS:
        for seed in seeds:
            full.update(dataset, seed, trial(random, dataset, seed, long, name, weights=weights, pad=pad))
        less.update(dataset, 111, trial(random, dataset, 111, short, name))
    less.update("cifar10-valid", 777, trial(random, "cifar10-valid", 777, short, name))
    return {"full": full.state_dict(), "less": less.state_dict()}


def content_of(infos):
    return {
        "meta_archs": ARCHITECTURES,
        "total_archs": len(ARCHITECTURES),
        "arch2infos": infos,
        "evaluated_indexes": sorted(infos),
    }


@pytest.fixture
def content():
    random = np.random.default_rng(0)
    seeds = [(777, 888, 999), (999, 777), (888,), (777, 888, 999), (777, 999), (777,)]
    return content_of({7 * i: schedules(random, 7 * i, seeds=seeds[i]) for i in range(len(seeds))})


@pytest.fixture
def api(content):
    return nas_201_api.NASBench201API(content, verbose=False)


def save_legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_pickle(content, path):
    path.write_bytes(pickle.dumps(content, protocol=4))


def save_bzip2(content, path):
    path.write_bytes(bz2.compress(pickle.dumps(content, protocol=4)))


SAVERS = {"legacy": save_legacy, "zip": torch.save, "pickle": save_pickle, "bzip2": save_bzip2}


def assert_same_numbers(benchmark, api):
    """Compare every number with what the official package answers, through its public methods."""
    compared = 0
    for index in api.evaluated_indexes:
        architecture = api.arch(index)
        for epochs, suffix in ((200, ""), (12, "_e12")):
            for dataset in DATASETS:
                info = api.get_more_info(index, dataset, hp=str(epochs), is_random=False)
                for quantity in ("valid", "test", "valtest"):
                    if f"{quantity}-accuracy" in info:
                        found = benchmark.query(architecture, dataset, f"{quantity}_accuracy{suffix}")
                        assert found == pytest.approx(info[f"{quantity}-accuracy"], rel=1e-12)
                        compared += 1
                if epochs == 200:
                    costs = api.get_cost_info(index, dataset, hp="200")
                    expected = [info["train-all-time"], costs["params"], costs["flops"], costs["latency"]]
                    # both CIFAR-10 data sets share a column of parameters; in this file they differ at random
                    wanted = ["train_seconds", "params_mb", "flops_m", "latency_s"]
                    if dataset == "cifar10":
                        expected, wanted = [expected[0], expected[3]], ["train_seconds", "latency_s"]
                    found = [benchmark.query(architecture, dataset, metric) for metric in wanted]
                    assert found == pytest.approx(expected, rel=1e-12)
                    for place, seed in enumerate(api.query_meta_info_by_index(index, "200").get_dataset_seeds(dataset)):
                        one = api.get_more_info(index, dataset, hp="200", is_random=seed)
                        quantity = "valid" if dataset == "cifar10-valid" else "test"
                        found = benchmark.query(architecture, dataset, f"{quantity}_accuracy_s{place}")
                        assert found == one[f"{quantity}-accuracy"]
    assert compared == 6 * 2 * (2 + 1 + 3 + 3)


# ------------------------------------------------------------------------------------- the official package


def test_numbers_are_those_of_the_official_api(api):
    benchmark = OfficialApiBenchmark(api)
    assert_same_numbers(benchmark, api)
    index, accuracy = api.find_best("cifar10", "test", hp="200")
    truth = benchmark.describe(api.arch(index))
    assert truth.values["cifar10"]["test_accuracy"] == pytest.approx(accuracy)
    assert (truth.index, truth.rank["cifar10"], truth.num_architectures) == (index, 1, 6)


def test_architectures_without_data_are_refused(api):
    with pytest.raises(DataError, match="holds 6 of NAS-Bench-201's 15625"):
        OfficialApiBenchmark(api).query(ARCHITECTURES[1], "cifar10", "test_accuracy")
    with pytest.raises(DataError, match="does not know test_accuracy_s2"):
        OfficialApiBenchmark(api).query(ARCHITECTURES[7], "cifar10", "test_accuracy_s2")


def test_something_else_than_an_api_object_is_refused(content):
    with pytest.raises(OptionError, match="not dict"):
        OfficialApiBenchmark(content)


# ---------------------------------------------------------------------------------------- the official file


@pytest.mark.parametrize("wrapping", SAVERS)
def test_an_imported_file_gives_the_numbers_of_the_official_api(content, api, tmp_path, wrapping):
    path = tmp_path / "NAS-Bench-201-v1_1-096897.pth"
    SAVERS[wrapping](content, path)
    done = []
    report = import_official(path, tmp_path / "folder" / "table.parquet", progress=done.append)
    assert done == [1, 2, 3, 4, 5, 6]
    assert report.num_architectures == 6
    benchmark = open_benchmark(report.table)
    assert benchmark.checksum == "verified"
    assert_same_numbers(benchmark, api)
    assert [benchmark.index(architecture) for architecture in benchmark.positions] == [0, 7, 14, 21, 28, 35]


def test_a_file_can_be_opened_without_importing_it(content, api, tmp_path):
    save_legacy(content, tmp_path / "file.pth")
    assert_same_numbers(open_benchmark(tmp_path / "file.pth"), api)


def test_importing_twice_writes_the_same_checksum_from_every_wrapping(content, tmp_path):
    checksums = set()
    for wrapping, save in SAVERS.items():
        save(content, tmp_path / wrapping)
        checksums.add(import_official(tmp_path / wrapping, tmp_path / "table.parquet").sha256)
    assert len(checksums) == 1


@pytest.mark.parametrize("wrapping", ["legacy", "zip"])
def test_trained_weights_in_a_file_are_skipped(tmp_path, wrapping):
    weights = collections.OrderedDict(stem=torch.ones(1000, 100), bias=torch.nn.Parameter(torch.zeros(3)))
    content = content_of({0: schedules(np.random.default_rng(1), 0, weights=weights)})
    SAVERS[wrapping](content, tmp_path / "file.pth")
    api = nas_201_api.NASBench201API(content, verbose=False)
    benchmark = open_benchmark(tmp_path / "file.pth")
    expected = api.get_more_info(0, "cifar100", hp="200", is_random=False)["test-accuracy"]
    assert benchmark.query(ARCHITECTURES[0], "cifar100", "test_accuracy") == pytest.approx(expected)


def test_numbers_that_early_files_lack_are_unknown(content, tmp_path):
    for info in content["arch2infos"].values():
        info["less"]["all_results"] = {
            key: value for key, value in info["less"]["all_results"].items() if key[0] == "cifar10-valid"
        }
        for result in info["full"]["all_results"].values():
            result["train_times"] = result["latency"] = None
    save_legacy(content, tmp_path / "v1_0.pth")
    report = import_official(tmp_path / "v1_0.pth", tmp_path / "table.parquet")
    benchmark = open_benchmark(report.table)
    assert benchmark.query(ARCHITECTURES[0], "cifar10-valid", "valid_accuracy_e12") > 0
    with pytest.raises(OptionError, match="no test_accuracy_e12 for cifar100"):
        benchmark.query(ARCHITECTURES[0], "cifar100", "test_accuracy_e12")
    assert not {"train_seconds", "latency_s"} & set(benchmark.available()["cifar10"])


# --------------------------------------------------------------------------------------------- bounded memory


def peak_of_import(path, out):
    tracemalloc.start()
    try:
        import_official(path, out)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_file(tmp_path):
    """An architecture has 160 kB here, most of it text that an ordinary unpickler keeps in its memo to the end."""
    random = np.random.default_rng(2)
    path, out = tmp_path / "file.pth", tmp_path / "table.parquet"
    peaks, sizes = {}, {}
    for count in (1, 50, 200):  # the first one imports what is imported when it is needed
        infos = {index: schedules(random, index, seeds=(777, 888), epochs=(1, 1), pad=20_000) for index in range(count)}
        save_legacy(content_of(infos), path)
        peaks[count], sizes[count] = peak_of_import(path, out), path.stat().st_size
    assert sizes[200] > 30e6
    assert peaks[200] < 6e6
    # What grows is the table, 60 numbers and a string an architecture, and not what was read: 150 x 160 kB.
    assert peaks[200] - peaks[50] < 0.03 * (sizes[200] - sizes[50])


def test_names_that_recur_after_many_architectures_are_found_by_a_second_reading(tmp_path, monkeypatch):
    """A key that architectures 2 and 12 share as one object is dropped in between, noticed, and then kept."""
    random = np.random.default_rng(3)
    infos = {index: schedules(random, index) for index in range(15)}
    shared = "".join(["x-test@", "4"])  # the key of cifar100's test accuracy after the last epoch, a new object
    for index in (2, 12):
        accuracies = infos[index]["full"]["all_results"]["cifar100", 777]["eval_acc1es"]
        accuracies[shared] = accuracies.pop("x-test@4")
    assert GENERATIONS < 12 - 2
    save_legacy(content_of(infos), tmp_path / "file.pth")
    readings = []
    original = PlainReader.__init__

    def spy(self, *arguments, **options):
        original(self, *arguments, **options)
        readings.append(len(options["keep"]))

    monkeypatch.setattr(PlainReader, "__init__", spy)
    benchmark = open_benchmark(tmp_path / "file.pth")
    assert readings == [0, 1]
    api = nas_201_api.NASBench201API(content_of(infos), verbose=False)
    for index in range(15):
        expected = api.get_more_info(index, "cifar100", hp="200", is_random=777)["test-accuracy"]
        assert benchmark.query(ARCHITECTURES[index], "cifar100", "test_accuracy_s0") == expected


# ------------------------------------------------------------------------------------------------- bad files


class Attack:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("wrapping", SAVERS)
def test_a_file_that_wants_to_run_code_is_refused_and_runs_none(content, tmp_path, wrapping):
    content["arch2infos"][7]["full"]["padding"] = Attack(tmp_path / "owned")
    SAVERS[wrapping](content, tmp_path / "file.pth")
    with pytest.raises(FileFormatError, match=r"asks for the Python object (_?io|builtins|__builtin__)\.open"):
        import_official(tmp_path / "file.pth", tmp_path / "table.parquet")
    assert not (tmp_path / "owned").exists()
    assert not (tmp_path / "table.parquet").exists()


def test_a_pickled_api_object_is_refused_with_the_reason(api, tmp_path):
    torch.save(api, tmp_path / "api.pth")
    with pytest.raises(FileFormatError, match=r"nas_201_api.api_201.NASBench201API.*plain dictionaries"):
        import_official(tmp_path / "api.pth", tmp_path / "table.parquet")


@pytest.mark.parametrize("wrapping", SAVERS)
@pytest.mark.parametrize("part", [0.2, 0.6, 0.999])
def test_a_truncated_file_is_refused_and_the_old_table_stays(content, tmp_path, wrapping, part):
    path = tmp_path / "file.pth"
    SAVERS[wrapping](content, path)
    import_official(path, tmp_path / "table.parquet")
    before = (tmp_path / "table.parquet").read_bytes()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(FileFormatError, match="Download it again"):
        import_official(path, tmp_path / "table.parquet")
    assert (tmp_path / "table.parquet").read_bytes() == before


def test_other_layouts_are_refused(content, tmp_path):
    path, out = tmp_path / "file.pth", tmp_path / "table.parquet"
    torch.save({"state_dict": {"weight": torch.ones(3)}}, path)
    with pytest.raises(FileFormatError, match="no architectures in the layout of NAS-Bench-201"):
        import_official(path, out)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(FileFormatError, match="not one that PyTorch wrote"):
        import_official(path, out)
    with pytest.raises(DataError, match=r"cannot read .*nowhere"):
        import_official(tmp_path / "nowhere.pth", out)
    content["arch2infos"][14] = content["arch2infos"].pop(7) | {"extra": 1}
    content["arch2infos"][14]["full"]["arch_index"] = 0
    save_legacy(content, path)
    with pytest.raises(FileFormatError, match="holds index 0 more than once"):
        import_official(path, out)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda full: full.update(arch_str="|conv~0|"), "unknown operation 'conv'"),
        (lambda full: full["all_results"]["cifar10", 777].pop("epochs"), "KeyError: 'epochs'"),
        (lambda full: full["all_results"]["cifar10", 777].update(params="many"), "could not convert"),
        (lambda full: full["all_results"]["cifar10", 777].update(params=torch.ones(1)), "TypeError"),
    ],
)
def test_a_spoilt_architecture_is_named(content, tmp_path, spoil, message):
    spoil(content["arch2infos"][7]["full"])
    save_legacy(content, tmp_path / "file.pth")
    with pytest.raises(FileFormatError, match=f"layout of NAS-Bench-201: architecture 7: .*{message}"):
        import_official(tmp_path / "file.pth", tmp_path / "table.parquet")


# ---------------------------------------------------------------------------------------- NATS-Bench's folder


@pytest.fixture
def folder(content, tmp_path):
    folder = tmp_path / "NATS-tss-v1_0-3ffb9-simple"
    folder.mkdir()
    meta = {"meta_archs": ARCHITECTURES, "total_archs": 400, "arch2infos": None, "evaluated_indexes": set()}
    save_bzip2(meta, folder / "meta.pickle.pbz2")
    for index, info in content["arch2infos"].items():
        info = collections.OrderedDict([("12", info["less"]), ("200", info["full"])])
        save_bzip2(info, folder / f"{index:06d}.pickle.pbz2")
    return folder


def test_nats_folder_gives_the_numbers_of_the_official_api(folder, api):
    benchmark = open_benchmark(folder)
    assert_same_numbers(benchmark, api)
    truth = benchmark.describe(ARCHITECTURES[21])
    assert (truth.index, truth.num_architectures) == (21, 6)
    assert truth.rank == truth.regret == {}  # 15,625 files are not read for one rank


def test_an_imported_nats_folder_ranks(folder, api, tmp_path):
    done = []
    benchmark = open_benchmark(import_official(folder, tmp_path / "table.parquet", progress=done.append).table)
    assert done[-1] == 6
    assert_same_numbers(benchmark, api)
    ranks = [benchmark.describe(architecture).rank["cifar100"] for architecture in benchmark.positions]
    assert sorted(ranks) == [1, 2, 3, 4, 5, 6]


def test_nats_files_are_read_when_asked_for_and_once(folder):
    (folder / "000035.pickle.pbz2").write_bytes(b"BZh9 damaged")
    benchmark = open_benchmark(folder)
    first = benchmark.query(ARCHITECTURES[0], "cifar10", "test_accuracy")
    (folder / "000000.pickle.pbz2").unlink()
    assert benchmark.query(ARCHITECTURES[0], "cifar10", "test_accuracy") == first
    with pytest.raises(FileFormatError, match=r"000035.pickle.pbz2 is damaged"):
        benchmark.query(ARCHITECTURES[35], "cifar10", "test_accuracy")


def test_nats_files_that_are_not_plain_or_not_the_right_ones_are_refused(folder, tmp_path):
    save_bzip2({"12": Attack(tmp_path / "owned")}, folder / "000000.pickle.pbz2")
    (folder / "000014.pickle.pbz2").rename(folder / "000007.pickle.pbz2")
    benchmark = open_benchmark(folder)
    with pytest.raises(FileFormatError, match="asks for the Python object"):
        benchmark.query(ARCHITECTURES[0], "cifar10", "test_accuracy")
    assert not (tmp_path / "owned").exists()
    with pytest.raises(FileFormatError, match="holds another architecture"):
        benchmark.query(ARCHITECTURES[7], "cifar10", "test_accuracy")
    save_bzip2({"meta_archs": ["64:64:64:64:64", "8:8:8:8:8"]}, folder / "meta.pickle.pbz2")
    (folder / "000001.pickle.pbz2").write_bytes(b"")
    with pytest.raises(FileFormatError, match="not NATS-Bench's topology space"):
        open_benchmark(folder)


def test_the_command_imports_a_file_and_queries_it(content, api, tmp_path, capsys):
    save_legacy(content, tmp_path / "official.pth")
    table = tmp_path / "table.parquet"
    assert main(["benchmark", "import", str(tmp_path / "official.pth"), "--output", str(table)]) == 0
    assert f"{len(content['arch2infos'])} architectures written to {table}" in capsys.readouterr().out
    assert main(["query", ARCHITECTURES[7], "--table", str(table), "--dataset", "cifar100"]) == 0
    expected = OfficialApiBenchmark(api).query(ARCHITECTURES[7], "cifar100", "test_accuracy")
    assert f"{expected:.4f}" in capsys.readouterr().out
