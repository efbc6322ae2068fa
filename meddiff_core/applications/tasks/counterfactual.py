"""The same subject under another condition: older, of the other sex, with larger ventricles.

The scan is followed up to the noise it comes from under its own conditions, and from there down again twice: under its
own ones and towards the asked ones. What both ways share, errors of the way up included, cancels in their difference.
A denoiser follows a condition only in part, so where a volume is asked for the weight of the change is searched until
the changed image measures as asked, by a network that took no part; and the change fades with the distance from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from meddiff_core.applications.calibration import Calibration
from meddiff_core.applications.models import Decoded, Models
from meddiff_core.applications.outcome import Outcome
from meddiff_core.applications.scans import GridScan
from meddiff_core.applications.settings import TaskSettings
from meddiff_core.applications.tasks.asked import check_asked, own_condition, volume_conditions
from meddiff_core.applications.tasks.change import (
    Changed,
    changed_maps,
    contrasted,
    decoded_labels,
    laid_over,
    numbers,
    psnr,
    read_labels,
    rms,
    volumes_of,
)
from meddiff_core.applications.tasks.encoding import Probabilities, encode_scan, image_of, mean_labels
from meddiff_core.applications.tasks.starts import exact_inference, inverted, levels, unguided
from meddiff_core.applications.tasks.volumes import ReadVolumes, volume_reader
from meddiff_core.contract import Condition
from meddiff_core.diffusion.solvers import Sigmas, solve_adams
from meddiff_core.errors import ConfigurationError
from meddiff_core.types import FloatArray, LabelArray, Latents, Progress, Work

HIGHEST = 2.0
"""Noise level up to which a scan is followed. The outline of a head is settled above it and stays the subject's own:
from 40 on it moved with the ventricles, and changes outside of them were twice as large."""
WEIGHT = 4.0
"""Of a change that no label map measures, and the first of a search: what held-out ventricles needed at least."""
LARGEST_WEIGHT = 12.0
"""Beyond, volumes are no longer like any scan."""
SEARCHES = 4
"""Walks at most until the change measures as asked."""
REACH_MM = 10.0
"""Standard deviation of the distance from a structure at which a change of its volume fades out."""
NEAR = 0.05
"""Share of the asked change by which it may differ."""


@dataclass(frozen=True)
class _Subject:
    """All that is needed to change a scan by any weight."""

    models: Models
    scan: GridScan
    labels: LabelArray | None
    """Of the scan: known, or as the autoencoder reads them."""
    own: Condition
    asked: Condition
    start: Latents
    sigmas: Sigmas
    before: Decoded
    """What comes back under its own conditions."""
    read: ReadVolumes
    volumes: Mapping[str, float]
    """By label group, in mm3, as its image alone tells them."""


@dataclass(frozen=True)
class _Found:
    """The scan after a walk."""

    weight: float
    changed: Changed
    measured: Mapping[str, float]
    """Change of each asked volume in mm3, as images alone tell it."""
    share: float | None
    """Of the asked change, 1 is as asked; None where nothing can be measured."""

    @property
    def missed(self) -> float:
        """How far it is from what was asked for."""
        return 0.0 if self.share is None else abs(self.share - 1)


def counterfactual(models: Models, scan: GridScan, settings: TaskSettings, calibration: Calibration) -> Work[Outcome]:
    """The scan under `settings.asked`, with all else that is known of it as it is.

    Raises:
        ConfigurationError: nothing is asked for, or what training never saw.
    """
    if not settings.asked:
        raise ConfigurationError("counterfactual: at least one condition must be asked for, is none")
    asked = check_asked(settings.asked, models.contract, settings.extrapolate)
    first = yield from mean_labels(models, calibration)
    read = yield from volume_reader(models, calibration, first)
    subject = _followed_up(models, scan, asked, (first, read), levels(models, settings.steps, HIGHEST))
    found = yield from _searched(subject)
    yield Progress("counterfactual", SEARCHES, SEARCHES)
    return Outcome(changed_maps(found.changed), _figures(subject, found), _notes(subject, found))


def _followed_up(
    models: Models, scan: GridScan, asked: Condition, usual: tuple[Probabilities, ReadVolumes], sigmas: Sigmas
) -> _Subject:
    first, read = usual
    with exact_inference(models):
        volumes = read(scan.image)
        known = volumes if scan.labels is None else volumes_of(scan.labels, models.contract)
        own = own_condition(scan.condition, known, asked, models.contract)
        denoised_at = unguided(models, own)
        start = inverted(denoised_at, encode_scan(models, scan, first), sigmas)
        before = models.decode(solve_adams(denoised_at, start, sigmas))
        labels = read_labels(models, scan.image, first) if scan.labels is None else scan.labels
    return _Subject(models, scan, labels, own, asked, start, sigmas, before, read, volumes)


def _searched(subject: _Subject) -> Work[_Found]:
    """The walk whose change measures nearest to what was asked for; one walk where nothing can be measured."""
    tried = list[_Found]()
    weight = WEIGHT
    while len(tried) < SEARCHES and weight not in [one.weight for one in tried]:
        yield Progress("counterfactual", len(tried), SEARCHES)
        tried.append(_walked(subject, weight))
        if tried[-1].missed < NEAR:
            break
        weight = next_weight({0.0: 0.0} | {one.weight: one.share or 0.0 for one in tried})
    return min(tried, key=lambda one: one.missed)


def next_weight(shares: Mapping[float, float]) -> float:
    """Weight at which the whole change is expected, by lines through the shares of it at other weights."""
    below = max(((share, weight) for weight, share in shares.items() if share < 1), default=(0.0, 0.0))
    above = [(weight, share) for weight, share in shares.items() if share >= 1 and weight > below[1]]
    if above:
        weight, share = min(above)
        return below[1] + (1 - below[0]) / (share - below[0]) * (weight - below[1])
    steepest = max(below[0], 1 / LARGEST_WEIGHT)
    return min(LARGEST_WEIGHT, max(below[1], WEIGHT) * min(2.5, 1 / steepest))


def _walked(subject: _Subject, weight: float) -> _Found:
    models, own = subject.models, subject.own
    with exact_inference(models):
        walk = contrasted(unguided(models, own), unguided(models, own | subject.asked), weight)
        after = models.decode(solve_adams(walk, subject.start, subject.sigmas))
        changed = laid_over(subject.scan, subject.labels, subject.before, after, _share_of_voxels(subject, after))
        volumes = subject.read(changed.image)
    wanted = volume_conditions(subject.asked, models.contract)
    measured = {name: volumes[str(spec.group)] - subject.volumes[str(spec.group)] for name, spec in wanted.items()}
    return _Found(weight, changed, measured, _share(subject, measured))


def _share_of_voxels(subject: _Subject, after: Decoded) -> FloatArray | None:
    """How much of the change each voxel takes: less the farther from the structures whose volumes are asked for.

    None where anything else is asked for as well, which has no place in the body.
    """
    contract = subject.models.contract
    wanted = volume_conditions(subject.asked, contract)
    if len(wanted) < len(subject.asked):
        return None
    values = [1 + list(contract.labels).index(str(spec.group)) for spec in wanted.values()]
    inside = np.isin(decoded_labels(subject.before), values) | np.isin(decoded_labels(after), values)
    if not inside.any():
        return None
    distance_mm = ndimage.distance_transform_edt(~inside, sampling=contract.spacing_mm)
    return np.asarray(np.exp(-0.5 * (distance_mm / REACH_MM) ** 2), dtype=np.float32)


def _share(subject: _Subject, measured: Mapping[str, float]) -> float | None:
    """Measured part of the asked changes of volumes, each in its standard deviations."""
    changes = _asked_changes(subject)
    specs = volume_conditions(subject.asked, subject.models.contract)
    pairs = [(changes[name] / spec.std, measured[name] / spec.std) for name, spec in specs.items() if name in changes]
    total = sum(asked**2 for asked, _ in pairs)
    return sum(asked * found for asked, found in pairs) / total if total else None


def _asked_changes(subject: _Subject) -> dict[str, float]:
    own, asked = numbers(subject.own), numbers(subject.asked)
    return {name: value - own[name] for name, value in asked.items() if name in own}


def _figures(subject: _Subject, found: _Found) -> dict[str, float]:
    asked = {f"asked_change_{name}": change for name, change in _asked_changes(subject).items()}
    measured = {f"measured_change_{name}": change for name, change in found.measured.items()}
    there_and_back = psnr(image_of(subject.before), subject.scan.image)
    own = {"weight": found.weight, "there_and_back_psnr": there_and_back, "rms_change": rms(found.changed.difference)}
    return asked | measured | own


def _notes(subject: _Subject, found: _Found) -> tuple[str, ...]:
    held = sorted(set(subject.own) - set(subject.asked))
    notes = ["an estimate of the models, not a prediction of what will become of this person"]
    if held:
        notes.append(f"held as they are: {', '.join(held)}")
    if unknown := sorted(set(subject.asked) - set(subject.own)):
        notes.append(f"not known of this scan, so the change is one from an unknown value: {', '.join(unknown)}")
    if found.missed > 4 * NEAR:
        notes.append(f"only {found.share:.0%} of the asked change of volumes was reached")
    return tuple(notes)
