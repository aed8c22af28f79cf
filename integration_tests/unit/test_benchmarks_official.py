import collections
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from balenas_plugin.benchmarks import import_official, open_benchmark
from balenas_plugin.benchmarks.pickles.plain_pickle import GENERATIONS, PlainReader
from balenas_plugin.cli import main
from balenas_plugin.errors import DataError, FileFormatError, OptionError

from .official_files import (
    ARCHITECTURES,
    SAVERS,
    Attack,
    assert_same_numbers,
    content_of,
    contents,
    nas_201_api,
    save_legacy,
    schedules,
)


@pytest.fixture
def content():
    return contents()


@pytest.fixture
def api(content):
    return nas_201_api.NASBench201API(content, verbose=False)


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
    benchmark = open_benchmark(tmp_path / "file.pth")
    assert_same_numbers(benchmark, api)
    index, accuracy = api.find_best("cifar10", "test", hp="200")
    truth = benchmark.describe(api.arch(index))
    assert truth.values["cifar10"]["test_accuracy"] == pytest.approx(accuracy)
    assert (truth.index, truth.rank["cifar10"], truth.num_architectures) == (index, 1, 6)
    with pytest.raises(DataError, match="holds 6 of NAS-Bench-201's 15625"):
        benchmark.query(ARCHITECTURES[1], "cifar10", "test_accuracy")
    with pytest.raises(DataError, match=r"does not know test_accuracy_s2 .* It knows: .*test_accuracy_s1"):
        benchmark.query(ARCHITECTURES[7], "cifar10", "test_accuracy_s2")


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
    assert not {"train_seconds", "latency_s"} & set(benchmark.values(ARCHITECTURES[0])["cifar10"])


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


@pytest.mark.parametrize("wrapping", SAVERS)
def test_a_file_that_tries_to_run_code_is_refused_and_runs_none(content, tmp_path, wrapping):
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


def test_the_command_imports_a_file_and_queries_it(content, tmp_path, capsys):
    save_legacy(content, tmp_path / "official.pth")
    table = tmp_path / "table.parquet"
    assert main(["benchmark", "import", str(tmp_path / "official.pth"), "--output", str(table)]) == 0
    assert f"{len(content['arch2infos'])} architectures written to {table}" in capsys.readouterr().out
    assert main(["query", ARCHITECTURES[7], "--table", str(table), "--dataset", "cifar100"]) == 0
    expected = open_benchmark(tmp_path / "official.pth").query(ARCHITECTURES[7], "cifar100", "test_accuracy")
    assert f"{expected:.4f}" in capsys.readouterr().out
