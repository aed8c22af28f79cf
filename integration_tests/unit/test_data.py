"""The split, the augmentation and the batches, on the digits (nothing to download)."""

import json
import math
import pickle
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, DataLoader, Subset

from balenas_plugin.data import DataConfig, collate, load_search_data, load_test_data
from balenas_plugin.data.augment import augment, padding
from balenas_plugin.data.image_set import ImageBatch, ImageSet
from balenas_plugin.data.images import MemoryImages, resize
from balenas_plugin.data.search_data import split_rows
from balenas_plugin.data.sources.digits import MEAN, STD
from balenas_plugin.data.summary import summary


def make_set(*, augmentation="none", num_images=40, size=8):
    pixels = torch.randint(0, 256, (num_images, 3, size, size), generator=torch.Generator().manual_seed(3))
    labels = torch.arange(num_images) % 7
    return ImageSet(
        MemoryImages(pixels.to(torch.uint8)),
        labels,
        mean=(0.1, 0.5, 0.9),
        std=(0.2, 0.3, 0.4),
        augmentation=augmentation,
    )


# --- the split


@given(
    num_images=st.integers(4, 300),
    train_fraction=st.floats(0.3, 0.7),
    seed=st.integers(0, 2**31),
    limited=st.booleans(),
)
def test_split_is_disjoint_and_exhaustive(num_images, train_fraction, seed, limited):
    limit = num_images // 2 + 2 if limited else None
    weight, architecture = split_rows(num_images, train_fraction=train_fraction, seed=seed, limit=limit)
    both = torch.cat([weight, architecture])
    assert len(both.unique()) == len(both) == (limit or num_images)
    assert int(both.min()) >= 0
    assert int(both.max()) < num_images
    assert len(weight) == round(train_fraction * len(both))


def test_split_is_the_same_for_ever():
    weight, architecture = split_rows(10, train_fraction=0.5, seed=0, limit=None)
    assert weight.tolist() == [4, 1, 7, 5, 3]
    assert architecture.tolist() == [9, 0, 8, 6, 2]


def test_split_depends_on_its_seed_only_and_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    first = load_search_data(DataConfig(seed=5))
    state = torch.get_rng_state()
    second = load_search_data(DataConfig(seed=5))
    assert torch.equal(torch.get_rng_state(), state)
    other = load_search_data(DataConfig(seed=6))
    assert torch.equal(first.weight_rows, second.weight_rows)
    assert torch.equal(first.architecture_rows, second.architecture_rows)
    assert first.description == second.description
    assert not torch.equal(first.weight_rows, other.weight_rows)
    assert first.description["split_sha256"] != other.description["split_sha256"]


def test_limit_takes_the_first_of_the_same_shuffle():
    everything = torch.cat(split_rows(100, train_fraction=0.5, seed=2, limit=None))
    limited = torch.cat(split_rows(100, train_fraction=0.25, seed=2, limit=12))
    assert torch.equal(limited, everything[:12])


def test_without_a_split_all_images_are_in_both_halves():
    data = load_search_data(DataConfig(limit=30, split=False))
    assert data.sizes == (30, 30)
    assert data.weight_set.augmentation == "crop"
    assert data.architecture_set.augmentation == "none"
    said = summary(data)
    assert said["images"].startswith("30 of 1,500 of the set digits")
    assert said["halves"] == "none: all 30 train the weights and the architecture, and validate it"


# --- the digits


def test_digits_are_loaded_by_default():
    data = load_search_data(DataConfig())
    assert data.sizes == (750, 750)
    assert data.num_classes == 10
    assert data.class_names[3] == "3"
    assert data.image_shape == (3, 8, 8)
    assert data.weight_set.augmentation == "crop"  # never a flip
    assert json.loads(json.dumps(data.description)) == data.description
    assert data.description["weight_images"] == 750


def test_digits_pixels_and_labels_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    data = load_search_data(DataConfig(seed=4))
    images, labels = collate(data.architecture_set.__getitems__([0, 5]))
    rows = data.architecture_rows[[0, 5]].numpy()
    ink = torch.from_numpy(bunch.images[rows]).float() / 16
    expected = (ink - MEAN[0]) / STD[0]
    assert torch.allclose(images[:, 1], expected, atol=0.5 / 255 / STD[0] + 1e-5)  # rounded to 8 bits
    assert torch.equal(images[:, 0], images[:, 2])
    assert labels.tolist() == bunch.target[rows].tolist()


def test_digits_normalisation_constants_match_the_training_images():
    data = load_search_data(DataConfig())
    pixels = torch.cat([data.weight_set.store.pixels, data.architecture_set.store.pixels]).double() / 255
    assert math.isclose(float(pixels.mean()), MEAN[0], abs_tol=1e-4)
    assert math.isclose(float(pixels.std()), STD[0], abs_tol=1e-4)


