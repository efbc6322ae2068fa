"""One verdict per candidate volume: accepted, or rejected with a record of each bound that it is beyond.

Bounds come from training volumes, measured both as they are and as the autoencoder reconstructs them, since a
candidate can be no sharper than a reconstruction. The copy bound comes from validation against training.
The arrays of a reference hold low-resolution data of real patients: they stay in the study and never enter a
release, nor does any of the rejections, only their counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from meddiff_core.artefacts import write_bytes, write_json
from meddiff_core.contract import Frozen
from meddiff_core.errors import IntegrityError
from meddiff_core.evidence.duplicates import smallest_distance
from meddiff_core.evidence.features.records import Features, require_same_origin
from meddiff_core.evidence.intervals import Matrix
from meddiff_core.evidence.neighbours import nearest_voxels
from meddiff_core.evidence.quality.distances import fit_projection
from meddiff_core.evidence.rejections import (
    CONTRAST,
    COPY_SCORE,
    DENOISING,
    FEATURES,
    FINITE,
    FINITE_FEATURES,
    RealRejections,
    Rejection,
    count_real,
)
from meddiff_core.evidence.screening.outlier import DenoisingErrors, OutlierBound, fit_outliers
from meddiff_core.study import ScreenConfig
from meddiff_core.types import FloatArray

FOLDS = 5
LEAST_ROOM = {"components": 0.02, "pieces": 1.0}
"""Widening of bounds on wholeness, which hardly vary in training: a detached speck is no reason to reject."""


class Bound(Frozen):
    """Accepted range of one measurement."""

    low: float = -np.inf
    high: float = np.inf


class Reference(Frozen):
    """What a candidate is compared with. Holds aggregates of the training set; the rest is in `ReferenceArrays`."""

    extractor: str
    extractor_digest: str
    bounds: dict[str, Bound]
    """Per measurement."""
    largest_mahalanobis: float
    """Standard deviations from the training mean, in the space of training features, that are still accepted."""
    smallest_copy_score: float
    """Lowest copy score of any validation volume; a candidate below it is a suspected copy."""
    duplicate_distance: float
    """Smallest distance between keys of two training subjects; two candidates below it are duplicates."""
    expected_rejections: float
    """Share of fresh real volumes that would be rejected: of validation volumes by the bounds, and 1 / (v + 1) more
    by the copy score, which no validation volume can fall below."""
    outliers: OutlierBound | None = None
    """Of the error after denoising; None where `screen.outliers` is off."""
    real: RealRejections | None = None
    """What the bounds do to validation volumes."""
    train: int
    validation: int
    """Volumes behind it."""


@dataclass(frozen=True)
class ReferenceArrays:
    """Real data at low resolution: never leaves the study."""

    centre: Matrix
    """(d,) mean training features."""
    axes: Matrix
    """(d, k): to uncorrelated coordinates of unit standard deviation on the training set."""
    keys: FloatArray
    """(m, p) voxel keys of the training volumes."""
    key_centre: FloatArray
    """(p,) their mean."""


class Verdict(Frozen):
    """What screening says of one candidate."""

    rejections: tuple[Rejection, ...]
    scores: dict[str, float]

    @property
    def accepted(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.rejections


def fit_reference(
    train: Sequence[Mapping[str, float]],
    validation: Sequence[Mapping[str, float]],
    train_features: Features,
    validation_features: Features,
    train_keys: FloatArray,
    validation_keys: FloatArray,
    config: ScreenConfig,
    reconstructed_features: Features | None = None,
    train_subjects: Sequence[str] | None = None,
    denoising: DenoisingErrors | None = None,
) -> tuple[Reference, ReferenceArrays]:
    """Fit every bound.

    `train` holds measurements of the training volumes and of their reconstructions, in any order. `train_keys`
    is (m, p), from `voxel_key`; `validation_keys` (v, variants, p), from `voxel_keys`. `train_subjects` names the
    subject of each training volume where some have several.
    """
    sets = [train_features, validation_features] + ([reconstructed_features] if reconstructed_features else [])
    require_same_origin(*(features.origin for features in sets))
    centre, axes = _whitening(train_features)
    key_centre = train_keys.mean(0)
    arrays = ReferenceArrays(centre, axes, train_keys, key_centre)
    reference = Reference(
        extractor=train_features.extractor,
        extractor_digest=train_features.digest,
        bounds=_fit_bounds(train, config),
        largest_mahalanobis=_mahalanobis_bound(train_features, reconstructed_features, config),
        smallest_copy_score=float(nearest_voxels(validation_keys, train_keys, key_centre).score.min()),
        duplicate_distance=smallest_distance(train_keys, key_centre, train_subjects),
        expected_rejections=0.0,
        outliers=fit_outliers(denoising, config) if denoising else None,
        train=len(train_keys),
        validation=len(validation_keys),
    )
    errors: Sequence[Matrix | None] = [None] * len(validation) if denoising is None else list(denoising.validation)
    verdicts = [
        screen_volume(figures, features, key, reference, arrays, found)
        for figures, features, key, found in zip(
            validation, validation_features.values, validation_keys, errors, strict=True
        )
    ]
    rejected = sum(not verdict.accepted for verdict in verdicts) / len(verdicts)
    expected = min(1.0, rejected + 1 / (len(verdicts) + 1))
    real = count_real([verdict.rejections for verdict in verdicts], 2 * len(reference.bounds) + 2 + bool(denoising))
    return reference.model_copy(update={"expected_rejections": expected, "real": real}), arrays


def _fit_bounds(train: Sequence[Mapping[str, float]], config: ScreenConfig) -> dict[str, Bound]:
    bounds = {}
    for name in train[0]:
        values = [figures[name] for figures in train]
        low, high = (float(bound) for bound in np.quantile(values, [config.quantile, 1 - config.quantile]))
        room = max(config.margin * (high - low), LEAST_ROOM.get(name.partition(":")[0], 0.0))
        least = low / 2 if low > 0 else -np.inf  # the margin must not let an absent structure through
        bounds[name] = Bound(low=max(low - room, least), high=high + room)
    return bounds


def _whitening(features: Features) -> tuple[Matrix, Matrix]:
    """Mean and (d, k) axes on which the features have mean 0, standard deviation 1 and no correlation."""
    projection = fit_projection(features, max(1, min(16, len(features) // 4)))
    std = projection(features).std(0)
    scaled = projection.axes / projection.scale[:, None] / np.maximum(std, 1e-12)
    return projection.centre, scaled


def _mahalanobis(values: FloatArray, centre: Matrix, axes: Matrix) -> Matrix:
    coordinates = (np.atleast_2d(values).astype(np.float64) - centre) @ axes
    return np.asarray(np.sqrt((coordinates**2).mean(1)))


def _mahalanobis_bound(train: Features, reconstructed: Features | None, config: ScreenConfig) -> float:
    """Upper quantile of what volumes show that the whitening was not fitted on, by cross-fitting, and the margin."""
    fold = np.arange(len(train)) % FOLDS
    distances = []
    for left_out in range(min(FOLDS, len(train))):
        fitted = train.take(fold != left_out)
        centre, axes = _whitening(fitted)
        distances.append(_mahalanobis(train.values[fold == left_out], centre, axes))
    bound = np.quantile(np.concatenate(distances), 1 - config.quantile)
    if reconstructed is not None:
        bound = max(bound, np.quantile(_mahalanobis(reconstructed.values, *_whitening(train)), 1 - config.quantile))
    return float(bound * (1 + config.margin))


def screen_volume(
    measurements: Mapping[str, float],
    features: FloatArray,
    key: FloatArray,
    reference: Reference,
    arrays: ReferenceArrays,
    errors: Matrix | None = None,
) -> Verdict:
    """Compare one volume with the reference.

    `features` is (d,), `key` (variants, p) from `voxel_keys`, `errors` (levels,) from a `Probe`.
    """
    if broken := _broken(measurements, features):
        return Verdict(rejections=broken, scores={})
    mahalanobis = float(_mahalanobis(features, arrays.centre, arrays.axes)[0])
    neighbour = nearest_voxels(key[None], arrays.keys, arrays.key_centre)
    copy_score = float(neighbour.score[0])
    scores = {"mahalanobis": mahalanobis, "copy_score": copy_score, "copy_distance": float(neighbour.distance[0])}
    rejections = [
        *(found for name, bound in reference.bounds.items() for found in _beyond(name, measurements.get(name), bound)),
        *_beyond(FEATURES, mahalanobis, Bound(high=reference.largest_mahalanobis)),
        *_beyond(COPY_SCORE, copy_score, Bound(low=reference.smallest_copy_score)),
    ]
    if errors is not None and reference.outliers is not None:
        scores["outlier"] = float(reference.outliers.score(errors)[0])
        rejections += _beyond(DENOISING, scores["outlier"], Bound(high=reference.outliers.largest))
    return Verdict(rejections=tuple(rejections), scores=scores)


def _broken(measurements: Mapping[str, float], features: FloatArray) -> tuple[Rejection, ...]:
    """What makes all else not worth a look."""
    finite, std = measurements.get("finite"), measurements.get("std", 0.0)
    if finite != 1:
        return (Rejection(measurement=FINITE, value=finite, bound=1.0, side="below"),)
    if not std > 0:
        return (Rejection(measurement=CONTRAST, value=std, bound=0.0, side="below"),)
    if not np.isfinite(features).all():
        return (Rejection(measurement=FINITE_FEATURES, value=0.0, bound=1.0, side="below"),)
    return ()


def _beyond(name: str, value: float | None, bound: Bound) -> list[Rejection]:
    """A record if a measurement is missing or outside its accepted range."""
    if value is None or not np.isfinite(value):
        return [Rejection(measurement=name, side="missing")]
    if value < bound.low:
        return [Rejection(measurement=name, value=value, bound=bound.low, side="below")]
    if value > bound.high:
        return [Rejection(measurement=name, value=value, bound=bound.high, side="above")]
    return []


def save_reference(folder: Path, reference: Reference, arrays: ReferenceArrays) -> None:
    """Write `reference.json` and, before it, `arrays.safetensors`."""
    write_bytes(
        folder / "arrays.safetensors", save({name: np.ascontiguousarray(a) for name, a in vars(arrays).items()})
    )
    write_json(folder / "reference.json", reference)


def load_reference(folder: Path) -> tuple[Reference, ReferenceArrays]:
    """Read both back.

    Raises:
        IntegrityError: a file is missing or is no reference.
    """
    try:
        reference = Reference.model_validate_json((folder / "reference.json").read_bytes())
        return reference, ReferenceArrays(**load_file(folder / "arrays.safetensors"))
    except (OSError, ValidationError, SafetensorError, TypeError) as error:
        raise IntegrityError(f"{folder.name} must hold a reference: {error}") from error
