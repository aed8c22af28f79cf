import collections

import pytest

from balenas_plugin.benchmarks import import_official, open_benchmark
from balenas_plugin.errors import FileFormatError

from .official_files import ARCHITECTURES, Attack, assert_same_numbers, contents, nas_201_api, save_bzip2


@pytest.fixture
def content():
    return contents()


@pytest.fixture
def api(content):
    return nas_201_api.NASBench201API(content, verbose=False)


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
