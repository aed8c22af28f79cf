"""Each data set that is read from files: what is read, and what is said when it cannot be."""

import io
import os
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader

from balenas_plugin.data import DataConfig, collate, load_search_data, load_test_data
from balenas_plugin.data.sources.cifar import CIFAR10_MEAN, CIFAR10_STD
from balenas_plugin.data.sources.folder import ImageFiles
from balenas_plugin.data.sources.svhn import SVHN_MEAN, SVHN_STD
from balenas_plugin.errors import BalenasError, DataError, MissingDependencyError, OptionError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def no_environment_variable(monkeypatch):
    monkeypatch.delenv("BALENAS_DATA", raising=False)


def denormalise(images, mean, std):
    """uint8 pixels of normalised images (n, 3, H, W)."""
    mean, std = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
    return ((images * std + mean) * 255).round().to(torch.uint8)


# --- cifar10 and cifar100, on disk as torchvision has them


@pytest.fixture
def cifar_root(tmp_path, monkeypatch):
    """Tiny CIFAR-10 and CIFAR-100 in torchvision's own format.

    torchvision refuses files with other MD5 sums than the real ones. Its check is the function `check_integrity` of
    torchvision.datasets.cifar; here it asks only whether the file is there, and all else is torchvision's own code.
    """
    import torchvision.datasets.cifar

    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5=None: Path(path).is_file())
    generator = np.random.default_rng(0)

    def write(path, **content):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(content))

    def images(n):
        return generator.integers(0, 256, (n, 3 * 32 * 32), dtype=np.uint8)

    ten, hundred = tmp_path / "cifar-10-batches-py", tmp_path / "cifar-100-python"
    for i in range(1, 6):
        write(ten / f"data_batch_{i}", data=images(4), labels=[i, 0, 1, 2])
    write(ten / "test_batch", data=images(3), labels=[9, 8, 7])
    write(ten / "batches.meta", label_names=[f"thing{i}" for i in range(10)])
    write(hundred / "train", data=images(8), fine_labels=list(range(92, 100)), coarse_labels=[0] * 8)
    write(hundred / "test", data=images(2), fine_labels=[50, 51], coarse_labels=[0] * 2)
    write(hundred / "meta", fine_label_names=[f"fine{i}" for i in range(100)])
    return tmp_path