def test_digits_test_images_are_never_searched_on():
    test = load_test_data(DataConfig(seed=9, limit=10))
    assert len(test) == 297
    assert test.augmentation == "none"
    data = load_search_data(DataConfig())
    assert int(torch.cat([data.weight_rows, data.architecture_rows]).max()) < 1500
    assert sorted(test.labels.unique().tolist()) == list(range(10))


def test_image_size_resizes():
    data = load_search_data(DataConfig(image_size=16, limit=20))
    assert data.image_shape == (3, 16, 16)
    assert data.weight_set[0][0].shape == (3, 16, 16)


def test_resize_down_averages_over_every_pixel():
    pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    pixels[..., ::4] = 203  # every fourth column: bilinear without antialiasing would look at the two columns between
    small = resize(pixels, 8)
    assert small.dtype == torch.uint8
    assert small.shape == (1, 3, 8, 8)
    assert small[..., 1:-1].unique().tolist() == [51]  # 203 / 4 = 50.75, rounded
    assert resize(pixels, 32) is pixels
    assert resize(pixels, None) is pixels


# --- batches


def test_batch_equals_single_images_without_augmentation():
    images = make_set()
    batch_images, batch_labels = collate(images.__getitems__([7, 0, 39, 7]))
    for i, index in enumerate([7, 0, 39, 7]):
        image, label = images[index]
        assert torch.equal(image, batch_images[i])
        assert label == batch_labels[i] == index % 7


