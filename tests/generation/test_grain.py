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
    CELLS,
    FEWEST,
    FOREGROUND,
    LADDER,
    STREAM,
    Grain,
    Sums,
    fit_grain,
    fit_tone,
    histogram_of,
    load_grain,
    save_grain,
    sums_of,
    toned,
)
from meddiff_core.models.autoencoder import load_autoencoder
from meddiff_core.models.denoiser import load_denoiser
from meddiff_core.types import FloatArray, LabelArray
from tests.generation.test_engine import Sampling, samples

SHAPE = (26, 22, 18)
NAMES = [f"sub-{n}" for n in range(8)]


def phantom() -> tuple[FloatArray, LabelArray]:
    """Two tissues side by side, and nothing around them."""
    label = np.zeros(SHAPE, np.uint8)
    label[3:-3, 3:-3, 3:-3] = 1
    label[13:-3, 3:-3, 3:-3] = 2
    return np.array([0.0, 0.4, 0.7], np.float32)[label], label


def noisy(n: int, strengths: tuple[float, float]) -> tuple[FloatArray, LabelArray]:
    """A scan: correlated noise of another strength in each tissue."""
    unit, label = phantom()
    white = ndimage.gaussian_filter(np.random.default_rng(n).standard_normal(SHAPE), 0.4)
    return (unit + np.array([0.0, *strengths])[label] * white / white.std()).clip(0, 1).astype(np.float32), label


def sums(scan: tuple[FloatArray, LabelArray], groups: int = 2) -> tuple[Sums, Sums]:
    """Of a scan and of the smooth volume that an autoencoder makes of it."""
    copy, _ = phantom()
    return sums_of(scan[0], copy, scan[1], groups), sums_of(copy, copy, scan[1], groups)


def fitted(strengths: tuple[float, float] = (0.02, 0.06)) -> Grain:
    scans, copies = zip(*[sums(noisy(n, strengths)) for n in range(8)], strict=True)
    found = fit_grain(scans, copies, NAMES)
    assert found is not None
    return found


def even(power: float, spread: float = 0.0, groups: int = 2) -> Grain:
    return Grain(np.full((CELLS,) * 3, power), np.ones((1 + groups, BINS)), spread, LADDER)


def test_a_smooth_volume_gets_the_power_that_scans_have_tissue_by_tissue() -> None:
    grain, (unit, label) = replace(fitted(), spread=0.0), phantom()
    inner = {tissue: ndimage.binary_erosion(label == tissue) for tissue in (1, 2)}
    scans = [noisy(n, (0.02, 0.06))[0] for n in range(100, 108)]
    grained = [grain.add(unit, label, n) for n in range(8)]
    for tissue, inside in inner.items():
        wanted, has = (np.std([one[inside] - unit[inside] for one in found]) for found in (scans, grained))
        assert 0.6 * wanted < has < 1.2 * wanted, tissue
    steps = [np.std([np.diff(one, axis=0)[5:-5, 5:-5, 5:-5] for one in found]) for found in (scans, grained)]
    assert steps[1] == pytest.approx(steps[0], rel=0.2)


def test_there_is_none_outside_the_foreground_nor_beyond_the_range() -> None:
    unit, label = phantom()
    grained = even(0.04, 0.5).add(unit, label, 3)
    assert np.array_equal(grained[unit <= FOREGROUND], unit[unit <= FOREGROUND])
    assert (grained != unit).any()
    assert grained.min() >= 0
    assert grained.max() <= 1


def test_it_follows_from_the_seed_alone_and_from_none_of_the_noise_that_a_sample_starts_from() -> None:
    grain, (unit, label) = fitted(), phantom()
    before = unit.copy()
    assert np.array_equal(grain.add(unit, label, 7), grain.add(unit, label, 7))
    assert not np.array_equal(grain.add(unit, label, 7), grain.add(unit, label, 8))
    assert np.array_equal(unit, before)
    levels = [np.random.Generator(np.random.Philox(key=7, counter=n << 192)).standard_normal(4) for n in range(3)]
    own = np.random.Generator(np.random.Philox(key=7, counter=STREAM)).standard_normal(4)
    assert all(not np.isin(own, level).any() for level in levels)


