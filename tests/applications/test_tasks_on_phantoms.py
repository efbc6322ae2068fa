"""Every task on brain phantoms that its models never saw: each law would fail if the task did nothing.

One small study is trained for all of them. What the tasks are worth beside good baselines is another question, which
`meddiff tasks` answers.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from meddiff_core.applications.measured.bench import Bench, Subject, Task, scan_of
from meddiff_core.applications.measured.figures import average_precision, psnr
from meddiff_core.applications.measured.measurement import result_of
from meddiff_core.applications.measured.planted import FAULTS, lines_measured, plant_lesion, random_hole, rician
from meddiff_core.applications.measured.restoring import coarsened, interpolated, zero_filled
from meddiff_core.applications.measured.scoring import SCORE
from meddiff_core.applications.outcome import Outcome
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.tasks.anomaly import anomaly
from meddiff_core.applications.tasks.counterfactual import counterfactual
from meddiff_core.applications.tasks.denoise import denoise
from meddiff_core.applications.tasks.inpaint import inpaint
from meddiff_core.applications.tasks.reconstruct import reconstruct
from meddiff_core.applications.tasks.score import score
from meddiff_core.applications.tasks.segment import segment
from meddiff_core.applications.tasks.super_resolve import super_resolve
from meddiff_core.evidence.utility.segmentation import dice_scores
from meddiff_core.generation.best_of import structure_volumes
from meddiff_core.models.images import label_values, to_images
from meddiff_core.stages.measure_tasks import open_bench
from meddiff_core.workspace import Workspace
from tests.benchmarks.applications import phantom_study

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]
Apply = Callable[..., Outcome]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    study = phantom_study(tmp_path_factory.mktemp("phantoms"), subjects=64, steps=(700, 350), augmented=False)
    return open_bench(Workspace.open(study), "cpu", scans=3, samples=2)


@pytest.fixture(scope="module")
def apply(bench: Bench, finish: Callable[..., Any]) -> Apply:
    """(task, scan, settings that differ) to the outcome."""

    def run(task: Task, scan: GridScan, **changes: Any) -> Outcome:
        outcome: Outcome = finish(bench.apply(task, scan, **changes))
        return outcome

    return run


@pytest.fixture(scope="module", params=[0, 2])
def subject(bench: Bench, request: pytest.FixtureRequest) -> Subject:
    return bench.subjects[request.param]


def quality(outcome: Outcome, subject: Subject) -> float:
    return psnr(np.clip(result_of(outcome), 0, 1), subject.scan.image, subject.body)


def test_labels_are_found_as_well_as_the_autoencoder_keeps_them(bench: Bench, apply: Apply, subject: Subject) -> None:
    assert subject.labels is not None
    groups, contract = len(bench.contract.labels), bench.contract
    stored = contract.intensity.store(subject.scan.image)[None]
    images = to_images(stored, subject.labels[None], contract)
    kept = label_values(bench.models.autoencoder.reconstruct(images))[0].numpy()
    found = result_of(apply(segment, subject.scan)).astype(np.uint8)
    of_found, of_kept = (float(np.nanmean(dice_scores(one, subject.labels, groups))) for one in (found, kept))
    assert of_found > 0.8 * of_kept > 0.3


def test_a_hole_is_filled_better_than_by_the_mean_of_its_surroundings(apply: Apply, subject: Subject) -> None:
    image, hole = subject.scan.image, random_hole(subject.body, 5)
    shown = np.where(hole, 0, image).astype(np.float32)
    filled = np.clip(result_of(apply(inpaint, scan_of(shown, mask=hole))), 0, 1)
    rim = ndimage.binary_dilation(hole, iterations=2) & ~hole & subject.body
    assert psnr(filled, image, hole) > psnr(np.full_like(image, image[rim].mean()), image, hole)
    assert np.abs(filled - shown)[~hole].max() < 0.01


def test_thick_voxels_become_sharper_than_they_were(apply: Apply, subject: Subject) -> None:
    coarse = coarsened(subject.scan.image, (1, 1, 4))
    blocky = interpolated(coarse, subject.scan.image.shape, order=0)
    outcome = apply(super_resolve, replace(scan_of(interpolated(coarse, blocky.shape, 1)), coarse=coarse))
    assert quality(outcome, subject) > psnr(blocky, subject.scan.image, subject.body) + 1


def test_missing_lines_are_filled_better_than_by_zeros(bench: Bench, apply: Apply, subject: Subject) -> None:
    lines = lines_measured(bench.contract.size, 4, seed=2)
    kspace = np.fft.fftn(subject.scan.image, norm="ortho") * lines
    filled = zero_filled(kspace)
    outcome = apply(reconstruct, replace(scan_of(filled), kspace=kspace.astype(np.complex64)), undersampling=4)
    assert quality(outcome, subject) > psnr(filled, subject.scan.image, subject.body)


def test_much_noise_becomes_less(apply: Apply, subject: Subject) -> None:
    noisy = rician(subject.scan.image, subject.body, 0.2, 1, masked=False)
    outcome = apply(denoise, scan_of(noisy), noise=0.2)
    assert quality(outcome, subject) > psnr(noisy, subject.scan.image, subject.body) + 2


def test_larger_and_smaller_ventricles_measure_so(
    bench: Bench, apply: Apply, subject: Subject, finish: Callable[..., Any]
) -> None:
    segmenter = finish(bench.segmenter())
    own = float(subject.condition["ventricles_mm3"] or 0)
    scan = replace(subject.scan, condition=subject.condition)

    def measured(factor: float) -> float:
        image = result_of(apply(counterfactual, scan, asked={"ventricles_mm3": factor * own}, extrapolate=True))
        return structure_volumes(segmenter(bench.contract.intensity.store(image)), bench.contract)["ventricles"]

    assert measured(1.5) > 1.05 * measured(0.7)


def test_a_planted_lesion_is_found(apply: Apply, subject: Subject) -> None:
    lesion = plant_lesion(subject.scan.image, subject.body, "brighter", 3.0, 11)
    scores = result_of(apply(anomaly, scan_of(lesion.image)))
    share = float(lesion.mask.sum() / subject.body.sum())
    assert average_precision(scores, lesion.mask, subject.body) > 5 * share


def test_another_body_part_scores_as_unlike_training(apply: Apply, subject: Subject) -> None:
    faulty = FAULTS["another body part"].plant(subject.scan.image, subject.body, 1)
    scores = [apply(score, scan_of(image)).figures[SCORE] for image in (faulty, subject.scan.image)]
    assert scores[0] > scores[1]
