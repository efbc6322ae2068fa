"""Latents are distributions: their moments are kept, and their scale is that of what is sampled."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from meddiff_core.contract import Contract
from meddiff_core.data.store import chunk_path, open_array
from meddiff_core.errors import IntegrityError
from meddiff_core.models.augmentation import augment, random_augmentations
from meddiff_core.models.autoencoder import Autoencoder, AutoencoderShape
from meddiff_core.models.images import load_images
from meddiff_core.models.latents import AugmentedLatents, LatentSet, encode_latents
from meddiff_core.models.randomness import generator_for

SHAPE = AutoencoderShape(in_channels=4, channels=(8, 8, 8), latent_channels=2)


@pytest.fixture(scope="module")
def network() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(SHAPE).eval()


@pytest.fixture
def latents() -> LatentSet:
    """Means and standard deviations that differ by channel, volume and place."""
    generator = generator_for("latents")
    channel = torch.tensor([1.0, 5.0])[:, None, None, None]
    mean = channel * torch.randn((6, 2, 3, 3, 3), generator=generator) + 2 * channel
    return LatentSet(mean, channel * torch.rand((6, 2, 3, 3, 3), generator=generator))


@torch.inference_mode()
def test_what_is_stored_is_what_the_encoder_says(
    tmp_path: Path, network: Autoencoder, make_volumes: Callable, contract: Contract, finish: Callable
) -> None:
    sides = {"train": make_volumes(3), "validation": make_volumes(2, seed=1)}
    finish(encode_latents(tmp_path / "latents.zarr", network, sides, contract))
    for side, volumes in sides.items():
        latents = LatentSet.open(tmp_path / "latents.zarr", side)
        mean, log_variance = network.encode(load_images(volumes, range(len(volumes)), contract))
        assert_close(latents.mean, mean)
        assert_close(latents.std, (0.5 * log_variance).exp())


def test_progress_counts_every_volume_and_the_digest_every_voxel(
    tmp_path: Path, network: Autoencoder, make_volumes: Callable, contract: Contract, finish: Callable
) -> None:
    sides = {"train": make_volumes(2), "validation": make_volumes(1, seed=1)}
    seen = list(encode_latents(tmp_path / "a", network, sides, contract))
    assert [(progress.done, progress.total) for progress in seen] == [(1, 3), (2, 3), (3, 3)]
    digests = [finish(encode_latents(tmp_path / "a", network, sides, contract)) for _ in range(2)]
    assert digests[0] == digests[1]
    sides["validation"].images[0, 3, 3, 3] ^= 64
    assert finish(encode_latents(tmp_path / "a", network, sides, contract)) != digests[0]


def test_an_empty_side_is_stored_as_such(
    tmp_path: Path, network: Autoencoder, make_volumes: Callable, contract: Contract, finish: Callable
) -> None:
    sides = {"train": make_volumes(1), "validation": make_volumes(0)}
    finish(encode_latents(tmp_path / "a", network, sides, contract))
    assert len(LatentSet.open(tmp_path / "a", "validation")) == 0


def test_an_encoding_that_was_killed_leaves_the_old_one(
    tmp_path: Path, network: Autoencoder, make_volumes: Callable, contract: Contract, finish: Callable
) -> None:
    path = tmp_path / "latents.zarr"
    finish(encode_latents(path, network, {"train": make_volumes(2)}, contract))
    before = LatentSet.open(path, "train").mean
    work = encode_latents(path, network, {"train": make_volumes(2, seed=5)}, contract)
    next(work)
    work.close()
    assert torch.equal(LatentSet.open(path, "train").mean, before)


def test_a_lost_chunk_is_an_error_and_not_zeros(
    tmp_path: Path, network: Autoencoder, make_volumes: Callable, contract: Contract, finish: Callable
) -> None:
    finish(encode_latents(tmp_path / "a", network, {"train": make_volumes(2)}, contract))
    chunk_path(open_array(tmp_path / "a", "train/mean"), 1).unlink()
    with pytest.raises(IntegrityError, match="chunk of volume 1 is missing"):
        LatentSet.open(tmp_path / "a", "train")


def test_the_scale_is_that_of_many_draws(latents: LatentSet) -> None:
    generator = generator_for("samples")
    everything = torch.arange(6)
    sampled = torch.cat([latents.sample(everything, generator) for _ in range(2000)]).double()
    scale = latents.scale()
    values = sampled.movedim(1, 0).flatten(1)
    assert_close(torch.tensor(scale.mean, dtype=torch.float64), values.mean(dim=1), rtol=0, atol=0.02)
    assert_close(torch.tensor(scale.std, dtype=torch.float64), values.std(dim=1), rtol=0.005, atol=0)


def test_standardised_draws_have_mean_zero_and_deviation_one(latents: LatentSet) -> None:
    generator = generator_for("samples")
    sampled = torch.cat([latents.sample(torch.arange(6), generator) for _ in range(500)])
    standard = latents.scale().standardise(sampled).movedim(1, 0).flatten(1)
    assert standard.mean(dim=1).abs().max() < 0.02
    assert (standard.std(dim=1) - 1).abs().max() < 0.02


def test_each_draw_is_another_one_with_the_spread_of_the_posterior(latents: LatentSet) -> None:
    generator = generator_for("samples")
    sampled = torch.stack([latents.sample(torch.tensor([4, 4, 1]), generator) for _ in range(3000)])
    assert not torch.equal(sampled[0], sampled[1])
    assert not torch.equal(sampled[0, 0], sampled[0, 1])
    for position, index in enumerate([4, 4, 1]):
        error = sampled[:, position].mean(dim=0) - latents.mean[index]
        assert (error.abs() / (latents.std[index] / 3000**0.5)).max() < 5
        assert_close(sampled[:, position].std(dim=0), latents.std[index], rtol=0.08, atol=0)


def test_the_same_generator_draws_the_same(latents: LatentSet) -> None:
    samples = [latents.sample(torch.arange(6), generator_for("x", 1)) for _ in range(2)]
    assert torch.equal(*samples)


def test_moved_latents_are_those_of_the_moved_volume(
    tmp_path: Path, network: Autoencoder, contract: Contract, make_volumes: Callable, finish: Callable
) -> None:
    volumes, augmentations = make_volumes(3), random_augmentations(3, 4, ("mirror", "shift", "warp"), 1)
    assert augmentations is not None
    finish(encode_latents(tmp_path / "a", network, {"train": volumes}, contract, augmentations=augmentations))
    latents = AugmentedLatents.open(tmp_path / "a")
    assert latents is not None
    assert torch.equal(latents.augmentations, augmentations)
    for row in (0, 4, 11):
        images = augment(load_images(volumes, [row % 3], contract), augmentations[row])
        with torch.inference_mode():
            torch.testing.assert_close(latents.latents.mean[row], network.encode(images)[0][0])
    sampled, vectors = latents.sample(torch.tensor([2, 2, 1, 0]), torch.Generator().manual_seed(0))
    rows = [int(torch.cdist(one.flatten()[None], latents.latents.mean.flatten(1)).argmin()) for one in sampled]
    assert [row % 3 for row in rows] == [2, 2, 1, 0]
    assert torch.equal(vectors, augmentations[rows])


def test_a_study_without_moves_has_no_moved_latents(
    tmp_path: Path, network: Autoencoder, contract: Contract, make_volumes: Callable, finish: Callable
) -> None:
    finish(encode_latents(tmp_path / "a", network, {"train": make_volumes(2)}, contract))
    assert AugmentedLatents.open(tmp_path / "a") is None
