import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from balenas_plugin.benchmarks import DATASETS, find_table, open_benchmark
from balenas_plugin.benchmarks.measures import COLUMN, COLUMNS, METRICS
from balenas_plugin.benchmarks.opening import SHIPPED
from balenas_plugin.benchmarks.table import REQUIRED, TABLE_FILE, read_table, write_table
from balenas_plugin.benchmarks.table_benchmark import canonical
from balenas_plugin.benchmarks.trials import Row
from balenas_plugin.errors import DataError, FileFormatError, OptionError, SpaceError
from balenas_plugin.search_spaces.nasbench201 import OPERATIONS, build_network, format_string, to_nni

ALL_SKIP = (OPERATIONS.index("skip_connect"),) * 6
NAMES = [format_string((operation,) * 6) for operation in range(5)]


def rows(count=5, **changes):
    """Row i has value i + j / 100 in column j, unless `changes` (column -> values) says otherwise."""
    made = []
    for i in range(count):
        values = i + np.arange(len(COLUMNS)) / 100
        for column, replacement in changes.items():
            values[COLUMNS.index(column)] = replacement[i]
        made.append(Row(index=10 * i, architecture=NAMES[i], num_seeds=3, values=values))
    return made


@pytest.fixture
def table(tmp_path):
    path = tmp_path / TABLE_FILE
    write_table(path, rows(), source="made.pth")
    return path


def rewrite(path, change, *, keep_metadata=True):
    """Apply `change` (column name -> array or None) to the parquet table at `path`."""
    content = pq.read_table(path)
    columns = {name: content[name] for name in content.column_names} | change
    changed = pa.table({name: column for name, column in columns.items() if column is not None})
    pq.write_table(changed.replace_schema_metadata(content.schema.metadata if keep_metadata else None), path)


# ------------------------------------------------------------------------------------------- the shipped table


@pytest.mark.parametrize(
    ("dataset", "best", "index"),
    [("cifar10", 94.373, 6111), ("cifar100", 73.513, 9930), ("ImageNet16-120", 47.311, 857)],
)
def test_best_architectures_of_the_shipped_table_are_the_published_ones(dataset, best, index):
    benchmark = open_benchmark(SHIPPED)
    accuracies = benchmark.columns[COLUMN[dataset, "test_accuracy"]]
    winner = list(benchmark.positions)[int(accuracies.argmax())]
    assert len(benchmark.positions) == 15625
    assert benchmark.query(winner, dataset, "test_accuracy") == pytest.approx(best, abs=5e-4)
    truth = benchmark.describe(winner)
    assert (truth.index, truth.num_seeds, truth.rank[dataset], truth.regret[dataset]) == (index, 3, 1, 0)


def test_all_skip_cell_of_the_shipped_table_is_where_darts_collapses():
    benchmark = open_benchmark(SHIPPED)
    accuracy = benchmark.query(ALL_SKIP, "cifar10", "test_accuracy")
    assert accuracy == pytest.approx(54.297, abs=5e-4)
    truth = benchmark.describe(ALL_SKIP)
    better = (benchmark.columns["c10_test"] > accuracy).sum()
    assert truth.rank["cifar10"] == 1 + better > 15000
    assert truth.regret["cifar10"] == pytest.approx(94.373 - 54.297, abs=1e-3)
    assert truth.values["cifar10-valid"]["params_mb"] == pytest.approx(0.073306)


def test_the_shipped_table_is_small_whole_and_what_the_data_beside_the_checkout_says(data_dir):
    assert SHIPPED.stat().st_size < 600_000
    shipped, other = open_benchmark(SHIPPED), open_benchmark(data_dir)
    assert (shipped.checksum, other.checksum) == ("verified", "no checksum")
    assert shipped.positions.keys() == other.positions.keys()
    places = [other.positions[architecture] for architecture in shipped.positions]
    np.testing.assert_array_equal(shipped._indices, other._indices[places])
    np.testing.assert_array_equal(shipped._num_seeds, other._num_seeds[places])
    for column in shipped.columns.keys() & other.columns.keys() - {"params_mb"}:  # 150 of whose are wrong there
        tolerance = 0.5 if column.endswith("time_s") else 1e-4
        np.testing.assert_allclose(shipped.columns[column], other.columns[column][places], atol=tolerance)


@pytest.mark.parametrize("indices", [(0, 1, 2, 3, 4, 3), (2, 2, 3, 1, 2, 0)])
def test_the_shipped_parameters_are_those_of_the_network(indices):
    for dataset, classes in (("cifar10", 10), ("cifar100", 100), ("ImageNet16-120", 120)):
        parameters = sum(p.numel() for p in build_network(indices, num_classes=classes).parameters())
        found = open_benchmark(SHIPPED).query(indices, dataset, "params_mb")
        assert found == pytest.approx(parameters / 1e6, abs=1e-6)