def test_cifar10_is_read_through_torchvision(cifar_root):
    data = load_search_data(DataConfig(name="cifar10", root=cifar_root))
    assert data.sizes == (10, 10)
    assert data.num_classes == 10
    assert data.class_names[4] == "thing4"
    assert data.image_shape == (3, 32, 32)
    assert data.weight_set.augmentation == "crop_flip"
    batch = pickle.loads((cifar_root / "cifar-10-batches-py" / "data_batch_3").read_bytes())
    position = int((data.architecture_rows // 4 == 2).nonzero()[0])  # an image of the third file
    within = int(data.architecture_rows[position]) - 8
    image, label = data.architecture_set[position]
    expected = torch.from_numpy(batch["data"][within].reshape(3, 32, 32))
    assert torch.equal(denormalise(image, CIFAR10_MEAN, CIFAR10_STD), expected)
    assert label == batch["labels"][within]


def test_cifar10_test_images(cifar_root):
    test = load_test_data(DataConfig(name="cifar10", root=cifar_root, image_size=16))
    assert test.labels.tolist() == [9, 8, 7]
    assert test[0][0].shape == (3, 16, 16)
    assert test.augmentation == "none"


def test_cifar100_has_the_fine_classes(cifar_root):
    data = load_search_data(DataConfig(name="cifar100", root=cifar_root, train_fraction=0.75))
    assert data.sizes == (6, 2)
    assert data.num_classes == 100
    labels = torch.cat([data.weight_set.labels, data.architecture_set.labels])
    assert sorted(labels.tolist()) == list(range(92, 100))


def test_svhn_is_read_with_its_own_labels(tmp_path, monkeypatch):
    import scipy.io
    import torchvision.datasets.svhn

    monkeypatch.setattr(torchvision.datasets.svhn, "check_integrity", lambda path, md5=None: Path(path).is_file())
    images = np.arange(32 * 32 * 3 * 4, dtype=np.uint64).reshape(32, 32, 3, 4).astype(np.uint8)
    scipy.io.savemat(tmp_path / "train_32x32.mat", {"X": images, "y": np.array([[1], [10], [3], [9]])})
    data = load_search_data(DataConfig(name="svhn", root=tmp_path))
    assert (data.num_classes, data.image_shape) == (10, (3, 32, 32))
    position = int((data.architecture_rows == data.architecture_rows.max()).nonzero()[0])
    image, label = data.architecture_set[position]
    row = int(data.architecture_rows[position])
    assert torch.equal(denormalise(image, SVHN_MEAN, SVHN_STD), torch.from_numpy(images[..., row].transpose(2, 0, 1)))
    assert label == [1, 0, 3, 9][row]  # the file calls the zero 10


def test_cifar_root_falls_back_on_the_environment(cifar_root, monkeypatch):
    monkeypatch.setenv("BALENAS_DATA", str(cifar_root))
    assert load_search_data(DataConfig(name="cifar10")).sizes == (10, 10)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_absent_cifar_names_the_option_that_fetches_it(name, tmp_path):
    with pytest.raises(DataError, match=r"download: true") as caught:
        load_search_data(DataConfig(name=name, root=tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_cifar_with_other_md5_sums_is_never_unpickled(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"not what it should be")
    with pytest.raises(DataError, match="corrupted"):
        load_search_data(DataConfig(name="cifar10", root=tmp_path))


def test_failed_download_names_its_cause(tmp_path, monkeypatch):
    import torchvision.datasets

    def fail(self):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", fail)
    with pytest.raises(DataError, match=r"no route to host.*Check the connection"):
        load_search_data(DataConfig(name="cifar10", root=tmp_path, download=True))


def test_unimportable_torchvision_is_explained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(MissingDependencyError, match="pip install --force-reinstall torch torchvision"):
        load_search_data(DataConfig(name="cifar10", root=tmp_path))
    assert load_search_data(DataConfig(limit=4)).sizes == (2, 2)  # the digits do without


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "cifar10_parquet"])
def test_no_folder_at_all(name):
    with pytest.raises(DataError, match="BALENAS_DATA"):
        load_search_data(DataConfig(name=name))


# --- cifar10_parquet


def jpeg_bytes(colour, size=(32, 32)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format="JPEG")
    return buffer.getvalue()


def write_parquet(folder, images, labels, *, part="train", label_type=None):
    table = pa.table({"image": pa.array(images, pa.binary()), "label": pa.array(labels, label_type or pa.uint8())})
    pq.write_table(table, folder / f"cifar10_{part}_jpeg.parquet")


def test_real_parquet_rows_are_the_images_pillow_decodes(data_dir):
    path = data_dir / "cifar10_train_jpeg.parquet"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    table = pq.read_table(path)
    data = load_search_data(DataConfig(name="cifar10_parquet", root=data_dir, limit=64, seed=1))
    assert data.sizes == (32, 32)
    images, labels = collate(data.architecture_set.__getitems__(list(range(32))))
    pixels = denormalise(images, CIFAR10_MEAN, CIFAR10_STD)
    for i, row in enumerate(data.architecture_rows.tolist()):
        by_hand = np.asarray(Image.open(io.BytesIO(table["image"][row].as_py())))
        assert np.array_equal(pixels[i].permute(1, 2, 0).numpy(), by_hand)
        assert labels[i] == table["label"][row].as_py()
    assert data.description["available_images"] == 50_000
    assert data.class_names[9] == "truck"


def test_parquet_reads_train_and_test_files(tmp_path):
    write_parquet(tmp_path, [jpeg_bytes((10 * i, 0, 0)) for i in range(6)], range(6))
    write_parquet(tmp_path, [jpeg_bytes((0, 0, 200))], [9], part="test", label_type=pa.int64())
    config = DataConfig(name="cifar10_parquet", root=tmp_path, image_size=8)
    data = load_search_data(config)
    assert data.sizes == (3, 3)
    assert data.image_shape == (3, 8, 8)
    assert data.architecture_set.labels.tolist() == data.architecture_rows.tolist()
    test = load_test_data(config)
    assert test.labels.tolist() == [9]
    red, _, blue = denormalise(test[0][0], CIFAR10_MEAN, CIFAR10_STD)[:, 4, 4].tolist()
    assert red < 10
    assert abs(blue - 200) < 10


def test_parquet_decodes_only_the_rows_it_needs(tmp_path):
    good = split_of_first(limit=4, of=20)
    images = [jpeg_bytes((0, 0, 0)) if row in good else b"never looked at" for row in range(20)]
    write_parquet(tmp_path, images, [0] * 20)
    assert load_search_data(DataConfig(name="cifar10_parquet", root=tmp_path, limit=4)).sizes == (2, 2)


def split_of_first(*, limit, of):
    from balenas_plugin.data.search_data import split_rows

    return set(torch.cat(split_rows(of, train_fraction=0.5, seed=0, limit=limit)).tolist())


def test_missing_parquet_file_names_root_and_the_environment_variable(tmp_path):
    with pytest.raises(DataError, match=r"cifar10_train_jpeg\.parquet.*BALENAS_DATA"):
        load_search_data(DataConfig(name="cifar10_parquet", root=tmp_path))


def test_parquet_with_other_columns(tmp_path):
    pq.write_table(pa.table({"img": [b"x"], "label": ["cat"]}), tmp_path / "cifar10_train_jpeg.parquet")
    with pytest.raises(DataError, match=r"img \(binary\), label \(string\); wanted are `image`"):
        load_search_data(DataConfig(name="cifar10_parquet", root=tmp_path))


def test_file_that_is_not_parquet(tmp_path):
    (tmp_path / "cifar10_train_jpeg.parquet").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        load_search_data(DataConfig(name="cifar10_parquet", root=tmp_path))


@pytest.mark.parametrize(
    ("image", "cause"),
    [
        (b"", "cannot identify"),
        (b"no jpeg", "cannot identify"),
        (jpeg_bytes((1, 2, 3))[:300], "row 2"),
        (jpeg_bytes((1, 2, 3), size=(64, 32)), "64x32"),
    ],
)
def test_undecodable_row_is_named(tmp_path, image, cause):
    images = [jpeg_bytes((0, 0, 0))] * 4
    images[2] = image
    write_parquet(tmp_path, images, [0, 1, 2, 3])
    with pytest.raises(DataError, match=cause) as caught:
        load_search_data(DataConfig(name="cifar10_parquet", root=tmp_path))
    assert "row 2 of" in str(caught.value)


def test_empty_cells_and_wrong_labels(tmp_path):
    config = DataConfig(name="cifar10_parquet", root=tmp_path)
    write_parquet(tmp_path, [jpeg_bytes((0, 0, 0)), None], [0, 1])
    with pytest.raises(DataError, match="empty cells"):
        load_search_data(config)
    write_parquet(tmp_path, [jpeg_bytes((0, 0, 0))] * 2, [0, 10])
    with pytest.raises(DataError, match="from 0 to 10"):
        load_search_data(config)
    write_parquet(tmp_path, [], [])
    with pytest.raises(BalenasError, match="0 training images"):
        load_search_data(config)
    write_parquet(tmp_path, [], [], part="test")
    with pytest.raises(DataError, match="no test images"):
        load_test_data(config)


# --- folder


@pytest.fixture
def image_folder(tmp_path):
    """Two classes of 5 images: cats are red, dogs are blue, in the central square; beside it all is green."""
    for name, colour in (("dog", (0, 0, 255)), ("cat", (255, 0, 0))):
        (tmp_path / name).mkdir()
        for i in range(5):
            image = Image.new("RGB", (80, 40), (0, 255, 0))
            image.paste(colour, (20, 0, 60, 40))  # the central square
            image.save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_folder_is_read_by_class_and_cropped_to_the_centre(image_folder):
    data = load_search_data(DataConfig(name="folder", root=image_folder, image_size=8))
    assert data.class_names == ("cat", "dog")
    assert data.sizes == (5, 5)
    assert data.image_shape == (3, 8, 8)
    for images, labels in DataLoader(data.architecture_set, batch_size=2, collate_fn=collate):
        pixels = denormalise(images, data.description["mean"], data.description["std"])
        for image, label in zip(pixels, labels.tolist(), strict=True):
            colour = torch.tensor([255, 0, 0] if label == 0 else [0, 0, 255], dtype=torch.uint8).view(3, 1, 1)
            inner = image[:, :, 1:-1]  # at the left and right border the filter sees the green beside the square
            assert torch.equal(inner, colour.expand(3, 8, 6))
            assert (image.int() - colour.int()).abs().max() < 64
    labels = torch.cat([data.weight_set.labels, data.architecture_set.labels])
    assert labels.bincount().tolist() == [5, 5]


def test_folder_defaults_to_32_pixels_and_flips(image_folder):
    data = load_search_data(DataConfig(name="folder", root=image_folder))
    assert data.image_shape == (3, 32, 32)
    assert data.weight_set.augmentation == "crop_flip"
    assert (
        load_search_data(DataConfig(name="folder", root=image_folder, augment="none")).weight_set.augmentation == "none"
    )


def test_folder_takes_grey_palette_and_large_jpeg_images(image_folder):
    shutil.rmtree(image_folder / "dog")
    (image_folder / "dog").mkdir()
    Image.new("L", (30, 50), 120).save(image_folder / "dog" / "grey.png")
    Image.new("RGB", (40, 40), (0, 0, 120)).convert("P").save(image_folder / "dog" / "palette.png")
    stripes = np.broadcast_to((np.arange(32) // 4 % 2 * 255).astype(np.uint8), (32, 32)).copy()
    Image.fromarray(stripes).save(image_folder / "dog" / "stripes.jpg")
    ramp = np.linspace(0, 255, 1000).astype(np.uint8)
    Image.fromarray(np.broadcast_to(ramp, (1000, 1000)).copy()).convert("RGB").save(image_folder / "dog" / "large.jpg")
    data = load_search_data(DataConfig(name="folder", root=image_folder, image_size=16, augment="none"))
    found = {}
    for half in (data.weight_set, data.architecture_set):
        for number, path in enumerate(half.store.paths):
            found[Path(path).name] = half.store.fetch(torch.tensor([number]))[0].int()
    assert found["grey.png"].unique().tolist() == [120]
    assert found["stripes.jpg"].float().std() > 90  # not decoded at so small a scale that they blur to grey
    expected = torch.linspace(255 / 32, 255 - 255 / 32, 16)  # the mean of each sixteenth of the ramp
    assert (found["large.jpg"] - expected).abs().max() < 4


def test_folder_takes_16_bit_grey_images_and_keeps_their_range(image_folder):
    ramp = np.broadcast_to(np.linspace(0, 65535, 64).astype(np.uint16), (64, 64))
    Image.fromarray(ramp.copy()).save(image_folder / "dog" / "grey16.png")
    Image.fromarray((ramp / 257).round().astype(np.uint8)).save(image_folder / "dog" / "grey8.png")
    deep, plain = (
        ImageFiles([str(image_folder / "dog" / name)], image_size=8).fetch(torch.tensor([0])).int()
        for name in ("grey16.png", "grey8.png")
    )
    assert torch.equal(deep, plain)
    assert plain[0, 0, 0].diff().min() > 20  # the ramp, not white


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_images_of_unknown_range_are_named(dtype, image_folder):
    path = image_folder / "dog" / "heights.tif"
    Image.fromarray(np.ones((8, 8), dtype)).save(path)
    with pytest.raises(DataError, match=r"heights\.tif cannot be decoded: the range of its pixels is not known"):
        ImageFiles([str(path)], image_size=8).fetch(torch.tensor([0]))


def test_a_pipe_among_the_images_is_not_waited_for(image_folder):
    os.mkfifo(image_folder / "dog" / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png cannot be decoded: .*not a regular file"):
        ImageFiles([str(image_folder / "dog" / "pipe.png")], image_size=8).fetch(torch.tensor([0]))


def test_undecodable_file_is_named_also_from_a_worker_process(image_folder):
    (image_folder / "dog" / "0.png").write_bytes(b"no image")
    data = load_search_data(DataConfig(name="folder", root=image_folder))
    everything = ConcatDataset([data.weight_set, data.architecture_set])
    for num_workers in (0, 1):
        with pytest.raises(DataError, match=r"dog.0\.png cannot be decoded.*Replace or delete"):
            list(DataLoader(everything, batch_size=4, collate_fn=collate, num_workers=num_workers))


def test_postscript_in_disguise_is_not_opened(image_folder):
    (image_folder / "dog" / "0.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    data = load_search_data(DataConfig(name="folder", root=image_folder))
    everything = ConcatDataset([data.weight_set, data.architecture_set])
    with pytest.raises(DataError, match=r"0\.png cannot be decoded: it is empty, damaged, or of none of the formats"):
        list(DataLoader(everything, batch_size=4, collate_fn=collate))


def test_absent_folder(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        load_search_data(DataConfig(name="folder", root=tmp_path / "absent"))


def test_folder_without_classes_with_one_class_and_with_an_empty_class(image_folder):
    config = DataConfig(name="folder", root=image_folder)
    (image_folder / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        load_search_data(config)
    (image_folder / "empty").rmdir()
    shutil.rmtree(image_folder / "dog")
    with pytest.raises(DataError, match="single class 'cat'"):
        load_search_data(config)
    shutil.rmtree(image_folder / "cat")
    with pytest.raises(DataError, match="no folder of images by class"):
        load_search_data(config)


def test_folder_has_no_test_images(image_folder):
    with pytest.raises(OptionError, match="no test images"):
        load_test_data(DataConfig(name="folder", root=image_folder))
