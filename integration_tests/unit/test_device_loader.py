"""Batches made on the device: every example once, orders from a seed, equal shares for processes."""

from __future__ import annotations

import pytest
import torch

from balenas_plugin.data import DataConfig, DeviceLoader, ImageSet, load_search_data
from balenas_plugin.data import device_loader as module
from balenas_plugin.data.augment import augment
from balenas_plugin.data.device_loader import fits, unfit_for_device
from balenas_plugin.data.images import MemoryImages
from balenas_plugin.errors import OptionError

N, BATCH = 23, 5


def images(augmentation: str = "none") -> ImageSet:
    """Return N images whose label is their number."""
    pixels = torch.randint(0, 256, (N, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return ImageSet(
        MemoryImages(pixels), torch.arange(N), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1), augmentation=augmentation
    )


def loader(augmentation: str = "none", *, seed: int = 0, shuffle: bool = True) -> DeviceLoader:
    return DeviceLoader(images(augmentation), batch_size=BATCH, shuffle=shuffle, seed=seed)


def labels(batches: DeviceLoader) -> list[int]:
    return torch.cat([y for _, y in batches]).tolist()


def test_every_example_comes_once_a_pass_in_a_new_order():
    batches = loader()
    first, second = labels(batches), labels(batches)
    assert sorted(first) == sorted(second) == list(range(N))
    assert first != second
    assert first != list(range(N))
    assert labels(loader(shuffle=False)) == list(range(N))


def test_batches_are_those_of_the_set():
    batches, whole = loader(), images()
    sizes = []
    for x, y in batches:
        expected, _ = whole.batch(y)
        assert torch.equal(x, expected)
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        sizes.append(len(y))
    assert sizes == [5, 5, 5, 5, 3]
    assert len(batches) == len(sizes)
    assert len(batches.sampler) == N


def test_the_seed_and_the_epoch_decide_everything_and_the_global_generator_nothing():
    def passes(batches: DeviceLoader, epochs: range) -> list[torch.Tensor]:
        found = []
        for epoch in epochs:
            batches.sampler.set_epoch(epoch)
            found += [x for _ in range(2) for x, _ in batches]
        return found

    state = torch.get_rng_state()
    whole = passes(loader("crop_flip"), range(4))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    resumed = passes(loader("crop_flip"), range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(whole[len(whole) // 2 :], resumed, strict=True))
    assert not torch.equal(whole[0], whole[5])  # the second pass of an epoch differs from its first
    assert not torch.equal(whole[0], passes(loader("crop_flip", seed=1), range(1))[0])


def test_telling_the_same_epoch_again_does_not_repeat_a_pass():
    batches = loader()
    batches.sampler.set_epoch(3)
    first = labels(batches)
    batches.sampler.set_epoch(3)  # as Lightning does before it validates
    assert labels(batches) != first


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_processes_share_the_common_order_and_have_as_many_batches(processes, monkeypatch):
    common = labels(loader())
    shares, pixels = [], []
    for rank in range(processes):
        monkeypatch.setattr(module, "_place", lambda rank=rank: (rank, processes))
        share = loader("crop")
        shares.append(labels(share))
        assert len(share) == len(list(share))
        pixels.append(next(iter(loader("crop")))[0])
    assert len({len(share) for share in shares}) == 1
    together = [label for step in zip(*shares, strict=True) for label in step]
    assert together[:N] == common
    assert together[N:] == common[: len(together) - N]


def test_augmentation_by_a_generator_is_that_by_the_global_one():
    pixels = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    torch.manual_seed(4)
    by_global = augment(pixels, augmentation="crop_flip")
    by_own = augment(pixels, augmentation="crop_flip", generator=torch.Generator().manual_seed(4))
    assert torch.equal(by_global, by_own)


def test_moving_to_where_it_is_copies_nothing():
    here = images()
    assert here.to(torch.device("cpu")).store.pixels.data_ptr() == here.store.pixels.data_ptr()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu():
    batches = DeviceLoader(images("crop_flip"), batch_size=BATCH, shuffle=True, seed=0, device="cuda")
    found = list(batches)
    assert all(x.device.type == y.device.type == "cuda" for x, y in found)
    assert sorted(torch.cat([y for _, y in found]).tolist()) == list(range(N))


def test_what_is_read_from_files_or_too_large_does_not_lie_on_the_device(tmp_path):
    assert unfit_for_device(images(), torch.device("cpu")) is None
    assert fits(10, 20)
    assert not fits(11, 20)
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for k in range(4):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{k}.png")
    lazy = load_search_data(DataConfig(name="folder", root=tmp_path, image_size=8)).weight_set
    assert "read from files" in (unfit_for_device(lazy, torch.device("cpu")) or "")
    with pytest.raises(ValueError, match="in memory"):
        lazy.to(torch.device("cpu"))


@pytest.mark.parametrize(
    ("options", "reported"),
    [({"on_device": "yes"}, "auto, true, false"), ({"on_device": True, "num_workers": 2}, "num_workers to 0")],
)
def test_options(options, reported):
    with pytest.raises(OptionError, match=reported):
        DataConfig(**options)