def test_the_shipped_multiply_adds_are_the_published_ones():
    found = [open_benchmark(SHIPPED).query((1,) * 6, dataset, "flops_m") for dataset in DATASETS]
    assert found == pytest.approx([7.78305, 7.78305, 7.7889, 1.9534])
    found = [open_benchmark(SHIPPED).query((3,) * 6, dataset, "flops_m") for dataset in DATASETS]
    assert found == pytest.approx([220.11969, 220.11969, 220.12554, 55.03756])


# -------------------------------------------------------------------------------------------------- querying


def test_every_combination_has_its_own_column_and_value(table):
    benchmark = open_benchmark(table)
    for (dataset, metric), column in COLUMN.items():
        assert benchmark.query(NAMES[3], dataset, metric) == 3 + COLUMNS.index(column) / 100
        assert benchmark.values(NAMES[3])[dataset][metric] == 3 + COLUMNS.index(column) / 100


def test_an_architecture_is_found_however_it_is_written(table):
    benchmark = open_benchmark(table)
    architecture = to_nni((2,) * 6)
    spellings = [NAMES[2], f" {NAMES[2]}\n", (2,) * 6, [2] * 6, np.full(6, 2), dict(reversed(architecture.items()))]
    for spelling in spellings:
        assert canonical(spelling) == NAMES[2]
        assert benchmark.query(spelling, "cifar10", "params_mb") == benchmark.query(NAMES[2], "cifar10", "params_mb")


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (NAMES[3].replace("3x3~1", "3x4~1", 1), r"character 33.*'nor_conv_3x4'.*did you mean 'nor_conv_3x3'"),
        ((1, 2, 3), r"6 edges"),
        ((5, 0, 0, 0, 0, 0), r"is 5; allowed: 0 none"),
        (7, r"not int"),
        ({"cell/0_1": "conv_3x3"}, r"no choice given for cell/0_2"),
    ],
)
def test_malformed_architectures_are_refused_with_the_place(table, architecture, message):
    with pytest.raises(SpaceError, match=message):
        open_benchmark(table).query(architecture, "cifar10", "test_accuracy")


def test_unknown_names_are_refused_with_the_nearest(table):
    benchmark = open_benchmark(table)
    with pytest.raises(OptionError, match=r"no data set 'cifar-100'; .*did you mean 'cifar100'"):
        benchmark.query(NAMES[0], "cifar-100", "test_accuracy")
    with pytest.raises(OptionError, match=r"no metric 'test-accuracy'; .*did you mean 'test_accuracy'"):
        benchmark.query(NAMES[0], "cifar100", "test-accuracy")


def test_combinations_that_cannot_be_are_refused_with_what_is_there(tmp_path):
    gone = {column: [np.nan] * 5 for column in COLUMNS if column.startswith("c10valid_test")}
    write_table(tmp_path / "t.parquet", rows(**gone), source="made.pth")
    benchmark = open_benchmark(tmp_path / "t.parquet")
    with pytest.raises(OptionError, match=r"no test_accuracy for cifar10-valid; .* has for .*: valid_accuracy, "):
        benchmark.query(NAMES[0], "cifar10-valid", "test_accuracy")
    with pytest.raises(OptionError, match=r"training and the validation images; ask for cifar10-valid"):
        benchmark.query(NAMES[0], "cifar10", "valid_accuracy")


def test_an_architecture_that_a_partial_table_lacks_is_named(table):
    lacking = format_string((0, 1, 2, 3, 4, 0))
    for spelling in (lacking, (0, 1, 2, 3, 4, 0)):
        with pytest.raises(DataError, match=r"holds 5 of NAS-Bench-201's 15625 architectures, not \|none~0\|"):
            open_benchmark(table).query(spelling, "cifar10", "test_accuracy")


# ------------------------------------------------------------------------------------------------ describing


def test_rank_counts_strictly_better_architectures_and_ignores_unknown_ones(tmp_path):
    write_table(tmp_path / "t.parquet", rows(c10_test=[50, 90, 90, np.nan, 70]), source="made.pth")
    benchmark = open_benchmark(tmp_path / "t.parquet")
    ranks = [benchmark.describe(name).rank.get("cifar10") for name in NAMES]
    assert ranks == [4, 1, 1, None, 3]
    assert benchmark.describe(NAMES[4]).regret["cifar10"] == 20
    assert "test_accuracy" not in benchmark.describe(NAMES[3]).values["cifar10"]


def test_description_is_marked_as_unseen_by_the_search(table):
    record = json.loads(json.dumps(open_benchmark(table).describe(NAMES[1]).to_dict()))
    assert record["unseen_by_search"] is True
    assert record["architecture"] == NAMES[1]
    assert record["index"] == 10
    assert record["benchmark"] == TABLE_FILE
    assert record["num_architectures"] == 5
    assert set(record["values"]) == set(record["rank"]) == set(DATASETS)
    assert record["ranked_by"]["cifar10-valid"] == "valid_accuracy"


