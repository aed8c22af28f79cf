"""Folders of images: which layouts are recognised, which are refused, and what is found in their files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from PIL import Image

from balenas_plugin.data import DataConfig, SearchData, load_search_data, load_test_data
from balenas_plugin.data.checking import check_files
from balenas_plugin.data.sources.folder import ImageFiles
from balenas_plugin.data.sources.folder_layout import find_parts
from balenas_plugin.data.summary import summary
from balenas_plugin.errors import DataError, OptionError


def make(root: Path, *paths: str, each: int = 3) -> Path:
    """Make `each` images in every folder named; a name with an ending is that one file."""
    for number, path in enumerate(paths):
        folder, names = (root / path, [f"{k}.png" for k in range(each)])
        if Path(path).suffix:
            folder, names = folder.parent, [folder.name]
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            if name.endswith(".png"):
                Image.new("RGB", (10, 8), (20 * number, 0, 0)).save(folder / name)
            else:
                (folder / name).write_text("no image")
    return root


def split(root: Path, splits: Iterable[str], classes: Iterable[str] = ("cat", "dog"), **options: int) -> Path:
    return make(root, *(f"{part}/{name}" for part in splits for name in classes), **options)


def load(root: Path, **options: object) -> SearchData:
    return load_search_data(DataConfig(name="folder", root=root, image_size=8, **options))


def folders_of(data: SearchData) -> list[set[str]]:
    """Return the names of the folders above the classes, of the weight half and of the architecture half."""
    return [
        {Path(path).parents[1].name for path in half.store.paths} for half in (data.weight_set, data.architecture_set)
    ]


# --- what is recognised


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("Training", "VALID", "Testing"), ("TRAIN", "Validation", None)],
)
def test_val_trains_the_architecture_and_test_is_left_alone(train, val, test, tmp_path):
    split(tmp_path, [train, val] + ([test] if test else []))
    data = load(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert data.sizes == (6, 6)
    assert folders_of(data) == [{train}, {val}]
    assert data.description["folders"]["val"] == {"folder": str(tmp_path / val), "images": 6}
    if test:
        test_images = load_test_data(DataConfig(name="folder", root=tmp_path, image_size=8))
        assert {Path(path).parents[1].name for path in test_images.store.paths} == {test}
        assert test_images.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_train_and_test_alone_split_train_in_half(tmp_path):
    data = load(split(tmp_path, ["train", "test"]))
    assert data.class_names == ("cat", "dog")
    assert data.sizes == (3, 3)
    assert folders_of(data) == [{"train"}, {"train"}]
    assert load(split(tmp_path / "alone", ["train"])).sizes == (3, 3)


def test_class_folders_directly_give_the_images_of_torchvision_in_its_order(tmp_path):
    from torchvision.datasets import ImageFolder

    make(tmp_path, "b", "a", "C", "a/10.png", "a/Upper.PNG", "a/note.txt", "a/.hidden.png", ".git/x/1.png")
    data = load(tmp_path, seed=3)
    listing = ImageFolder(make(tmp_path / "twin", "b", "a", "C", "a/10.png", "a/Upper.PNG"))
    assert data.class_names == tuple(listing.classes)
    assert data.description["left_out"] == {".txt": 1}
    for rows, half in ((data.weight_rows, data.weight_set), (data.architecture_rows, data.architecture_set)):
        expected = [listing.samples[row] for row in rows.tolist()]
        assert [Path(path).relative_to(tmp_path) for path in half.store.paths] == [
            Path(path).relative_to(tmp_path / "twin") for path, _ in expected
        ]
        assert half.labels.tolist() == [label for _, label in expected]


def test_a_class_may_be_called_train_below_the_splits(tmp_path):
    assert load(split(tmp_path, ["train", "val"], ["bus", "train"])).class_names == ("bus", "train")


def test_folders_without_images_beside_the_splits_do_not_matter(tmp_path):
    make(split(tmp_path, ["train", "val"]), "annotations/boxes.json", "__MACOSX/cat/x.png")
    assert load(tmp_path).sizes == (6, 6)


def test_limit_counts_both_parts_and_depends_on_the_seed(tmp_path):
    split(tmp_path, ["train", "val"], each=10)
    data = load(tmp_path, limit=20)
    assert sum(data.sizes) == 20
    assert folders_of(data) == [{"train"}, {"val"}]
    assert load(tmp_path, limit=20).description == data.description
    assert load(tmp_path, limit=20, seed=1).description["split_sha256"] != data.description["split_sha256"]
    with pytest.raises(OptionError, match="only 40 training images"):
        load(tmp_path, limit=41)


def test_a_fraction_that_would_not_be_used_is_refused(tmp_path):
    with pytest.raises(OptionError, match=r"train_fraction is 0\.7.*train.*val.*leave the option out"):
        load(split(tmp_path, ["train", "val"]), train_fraction=0.7)


# --- what is refused, and by which names


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["train/cat", "train/dog", "cat", "dog"], r"'train' beside the folders 'cat', 'dog': are these classes"),
        (["train", "bus", "car"], r"'train' beside the folders 'bus', 'car'.*Rename 'train' if it is a class"),
        (
            ["train", "test"],
            r"train has images, such as '0\.png', itself: put every image into the folder of its class",
        ),
        (["train/cat", "train/dog", "test"], r"test has images, such as '0\.png'"),
        (
            ["train/cat", "train/dog", "val/cat", "val/dox"],
            r"val lacks the class 'dog' and has the class 'dox' besides",
        ),
        (["train/cat", "train/dog", "test/cat", "test/dog", "test/eel"], r"test has the class 'eel' besides"),
        (["train/cat", "train/dog", "val/cat", "val/dog", "valid/cat", "valid/dog"], r"val and .*valid both stand for"),
        (["val/cat", "val/dog", "test/cat", "test/dog"], r"the folders 'val', 'test' but no folder 'train'"),
        (["train/cat", "test/cat"], r"train holds the single class 'cat'"),
        (["cat"], r"holds the single class 'cat'; a search needs at least two"),
        (["cat", "dog", "stray.png"], r"images, such as 'stray\.png', beside the folders 'cat', 'dog'"),
        (["train/cat", "train/dog", "stray.png"], r"images, such as 'stray\.png', beside the folder 'train'"),
        (["stray.png"], r"images, such as 'stray\.png', itself"),
        (["pets/cat", "pets/dog"], r"pets.cat.0\.png lies too deep.*Try .*pets"),
        (["cat/indoor", "cat/outdoor", "dog"], r"cat.indoor.0\.png lies too deep"),
        (["cat/train", "cat/test", "dog/train", "dog/test"], r"cat.test.0\.png lies too deep"),
        (["train/animals/cat", "train/animals/dog", "test/animals/cat"], r"animals.cat.0\.png lies too deep"),
        (["cat", "dog/a.heic"], r"the class folder .*dog is empty of images \(only 1 \.heic\)"),
        (["notes.txt"], r"no folder of images by class"),
    ],
)
def test_ambiguous_layouts_are_refused_with_names(paths, message, tmp_path):
    with pytest.raises(DataError, match=message) as raised:
        load(make(tmp_path, *paths))
    assert "\n" not in str(raised.value)


# --- what an image becomes


def test_the_task_is_in_the_description_of_the_data(tmp_path):
    data = load(split(tmp_path, ["train", "val"]))
    written = json.loads(json.dumps(data.description))
    assert written["class_names"] == ["cat", "dog"]
    assert written["image_size"] == 8
    assert written["channel_order"] == "RGB"
    assert written["mean"] == [0.485, 0.456, 0.406]
    assert type(data.task).from_dict(written) == data.task


@pytest.mark.parametrize("kind", ["photo.jpg", "grey16.png", "palette.png", "cmyk.jpg", "alpha.png", "tall.png"])
def test_the_source_of_the_task_gives_the_pipelines_tensors(kind, tmp_path):
    """With nothing but torch and Pillow: what is exported beside a network."""
    torch.manual_seed(0)
    noise = torch.randint(256, (120, 90, 3), dtype=torch.uint8).numpy()
    image = Image.fromarray(noise).resize((90, 120)).resize((300, 400))
    image = {
        "grey16.png": lambda: Image.fromarray(noise[..., 0].astype("uint16") * 250),
        "palette.png": lambda: image.convert("P"),
        "cmyk.jpg": lambda: image.convert("CMYK"),
        "alpha.png": lambda: image.convert("RGBA"),
        "tall.png": lambda: image.crop((0, 0, 20, 400)),
    }.get(kind, lambda: image)()
    split(tmp_path, ["train", "val"], each=1)
    image.save(tmp_path / "val" / "cat" / kind)
    data = load_search_data(DataConfig(name="folder", root=tmp_path, image_size=16))
    number = [Path(path).name for path in data.architecture_set.store.paths].index(kind)
    defined: dict[str, object] = {}
    exec(f"from __future__ import annotations\nfrom typing import Any\nimport torch\n{data.task.source()}", defined)
    assert defined["CLASS_NAMES"] == ("cat", "dog")
    found = defined["preprocess"](tmp_path / "val" / "cat" / kind)
    assert torch.equal(found[0], data.architecture_set[number][0])
    with Image.open(tmp_path / "val" / "cat" / kind) as opened:
        assert torch.equal(defined["preprocess"](opened), found)


def test_names_of_classes_are_texts(tmp_path):
    for name in (b"caf\xe9", b"th\xc3\xa9"):
        folder = Path(os.fsdecode(os.fsencode(tmp_path / "x")[:-1] + name))
        folder.mkdir()
        (folder / "0.png").touch()
    assert find_parts(tmp_path)["all"].class_names == (r"caf\xe9", "thé")


@pytest.mark.parametrize("transform", [None, lambda pixels: pixels])
def test_images_are_turned_as_exif_says_and_transparent_pixels_are_white(transform, tmp_path):
    halves = Image.new("RGB", (16, 16))
    halves.paste((255, 255, 255), (8, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 3  # held upside down
    halves.save(tmp_path / "turned.png", exif=exif)
    Image.new("RGBA", (16, 16), (9, 9, 9, 0)).save(tmp_path / "clear.png")
    Image.new("P", (16, 16)).save(tmp_path / "palette.png", transparency=0)
    files = [str(tmp_path / name) for name in ("turned.png", "clear.png", "palette.png")]
    turned, *others = ImageFiles(files, image_size=16, transform=transform).fetch(torch.arange(3))
    assert turned.float().mean((0, 1)).tolist() == [255.0] * 8 + [0.0] * 8
    assert all(bool((image == 255).all()) for image in others)


# --- what is said before a search


def test_every_file_is_looked_at_before_the_search_and_the_first_bad_one_named(tmp_path):
    split(tmp_path, ["train", "val"])
    whole = (tmp_path / "train" / "cat" / "0.png").read_bytes()
    (tmp_path / "train" / "dog" / "1.png").write_bytes(whole[:-30])
    data = load(tmp_path)
    with pytest.raises(
        DataError, match=r"^1 image of 12 cannot be decoded: .*dog.1\.png: .*Replace or delete the file"
    ):
        check_files(data.weight_set, data.architecture_set)
    (tmp_path / "val" / "cat" / "2.png").unlink()
    os.mkfifo(tmp_path / "val" / "cat" / "2.png")
    with pytest.raises(DataError, match=r"2 images of 12 cannot be decoded, the first: .*dog.1\.png"):
        check_files(data.weight_set, data.architecture_set)
    assert "not a regular file" in str(raised_by(data, "2.png"))


def raised_by(data: SearchData, name: str) -> BaseException:
    number = [Path(path).name for path in data.architecture_set.store.paths].index(name)
    with pytest.raises(DataError) as raised:
        data.architecture_set[number]
    return raised.value


def test_images_in_memory_need_no_look():
    assert check_files(load_search_data(DataConfig()).weight_set) == {}


def test_the_summary_names_folders_classes_sizes_and_what_is_uneven(tmp_path):
    split(tmp_path, ["Train", "valid", "test"], ["cat", "dog"])
    make(tmp_path, "Train/cat/readme.txt", *(f"Train/eel/{k}.png" for k in range(30)), "valid/eel", "test/eel")
    Image.new("L", (40, 20)).save(tmp_path / "valid" / "dog" / "0.png")
    data = load(tmp_path)
    data.description.update(check_files(data.weight_set, data.architecture_set))
    assert summary(data) == {
        "images": f"45 in {tmp_path}, 10x8 to 40x20 pixels; their central squares, scaled to 8x8, are used in RGB "
        "(1 are L); other files are left out: 1 .txt",
        "classes": "3: cat (6), dog (6), eel (33); uneven: who always says eel is right for 73%, cat is rare",
        "halves": "36 of Train train the weights, 9 of valid the architecture and validate it; test (9) is not touched",
    }


def test_the_summary_of_a_split_in_half_and_of_classes_that_a_half_lacks(tmp_path):
    data = load(split(tmp_path, ["train", "test"], [f"kind{k}" for k in range(12)], each=4), limit=6)
    lines = summary(data)
    assert lines["images"].startswith("6 of 48 in ")
    assert lines["halves"] == (
        "3 of train train the weights, 3 others of train the architecture and validate it; test (48) is not touched"
    )
    assert "and 4 more" in lines["classes"]
    assert "WARNING: no image that trains the weights is of kind" in lines["classes"]
