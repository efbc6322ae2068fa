"""Grain puts back the power that a set of reconstructions lacks, and nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from meddiff_core.contract import Contract
from meddiff_core.generation.engine import Engine, open_engine
from meddiff_core.generation.grain import (
    BINS,
    FEWEST,
    FOREGROUND,
    STREAM,
    Grain,
    band_shares,
    fit_grain,
    in_bands,
    load_grain,
    powers_of,
    save_grain,
)
from meddiff_core.types import FloatArray, LabelArray
from tests.generation.test_engine import Sampling, samples

SHAPE = (20, 24, 9)
NAMES = [f"sub-{n}" for n in range(8)]


def ball() -> tuple[FloatArray, LabelArray]:
    """Two tissues in an ellipsoid, and nothing around it."""
    away = sum(np.square(axis) for axis in np.meshgrid(*[np.linspace(-1, 1, side) for side in SHAPE], indexing="ij"))
    label = np.where(away < 0.3, 2, np.where(away < 0.8, 1, 0)).astype(np.uint8)
    return np.array([0.0, 0.4, 0.7], np.float32)[label], label


def noisy(n: int, strengths: tuple[float, float]) -> tuple[FloatArray, LabelArray]:
    """A scan: correlated noise of another strength in each tissue."""
    unit, label = ball()
    white = ndimage.gaussian_filter(np.random.default_rng(n).standard_normal(SHAPE), 0.4)
    return (unit + np.array([0.0, *strengths])[label] * white / white.std()).clip(0, 1).astype(np.float32), label


def fitted(strengths: tuple[float, float] = (0.02, 0.06)) -> Grain:
    copy = powers_of(*ball(), 2)
    found = fit_grain([powers_of(*noisy(n, strengths), 2) for n in range(8)], [copy] * 8, NAMES)
    assert found is not None
    return found


def test_a_smooth_volume_gets_the_power_that_scans_have_tissue_by_tissue() -> None:
    grain, (unit, label) = replace(fitted(), spread=0.0), ball()
    real = np.mean([powers_of(*noisy(n, (0.02, 0.06)), 2).squares for n in range(100, 108)], axis=0)
    grained = np.mean([powers_of(grain.add(unit, label, n), label, 2).squares for n in range(8)], axis=0)
    bare = powers_of(unit, label, 2).squares
    for tissue in (1, 2):
        had, has, wanted = (one[1:, tissue].sum() for one in (bare, grained, real))
        assert abs(has - wanted) < 0.25 * (wanted - had)


def test_there_is_none_outside_the_foreground_nor_beyond_the_range() -> None:
    unit, label = ball()
    grained = Grain(np.full((4, 3, BINS), 0.04), 0.5).add(unit, label, 3)
    assert np.array_equal(grained[unit <= FOREGROUND], unit[unit <= FOREGROUND])
    assert (grained != unit).any()
    assert grained.min() >= 0
    assert grained.max() <= 1


def test_it_follows_from_the_seed_alone_and_from_none_of_the_noise_that_a_sample_starts_from() -> None:
    grain, (unit, label) = fitted(), ball()
    before = unit.copy()
    assert np.array_equal(grain.add(unit, label, 7), grain.add(unit, label, 7))
    assert not np.array_equal(grain.add(unit, label, 7), grain.add(unit, label, 8))
    assert np.array_equal(unit, before)
    levels = [np.random.Generator(np.random.Philox(key=7, counter=n << 192)).standard_normal(4) for n in range(3)]
    own = np.random.Generator(np.random.Philox(key=7, counter=STREAM)).standard_normal(4)
    assert all(not np.isin(own, level).any() for level in levels)


def test_what_lacks_nothing_gets_nothing() -> None:
    scans = [powers_of(*noisy(n, (0.02, 0.06)), 2) for n in range(8)]
    same, unit = fit_grain(scans, scans, NAMES), ball()[0]
    assert same is not None
    assert np.array_equal(same.add(unit, ball()[1], 1), unit)


def test_nothing_is_kept_of_a_tissue_that_few_subjects_have() -> None:
    """A lesion in few scans takes the strength of what others have; with too few subjects there is no grain at all."""
    scans = []
    for n in range(8):
        unit, label = noisy(n, (0.02, 0.06))
        scans.append(powers_of(unit, np.where((label == 2) & (n < FEWEST - 1), 3, label).astype(np.uint8), 3))
    copies = [powers_of(*ball(), 3)] * 8
    found = fit_grain(scans, copies, NAMES)
    assert found is not None
    assert np.array_equal(found.power[:, 3], found.power[:, 0])
    assert fit_grain(scans, copies, ["one", "two", "three", "four"] * 2) is None


@pytest.mark.parametrize("shape", [(8, 8, 8), (7, 10, 3), (24, 20, 1)])
def test_bands_of_white_noise_have_their_shares(shape: tuple[int, int, int]) -> None:
    white = np.random.default_rng(0).standard_normal((30, *shape), dtype=np.float32)
    found = np.mean([[np.square(band).mean() for band in in_bands(one)] for one in white], axis=0)
    assert found == pytest.approx(band_shares(shape), abs=0.1)


def test_without_label_maps_there_is_one_tissue() -> None:
    scans = [powers_of(noisy(n, (0.05, 0.05))[0], None, 0) for n in range(8)]
    found = fit_grain(scans, [powers_of(ball()[0], None, 0)] * 8, NAMES)
    assert found is not None
    assert found.power.shape == (4, 1, BINS)
    assert (found.add(ball()[0], None, 1) != ball()[0]).any()


def test_it_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    grain = fitted()
    save_grain(tmp_path / "grain", grain)
    found = load_grain(tmp_path / "grain")
    assert found is not None
    assert np.array_equal(found.power, grain.power)
    assert found.spread == grain.spread
    save_grain(tmp_path / "none", None)
    assert load_grain(tmp_path / "none") is None
    assert load_grain(tmp_path / "nowhere") is None


def test_the_engine_adds_it_to_images_alone_in_any_batch(models: Path, sampling: Sampling, contract: Contract) -> None:
    plain = open_engine(models, "plain", sampling(grain=False), "cpu")
    grain = Grain(np.full((4, 1 + len(contract.labels), BINS), 1e-3), 0.1)
    parts = (plain.autoencoder, plain.denoiser, plain.scale, contract)
    grained, batched = (Engine(*parts, sampling(batch=batch), grain=grain) for batch in (1, 3))  # type: ignore[arg-type]
    before, labels = plain.sample(samples(4))
    after, same = grained.sample(samples(4))
    assert labels is not None
    assert same is not None
    assert np.array_equal(labels, same)
    assert (before != after).any()
    assert np.array_equal(batched.sample(samples(4)[::-1])[0][::-1], after)
