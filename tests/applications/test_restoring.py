"""Tasks that sample volumes given a scan: each does what it says on Gaussian models, and refuses what it cannot do."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from meddiff_core.applications.calibration import Calibration
from meddiff_core.applications.models import Models
from meddiff_core.applications.outcome import Outcome
from meddiff_core.applications.posterior.observation import Observation, image_alone
from meddiff_core.applications.posterior.sampling import PosteriorSamples, sample_posterior
from meddiff_core.applications.posterior.tolerance import tolerance
from meddiff_core.applications.scans import CoarseScan, GridScan
from meddiff_core.applications.settings import TaskSettings
from meddiff_core.applications.tasks.denoise import denoise
from meddiff_core.applications.tasks.inpaint import inpaint
from meddiff_core.applications.tasks.reconstruct import cartesian_mask, reconstruct
from meddiff_core.applications.tasks.segment import segment
from meddiff_core.applications.tasks.super_resolve import super_resolve
from meddiff_core.errors import ConfigurationError

SETTINGS = TaskSettings(samples=2, levels=5)
Task = Callable[..., Any]
Apply = Callable[..., Outcome]


@pytest.fixture
def apply(models: Models, calibration: Calibration, finish: Callable[..., Any]) -> Apply:
    def run(task: Task, scan: GridScan, settings: TaskSettings = SETTINGS, of: Models | None = None) -> Outcome:
        outcome: Outcome = finish(task(of or models, scan, settings, calibration))
        return outcome

    return run


@pytest.fixture
def scan(make_scan: Callable[..., GridScan]) -> GridScan:
    return make_scan(3)


def error(found: NDArray[Any], truth: NDArray[Any], where: Any = ...) -> float:
    return float(np.sqrt(np.square(np.asarray(found, float) - truth)[where].mean()))


def hole() -> NDArray[np.bool_]:
    """Across the border of the ball."""
    mask = np.zeros((16, 16, 16), dtype=bool)
    mask[1:5, 6:10, 6:10] = True
    return mask


def blocks(scan: GridScan) -> CoarseScan:
    means = scan.image.reshape(16, 16, 4, 4).mean(axis=3, dtype=np.float64)
    return CoarseScan(means.astype(np.float32), (1.0, 1.0, 4.0), (0.0, 0.0, 1.5))


def test_the_label_map_follows_from_the_image_alone(apply: Apply, scan: GridScan) -> None:
    outcome = apply(segment, scan)
    truth = scan.image > 0.7
    found = outcome.maps["labels"].array == 1
    assert 2 * (truth & found).sum() / (truth.sum() + found.sum()) > 0.9
    assert outcome.figures["ball_mm3"] == pytest.approx(float(found.sum()), rel=0.1)
    assert outcome.maps["uncertainty"].array[truth != found].mean() > outcome.maps["uncertainty"].array.mean()


def test_a_scan_is_met_about_as_well_as_the_autoencoder_keeps_it(apply: Apply, scan: GridScan) -> None:
    assert 0.2 < apply(segment, scan).figures["chi_image"] < 1.5


def test_a_model_without_labels_does_not_segment(apply: Apply, scan: GridScan, models: Models) -> None:
    bare = replace(models, contract=models.contract.model_copy(update={"labels": {}}))
    with pytest.raises(ConfigurationError, match="label maps"):
        apply(segment, scan, of=bare)


def test_a_hole_is_filled_better_than_by_its_surroundings_and_nothing_else_changes(
    apply: Apply, scan: GridScan
) -> None:
    mask = hole()
    given = np.where(mask, 0.0, scan.image).astype(np.float32)
    outcome = apply(inpaint, replace(scan, image=given, mask=mask))
    filled = outcome.maps["inpainted"].array
    ring = binary_dilation(mask) & ~mask
    assert error(filled, scan.image, mask) < 0.7 * error(np.full_like(given, given[ring].mean()), scan.image, mask)
    assert np.array_equal(filled[~mask], given[~mask])
    assert not outcome.maps["uncertainty"].array[~mask].any()
    assert outcome.maps["uncertainty"].array[mask].all()


def test_what_was_under_the_mask_plays_no_part(apply: Apply, scan: GridScan) -> None:
    fills = [
        apply(inpaint, replace(scan, image=np.where(hole(), value, scan.image).astype(np.float32), mask=hole()))
        for value in (0.0, 1.0)
    ]
    assert np.array_equal(fills[0].maps["inpainted"].array, fills[1].maps["inpainted"].array)


def test_known_labels_around_a_hole_are_met_as_well(apply: Apply, scan: GridScan) -> None:
    labels = (scan.image > 0.7).astype(np.uint8)
    assert "chi_labels" in apply(inpaint, replace(scan, mask=hole(), labels=labels)).figures


@pytest.mark.parametrize(
    ("mask", "message"),
    [(None, "marks none"), (np.zeros((16,) * 3, bool), "marks none"), (np.ones((16,) * 3, bool), "covers all")],
)
def test_a_mask_must_leave_something_and_take_something(
    apply: Apply, scan: GridScan, mask: NDArray[np.bool_] | None, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        apply(inpaint, replace(scan, mask=mask))


def test_thick_voxels_are_resolved_better_than_by_repeating_them_and_still_average_to_themselves(
    apply: Apply, scan: GridScan
) -> None:
    coarse = blocks(scan)
    sharp = apply(super_resolve, replace(scan, coarse=coarse)).maps["super_resolved"].array
    assert error(sharp, scan.image) < 0.8 * error(np.repeat(coarse.image, 4, axis=2), scan.image)
    assert error(sharp.reshape(16, 16, 4, 4).mean(axis=3), coarse.image) < 0.004


def test_voxels_as_fine_as_the_grid_are_nothing_to_resolve(apply: Apply, scan: GridScan) -> None:
    with pytest.raises(ConfigurationError, match="must be larger"):
        apply(super_resolve, scan)
    with pytest.raises(ConfigurationError, match="1 times"):
        apply(super_resolve, replace(scan, coarse=CoarseScan(scan.image, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))))


def noisy(scan: GridScan, noise: float) -> GridScan:
    one, other = np.random.default_rng(0).normal(0, noise, (2, *scan.image.shape))
    return replace(scan, image=np.hypot(scan.image + one, other).clip(0, 1).astype(np.float32))


@pytest.mark.parametrize("given", [True, False])
def test_noise_is_taken_away(apply: Apply, scan: GridScan, given: bool) -> None:
    worse = noisy(scan, 0.1)
    outcome = apply(denoise, worse, SETTINGS.model_copy(update={"noise": 0.1 if given else None}))
    assert error(outcome.maps["denoised"].array, scan.image) < 0.6 * error(worse.image, scan.image)
    assert outcome.figures["noise"] == pytest.approx(0.1, rel=0.2)
    assert "Rician" in outcome.notes[0]


def test_a_scan_almost_without_noise_keeps_what_the_autoencoder_loses(apply: Apply, scan: GridScan) -> None:
    kept = apply(denoise, scan, SETTINGS.model_copy(update={"noise": 0.001})).maps["denoised"].array
    assert error(kept, scan.image) < 0.002


@pytest.mark.parametrize("noise", [0.0, -0.1, 0.6, float("nan")])
def test_noise_must_leave_something_to_go_by(apply: Apply, scan: GridScan, noise: float) -> None:
    with pytest.raises(ConfigurationError, match="between 0 and"):
        apply(denoise, scan, SETTINGS.model_copy(update={"noise": noise}))


def test_a_reconstruction_is_better_than_zeros_and_keeps_what_was_measured(apply: Apply, scan: GridScan) -> None:
    outcome = apply(reconstruct, scan)
    found, zeros = (outcome.maps[name].array for name in ("reconstructed", "zero_filled"))
    assert error(found, scan.image) < 0.8 * error(zeros, scan.image)
    assert outcome.figures["measured_share"] == pytest.approx(1 / SETTINGS.undersampling, rel=0.02)
    measured = np.abs(np.fft.fftn(zeros, norm="ortho")) > 0.05
    difference = np.abs(np.fft.fftn(found - scan.image, norm="ortho"))
    assert difference[measured].mean() < 0.3 * difference[~measured].mean()


def test_given_k_space_has_the_result_of_the_scan_that_it_is_of(apply: Apply, scan: GridScan) -> None:
    first = apply(reconstruct, scan)
    zero_filled = first.maps["zero_filled"].array
    full = np.fft.fftn(zero_filled, norm="ortho")
    given = np.where(np.abs(full) > 1e-3, full, 0).astype(np.complex64)
    second = apply(reconstruct, replace(scan, image=np.zeros_like(scan.image), kspace=given))
    assert error(second.maps["zero_filled"].array, zero_filled) < 0.01
    assert not second.notes


@pytest.mark.parametrize("kspace", [np.zeros((16,) * 3, np.complex64), np.ones((16,) * 3, np.complex64)])
def test_k_space_must_be_measured_in_part(apply: Apply, scan: GridScan, kspace: NDArray[np.complex64]) -> None:
    with pytest.raises(ConfigurationError, match="in part"):
        apply(reconstruct, replace(scan, kspace=kspace))


def test_lines_are_so_many_with_a_full_centre_and_others_by_seed() -> None:
    one, other = (cartesian_mask((40, 48, 40), 4, seed) for seed in (0, 1))
    assert one[:, :, 0].sum() == other[:, :, 0].sum() == 40 * 48 // 4
    assert torch.equal(one, one[:, :, :1].expand_as(one))
    assert bool(one[[0, 1, -1]][:, [0, 1, -1]].all())
    assert not torch.equal(one, other)
    assert torch.equal(one, cartesian_mask((40, 48, 40), 4, 0))


def test_a_sample_depends_on_its_number_and_the_scan_alone(
    models: Models, calibration: Calibration, scan: GridScan, finish: Callable[..., Any]
) -> None:
    known = finish(tolerance(calibration))
    image = torch.from_numpy(scan.image)

    def samples(count: int, of: GridScan = scan) -> PosteriorSamples:
        observation = Observation(image_alone, image, torch.tensor(0.2))
        settings = SETTINGS.model_copy(update={"samples": count})
        found: PosteriorSamples = finish(sample_posterior(models, of, settings, [observation], known))
        return found

    three = samples(3).images
    assert torch.equal(samples(1).images, three[:1])
    assert not torch.equal(three[0], three[1])
    assert not torch.equal(samples(1, replace(scan, digest="another")).images, three[:1])