def test_what_lacks_nothing_gets_nothing() -> None:
    scans = [sums(noisy(n, (0.02, 0.06)))[0] for n in range(8)]
    same, (unit, label) = fit_grain(scans, scans, NAMES), phantom()
    assert same is not None
    assert np.allclose(same.add(unit, label, 1), unit, atol=1e-6)


def test_nothing_is_kept_of_a_tissue_that_few_subjects_have() -> None:
    """A lesion in few scans takes the strength of what others have; with too few subjects there is no grain at all."""
    pairs = []
    for n in range(8):
        unit, label = noisy(n, (0.02, 0.06))
        lesion = np.where((label == 2) & (n < FEWEST - 1), 3, label).astype(np.uint8)
        pairs.append(sums((unit, lesion), 3))
    scans, copies = zip(*pairs, strict=True)
    found = fit_grain(scans, copies, NAMES)
    assert found is not None
    assert np.array_equal(found.strength[3], found.strength[0])
    assert fit_grain(scans, copies, ["one", "two", "three", "four"] * 2) is None


def test_a_tone_curve_gives_back_the_sharp_outline_of_masked_scans_and_leaves_the_same_alone() -> None:
    scan, _ = phantom()
    blurred = ndimage.gaussian_filter(scan, 0.6)
    tone = fit_tone([histogram_of(scan)], [histogram_of(blurred)])
    assert (np.diff(tone) >= 0).all()
    rim = [float(((one > FOREGROUND) & (one < 0.3)).mean()) for one in (scan, blurred, toned(blurred, tone))]
    assert rim[0] == 0
    assert rim[2] < 0.3 * rim[1]
    assert ((toned(blurred, tone) > FOREGROUND).mean()) == pytest.approx((scan > FOREGROUND).mean(), rel=0.05)
    ramp = np.linspace(0, 1, 26 * 22 * 18, dtype=np.float32).reshape(SHAPE)
    own = fit_tone([histogram_of(ramp)], [histogram_of(ramp)])
    assert toned(ramp, own)[ramp > FOREGROUND + 0.01] == pytest.approx(ramp[ramp > FOREGROUND + 0.01], abs=0.01)


@pytest.mark.parametrize("shape", [(8, 8, 8), (7, 10, 3), (24, 20, 1)])
def test_any_grid_can_have_it(shape: tuple[int, int, int]) -> None:
    unit = np.full(shape, 0.5, np.float32)
    grained = even(1e-4, groups=0).add(unit, None, 1)
    assert grained.shape == shape
    assert 0.003 < grained.std() < 0.013


def test_without_label_maps_there_is_one_tissue() -> None:
    copy = phantom()[0]
    pairs = [(sums_of(noisy(n, (0.05, 0.05))[0], copy, None, 0), sums_of(copy, copy, None, 0)) for n in range(8)]
    found = fit_grain(*zip(*pairs, strict=True), NAMES)  # type: ignore[arg-type]
    assert found is not None
    assert found.strength.shape == (1, BINS)
    assert (found.add(copy, None, 1) != copy).any()


def test_it_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    grain = fitted()
    save_grain(tmp_path / "grain", grain)
    found = load_grain(tmp_path / "grain")
    assert found is not None
    for name in ("spectrum", "strength", "spread", "tone"):
        assert np.array_equal(getattr(found, name), getattr(grain, name))
    save_grain(tmp_path / "none", None)
    assert load_grain(tmp_path / "none") is None
    assert load_grain(tmp_path / "nowhere") is None


def test_the_engine_adds_it_to_images_alone_in_any_batch(models: Path, sampling: Sampling, contract: Contract) -> None:
    plain = open_engine(models, "plain", sampling(grain=False), "cpu")
    grain = even(1e-2, 0.1)
    denoiser, scale, _ = load_denoiser(models / "denoiser")
    parts = (load_autoencoder(models / "autoencoder")[0], denoiser, scale, contract)
    grained, batched = (Engine(*parts, sampling(batch=batch), grain=grain) for batch in (1, 3))  # type: ignore[arg-type]
    before, labels = plain.sample(samples(4))
    after, same = grained.sample(samples(4))
    assert labels is not None
    assert same is not None
    assert np.array_equal(labels, same)
    assert (before != after).any()
    assert np.array_equal(batched.sample(samples(4)[::-1])[0][::-1], after)
