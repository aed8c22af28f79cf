import json
import sqlite3

import pytest

from balenas_plugin.benchmarks import open_benchmark
from balenas_plugin.errors import DataError, FileFormatError, OptionError
from balenas_plugin.search_spaces.nasbench201 import format_string, to_nni

# As NNI 3.0 creates it with peewee 3.17.
SCHEMA = """
    CREATE TABLE "nb201trialconfig" ("id" INTEGER NOT NULL PRIMARY KEY, "arch" JSON NOT NULL,
        "num_epochs" INTEGER NOT NULL, "num_channels" INTEGER NOT NULL, "num_cells" INTEGER NOT NULL,
        "dataset" VARCHAR(20) NOT NULL);
    CREATE TABLE "nb201trialstats" ("id" INTEGER NOT NULL PRIMARY KEY, "config_id" INTEGER NOT NULL,
        "seed" INTEGER NOT NULL, "train_acc" REAL NOT NULL, "valid_acc" REAL NOT NULL, "test_acc" REAL NOT NULL,
        "ori_test_acc" REAL NOT NULL, "train_loss" REAL, "valid_loss" REAL, "test_loss" REAL, "ori_test_loss" REAL,
        "parameters" REAL NOT NULL, "latency" REAL NOT NULL, "flops" REAL NOT NULL, "training_time" REAL NOT NULL,
        "valid_evaluation_time" REAL NOT NULL, "test_evaluation_time" REAL NOT NULL,
        "ori_test_evaluation_time" REAL NOT NULL,
        FOREIGN KEY ("config_id") REFERENCES "nb201trialconfig" ("id"));
"""
INDICES = [(3, 0, 1, 0, 0, 4), (1, 1, 1, 1, 1, 1), (2, 3, 4, 0, 1, 2)]


def accuracies(dataset, architecture, seed, epochs):
    """The validation, test and original test accuracy that NNI's converter would store."""
    base = {"cifar10-valid": 10, "cifar10": 20, "cifar100": 30, "imagenet16-120": 40}[dataset]
    base += architecture + seed / 1000 - (5 if epochs == 12 else 0)
    valid, test, union = base + 0.1, base + 0.2, base + 0.3
    if dataset == "cifar10-valid":
        return valid, union, union
    return (union, union, union) if dataset == "cifar10" else (valid, test, union)


def write_database(path):
    connection = sqlite3.connect(path)
    connection.executescript(SCHEMA)
    for architecture, indices in enumerate(INDICES):
        arch = {label.removeprefix("cell/"): operation for label, operation in to_nni(indices).items()}
        for epochs, seeds in ((12, (111,)), (200, (999, 777))):
            for dataset in ("cifar10-valid", "cifar10", "cifar100", "imagenet16-120"):
                row = (json.dumps(arch, sort_keys=True), epochs, 16, 5, dataset)
                config = connection.execute("INSERT INTO nb201trialconfig VALUES (NULL, ?, ?, ?, ?, ?)", row).lastrowid
                for seed in seeds:
                    values = (99.0, *accuracies(dataset, architecture, seed, epochs), 1.0, None, 1.0, 1.0)
                    costs = (0.8 + architecture, 0.01, 110.0, 1000.0 + seed, 1.0, 1.0, 1.0)
                    connection.execute(
                        f"INSERT INTO nb201trialstats VALUES (NULL, ?, ?{', ?' * 15})",
                        (config, seed, *values, *costs),
                    )
    connection.commit()
    connection.close()


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "with space#1.db"
    write_database(path)
    return path


def test_each_accuracy_comes_from_the_column_of_its_image_set(database):
    benchmark = open_benchmark(database)
    for architecture, indices in enumerate(INDICES):
        mean = architecture + 0.888
        found = {
            (dataset, metric): benchmark.query(indices, dataset, metric)
            for dataset, metric in [
                ("cifar10-valid", "valid_accuracy"),
                ("cifar10-valid", "test_accuracy"),
                ("cifar10", "test_accuracy"),
                ("cifar100", "valid_accuracy"),
                ("cifar100", "test_accuracy"),
                ("cifar100", "valtest_accuracy"),
                ("ImageNet16-120", "test_accuracy"),
            ]
        }
        expected = dict(zip(found, [10.1, 10.3, 20.3, 30.1, 30.2, 30.3, 40.2], strict=True))
        assert found == pytest.approx({key: value + mean for key, value in expected.items()})


def test_seeds_short_runs_and_costs(database):
    benchmark = open_benchmark(database)
    query = [benchmark.query(INDICES[1], "cifar100", f"test_accuracy{suffix}") for suffix in ("_s0", "_s1", "_e12")]
    assert query == pytest.approx([31.2 + 0.777, 31.2 + 0.999, 26.2 + 0.111])
    costs = [benchmark.query(INDICES[1], "cifar100", metric) for metric in ("train_seconds", "params_mb", "latency_s")]
    assert costs == pytest.approx([1888, 1.8, 0.01])


def test_the_test_accuracy_that_nni_calls_validation_is_not_offered(database):
    with pytest.raises(OptionError, match="ask for cifar10-valid"):
        open_benchmark(database).query(INDICES[0], "cifar10", "valid_accuracy")


def test_a_partial_database_ranks_but_does_not_number(database):
    truth = open_benchmark(database).describe(INDICES[0])
    assert truth.architecture == format_string(INDICES[0])
    assert truth.index is None
    assert truth.rank["cifar10"] == 3
    assert truth.regret["cifar10"] == pytest.approx(2)
    assert truth.num_architectures == 3


def test_the_database_is_not_written_to(database):
    before = database.read_bytes()
    database.parent.chmod(0o555)
    try:
        open_benchmark(database).query(INDICES[0], "cifar10", "test_accuracy")
    finally:
        database.parent.chmod(0o755)
    assert database.read_bytes() == before
    assert [path.name for path in database.parent.iterdir()] == [database.name]


def test_another_database_is_refused(tmp_path):
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE nb101trialstats (id INTEGER)")
    connection.close()
    with pytest.raises(FileFormatError, match="not NNI's database of NAS-Bench-201: no such table"):
        open_benchmark(path)


def test_an_architecture_of_another_space_is_refused(database):
    connection = sqlite3.connect(database)
    connection.execute("""UPDATE nb201trialconfig SET arch = replace(arch, 'conv_1x1', 'conv_5x5')""")
    connection.commit()
    connection.close()
    with pytest.raises(FileFormatError, match="'conv_5x5'; allowed: none, skip_connect"):
        open_benchmark(database)


def test_empty_and_missing_databases_are_refused(tmp_path):
    path = tmp_path / "empty.db"
    connection = sqlite3.connect(path)
    connection.executescript(SCHEMA)
    connection.close()
    with pytest.raises(FileFormatError, match="holds no trained network"):
        open_benchmark(path)
    with pytest.raises(DataError, match="there is no file"):
        open_benchmark(tmp_path / "none.db", backend="nni")