def test_images_are_normalised_per_channel():
    images = make_set()
    image, _ = images[3]
    raw = images.store.pixels[3].double() / 255
    expected = (raw - torch.tensor([0.1, 0.5, 0.9]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    assert image.dtype == torch.float32
    assert torch.allclose(image.double(), expected, atol=1e-5)


@pytest.mark.parametrize("augmentation", ["none", "crop", "crop_flip"])
def test_batches_keep_labels_dtype_and_shape(augmentation):
    images = make_set(augmentation=augmentation)
    loader = DataLoader(images, batch_size=16, collate_fn=collate)
    batches = list(loader)
    assert [tuple(x.shape) for x, _ in batches] == [(16, 3, 8, 8), (16, 3, 8, 8), (8, 3, 8, 8)]
    assert all(x.dtype == torch.float32 and y.dtype == torch.int64 for x, y in batches)
    assert torch.equal(torch.cat([y for _, y in batches]), images.labels)
    assert images.store.pixels.dtype == torch.uint8  # and the stored images stay as they were
    assert torch.equal(images.store.pixels, make_set().store.pixels)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_restoring_the_generator_restores_every_batch(num_workers):
    images = make_set(augmentation="crop_flip")
    loader = DataLoader(images, batch_size=16, shuffle=True, collate_fn=collate, num_workers=num_workers)
    state = torch.get_rng_state()
    first = list(loader)
    second = list(loader)
    torch.set_rng_state(state)
    again = list(loader)
    for (x, y), (x_again, y_again) in zip(first, again, strict=True):
        assert torch.equal(x, x_again)
        assert torch.equal(y, y_again)
    assert not torch.equal(first[0][0], second[0][0])


def test_restoring_the_generator_within_an_epoch_restores_the_rest_of_it():
    images = make_set(augmentation="crop_flip")
    images.__getitems__([1, 2, 3])
    state = torch.get_rng_state()
    expected = images.__getitems__([4, 5, 6]).images
    torch.set_rng_state(state)
    assert torch.equal(images.__getitems__([4, 5, 6]).images, expected)


def test_architecture_half_is_not_augmented():
    data = load_search_data(DataConfig(augment="crop_flip"))
    assert data.description["augmentation"] == "crop_flip"
    state = torch.get_rng_state()
    first, _ = collate(data.architecture_set.__getitems__(list(range(32))))
    second, _ = collate(data.architecture_set.__getitems__(list(range(32))))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    weights_first, _ = collate(data.weight_set.__getitems__(list(range(32))))
    weights_second, _ = collate(data.weight_set.__getitems__(list(range(32))))
    assert not torch.equal(weights_first, weights_second)


def test_plain_loader_and_wrappers_give_the_same_values():
    images = make_set()
    expected = list(DataLoader(images, batch_size=16, collate_fn=collate))
    plain = list(DataLoader(images, batch_size=16))
    chained = list(DataLoader(ConcatDataset([images]), batch_size=16, collate_fn=collate))
    subset = list(DataLoader(Subset(images, range(40)), batch_size=16, collate_fn=collate))
    for other in (plain, chained, subset):
        for (x, y), (x_other, y_other) in zip(expected, other, strict=True):
            assert torch.equal(x, x_other)
            assert torch.equal(y, y_other)
            assert y_other.dtype == torch.int64


def test_collate_does_not_copy_a_batch():
    batch = make_set().__getitems__([1, 2])
    assert isinstance(batch, ImageBatch)
    assert len(batch) == 2
    assert collate(batch)[0] is batch.images
    assert pickle.loads(pickle.dumps(collate)) is collate  # as worker processes started by spawn need


@pytest.mark.parametrize("index", [40, -41])
def test_an_index_out_of_range_is_an_index_error(index):
    with pytest.raises(IndexError):
        make_set()[index]


def test_images_must_be_uint8():
    with pytest.raises(ValueError, match="uint8"):
        MemoryImages(torch.zeros(2, 3, 8, 8))


# --- the augmentation


def brute_force_views(image, *, flip):
    """Every image that crop (and flip) can make of one image, as bytes."""
    pad = padding(image.shape[-1])
    padded = F.pad(image, (pad, pad, pad, pad))
    size = image.shape[-1]
    views = set()
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            view = padded[:, top : top + size, left : left + size]
            views.add(view.numpy().tobytes())
            if flip:
                views.add(view.flip(2).numpy().tobytes())
    return views


@pytest.mark.parametrize("augmentation", ["crop", "crop_flip"])
def test_augmented_images_are_exactly_the_crops_and_mirrors_of_their_original(augmentation):
    image = torch.arange(3 * 16 * 16).view(3, 16, 16).remainder(251).to(torch.uint8)
    torch.manual_seed(0)
    made = augment(image.expand(4000, -1, -1, -1), augmentation=augmentation)
    allowed = brute_force_views(image, flip=augmentation == "crop_flip")
    assert len(allowed) == (50 if augmentation == "crop_flip" else 25)
    seen = {one.numpy().tobytes() for one in made}
    assert seen == allowed  # with 4,000 draws, one of 50 is missing with probability 4e-34


def test_each_image_of_a_batch_has_its_own_draw_of_its_own_pixels():
    pixels = torch.arange(30, dtype=torch.uint8).add(1).view(30, 1, 1, 1).expand(30, 3, 32, 32)
    torch.manual_seed(0)
    made = augment(pixels, augmentation="crop")
    assert [sorted(one.unique().tolist())[-1] for one in made] == list(range(1, 31))
    assert len({tuple((one[0] > 0).flatten().tolist()) for one in made}) > 10


def test_none_returns_the_pixels_and_draws_nothing():
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    state = torch.get_rng_state()
    assert augment(pixels, augmentation="none") is pixels
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("size", "expected"), [(4, 1), (8, 1), (16, 2), (32, 4), (64, 8)])
def test_padding_scales_with_the_image(size, expected):
    assert padding(size) == expected


# --- the options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cifar"}, "did you mean 'cifar10"),
        ({"name": 3}, "one of digits, cifar10"),
        ({"image_size": 3}, "at least 4"),
        ({"image_size": 16.0}, "whole number"),
        ({"batch_size": 0}, "at least 1"),
        ({"batch_size": True}, "whole number"),
        ({"num_workers": -1}, "at least 0"),
        ({"seed": "1"}, "whole number"),
        ({"seed": 2**32}, "at most 4294967295"),
        ({"on_device": 0}, "data.on_device must be one of auto, true, false, got 0"),
        ({"on_device": "yes"}, "one of auto, true, false"),
        ({"limit": 1}, "at least 2"),
        ({"train_fraction": 0.0}, "between 0 and 1"),
        ({"train_fraction": 1}, "between 0 and 1"),
        ({"train_fraction": float("nan")}, "between 0 and 1"),
        ({"train_fraction": "half"}, "between 0 and 1"),
        ({"augment": "cropflip"}, "did you mean 'crop_flip'"),
        ({"download": "yes"}, "true or false"),
        ({"root": 7}, "path of a folder"),
        ({"root": ""}, "path of a folder"),
        ({"name": "folder"}, "needs the option data.root"),
    ],
)
def test_wrong_options_are_refused_at_construction(options, message):
    from balenas_plugin.errors import OptionError

    with pytest.raises(OptionError, match=message):
        DataConfig(**options)


def test_root_becomes_a_string(tmp_path):
    assert DataConfig(root=tmp_path).root == str(tmp_path)
    assert replace(DataConfig(root=tmp_path), seed=1).root == str(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 1501}, "only 1500 training images"),
        ({"limit": 2, "train_fraction": 0.01}, "one half empty"),
        ({"limit": 3, "train_fraction": 0.99}, "one half empty"),
    ],
)
def test_splits_that_cannot_be_are_refused(options, message):
    from balenas_plugin.errors import OptionError

    with pytest.raises(OptionError, match=message):
        load_search_data(DataConfig(**options))