def test_columns_cannot_be_changed_by_a_caller(table):
    benchmark = open_benchmark(table)
    with pytest.raises(ValueError, match="read-only"):
        benchmark.columns["c10_test"][0] = 100


# ------------------------------------------------------------------------------------------------- the file


def test_a_table_is_read_once_and_again_when_it_changes(table):
    first = read_table(table)
    assert read_table(table) is first
    write_table(table, rows(4), source="made.pth")
    assert len(read_table(table).positions) == 4


def test_written_table_carries_a_checksum_that_holds_under_recompression(table):
    assert read_table(table).checksum == "verified"
    pq.write_table(pq.read_table(table), table, compression="none", row_group_size=2)
    assert read_table(table).checksum == "verified"


@pytest.mark.parametrize("column", ["c10_test", "arch_str", "index"])
def test_an_edited_table_is_refused(table, column):
    values = pq.read_table(table)[column].to_pylist()
    rewrite(table, {column: pa.array([values[1], values[0], *values[2:]])})
    with pytest.raises(FileFormatError, match="differs from its checksum"):
        read_table(table)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", None, "c", "d", "e"]),
        pa.array([True] * 5),
        pa.array([0] * 5, pa.timestamp("ns")),
        pa.array([[1]] * 5),
        pa.array([None] * 5),
    ],
    ids=lambda column: str(column.type),
)
def test_a_table_with_a_column_more_is_refused(table, column):
    rewrite(table, {"note": column})
    with pytest.raises(FileFormatError, match="differs from its checksum"):
        read_table(table)


def test_text_that_is_not_utf8_is_refused(table):
    broken = pa.array([b"\xff", *(name.encode() for name in NAMES[1:])]).view(pa.string())
    rewrite(table, {"arch_str": broken})
    with pytest.raises(FileFormatError, match="not a readable parquet file"):
        read_table(table)


def test_without_a_checksum_the_same_edit_is_accepted(table):
    values = pq.read_table(table)["c10_test"].to_pylist()
    rewrite(table, {"c10_test": pa.array([None, *values[1:]])}, keep_metadata=False)
    assert read_table(table).checksum == "no checksum"
    assert np.isnan(read_table(table).columns["c10_test"][0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in16_test": None}, "no column in16_test"),
        ({"index": None}, "no column index"),
        ({"n_seeds": pa.array(["3"] * 5)}, "column n_seeds holds string"),
        ({"c10_test": pa.array(["a"] * 5)}, "column c10_test holds string"),
        ({"arch_str": pa.array(range(5))}, "column arch_str holds int64"),
        ({"arch_str": pa.array([*NAMES[:4], None])}, "column arch_str holds string or gaps"),
        ({"arch_str": pa.array([*NAMES[:4], NAMES[0]])}, "lists an architecture twice"),
        ({"arch_str": pa.array([*NAMES[:4], "|none~0|"])}, "node"),
        ({"c10_test": pa.array([1.0, 2.0, 3.0, 4.0, 100.5])}, "column c10_test has values outside 0 to 100"),
    ],
)
def test_a_wrong_schema_is_refused(table, change, message):
    rewrite(table, change, keep_metadata=False)
    with pytest.raises(FileFormatError, match=message):
        read_table(table)


def test_a_damaged_or_empty_table_is_refused(table):
    content = table.read_bytes()
    table.write_bytes(content[: len(content) // 2])
    with pytest.raises(FileFormatError, match="not a readable parquet file"):
        read_table(table)
    pq.write_table(pa.table({name: pa.array([], pa.float64()) for name in ("index", "arch_str", *REQUIRED)}), table)
    with pytest.raises(FileFormatError, match="has no rows"):
        read_table(table)


def test_metrics_are_those_of_the_columns():
    assert len(set(METRICS)) == len(METRICS)
    assert set(REQUIRED) < set(COLUMNS)
    assert {dataset for dataset, _ in COLUMN} == set(DATASETS)


# ----------------------------------------------------------------------------------------- finding and opening


def test_the_table_is_found_by_path_by_folder_and_by_the_environment(table, monkeypatch):
    monkeypatch.delenv("BALENAS_DATA", raising=False)
    assert find_table() == SHIPPED
    assert find_table(table) == find_table(table.parent) == table
    monkeypatch.setenv("BALENAS_DATA", str(table.parent))
    assert find_table() == table
    assert open_benchmark().query(NAMES[4], "cifar10", "test_accuracy") >= 4
    monkeypatch.setenv("BALENAS_DATA", str(table.parent.parent))
    assert find_table() == SHIPPED


def test_a_missing_table_is_explained(tmp_path):
    with pytest.raises(DataError, match=r"there is no table .*nb201_full.parquet"):
        find_table(tmp_path)
    with pytest.raises(DataError, match="there is no table"):
        open_benchmark(tmp_path / "nowhere")


def test_a_file_of_no_known_kind_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("accuracy 94.37\n")
    with pytest.raises(FileFormatError, match="is not a pickle of plain data"):
        open_benchmark(path)
