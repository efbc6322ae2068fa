"""Whether a release betrays who was trained on, attacked with all that its receiver has: volumes, and no weights.

Per real subject: how near the nearest released volume is, the same beside the nearest of a reference set, and the ratio
of the densities of both (DOMIAS, van Breugel et al. 2023), in several feature spaces. Validation volumes are the
reference, of which a receiver is assumed to have the like. Copies that are mixed into the cohort prove that the attacks
would see it; without that, an area of 0.5 could mean that they are blind.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from meddiff_core.data.split.sides import Side
from meddiff_core.evidence.features.records import extract
from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.intervals import Bootstrap, Matrix
from meddiff_core.evidence.metrics import Metric, MetricSpec, metric_of
from meddiff_core.evidence.neighbours import Neighbours, nearest, nearest_voxels
from meddiff_core.evidence.privacy.attacks import Scores
from meddiff_core.evidence.privacy.canaries import Canaries
from meddiff_core.evidence.privacy.membership import (
    Attacked,
    Evaluation,
    attacked_rows,
    difficulty_of,
    evaluate_attacks,
    outcomes_table,
)
from meddiff_core.evidence.section import Section
from meddiff_core.evidence.selection import Selection
from meddiff_core.evidence.voxel_keys import all_keys_of, keys_of
from meddiff_core.types import FloatArray, Progress, Volumes

RELEASE_AUC = MetricSpec(
    name="membership_release_auc",
    part="privacy",
    privacy=True,
    better="lower",
    reference="that of a release that betrays nobody",
    failure="whoever receives the volumes can tell training subjects from others",
)
RELEASE_POWER = MetricSpec(
    name="membership_release_power",
    part="privacy",
    privacy=True,
    proof=True,
    better="higher",
    reference="that of attacks that see nothing",
)
METRICS = (RELEASE_AUC, RELEASE_POWER)
SPACES = ("random-conv", "latents")
"""Extractors whose spaces are attacked, beside voxels: those that see anatomy."""
DENSITY_DIM = 4
"""Principal components in which densities are estimated: with a score of reference volumes, more would be noise."""
FEWEST_REFERENCE = 8
"""Reference volumes from which on they are used."""
PLANTED = 0.5
"""Share of the attacked training subjects whose copies are mixed into the cohort for the proof of power."""
TINY = 1e-12
RELEASE = "release"
"""Name of what is attacked."""


Find = Callable[[FloatArray, FloatArray, FloatArray], Neighbours]
"""Of queries (n, variants, p) among others (m, p), both seen from a centre (p,): the nearest."""


@dataclass(frozen=True)
class Subjects:
    """Real volumes of one side that a receiver asks about."""

    volumes: Volumes
    names: Sequence[str]
    """Whose each is."""
    difficulty: Matrix


@dataclass(frozen=True)
class Space:
    """One feature space with all sets in it."""

    name: str
    find: Find
    asked: Mapping[Side, FloatArray]
    """(n, variants, p) per side."""
    released: FloatArray
    copies: FloatArray
    """Of training volumes, to be mixed in."""
    reference: FloatArray
    """(r, p), or of no rows."""

    def scores(self, side: Side, with_copies: bool) -> Scores:
        """Of the volumes of a side, against the cohort as it is or with copies mixed in."""
        query, released = self.asked[side], self.released
        if with_copies:
            released = np.concatenate([released, self.copies])
        centre = released.mean(0)
        near = self.find(query, released, centre)
        far = self.find(query, self.reference, centre) if len(self.reference) else None
        found = distance_scores(near, far) | density_scores(query[:, 0], released, self.reference)
        return {f"{attack}, {self.name}": column for attack, column in found.items()}


def release_membership(audit: AuditInput, bootstrap: Bootstrap) -> Generator[Progress, None, Section]:
    """Attacks on the cohort as released, and on the same with copies of some training subjects mixed in."""
    if not audit.train_known:
        return Section(statements=("Membership was not attacked: it is not known who was trained on.",))
    train, holdout = _subjects(audit, "train"), _subjects(audit, "holdout")
    chosen = np.random.default_rng([audit.seed, 9]).permutation(sorted(set(train.names)))
    planted = set(chosen[: round(PLANTED * len(chosen))].tolist())
    rows = tuple(train.names.index(name) for name in sorted(planted))
    copies = Canaries(train.volumes, rows, audit.contract, audit.seed)
    spaces = yield from _spaces(audit, {"train": train, "holdout": holdout}, copies)
    members = [row for row, name in enumerate(train.names) if name in planted]
    others = [row for row, name in enumerate(train.names) if name not in planted]
    mixed = _scores(spaces, "train", with_copies=True)
    release = evaluate_attacks(
        RELEASE,
        _attacked(train, _scores(spaces, "train", with_copies=False), range(len(train.names))),
        _attacked(holdout, _scores(spaces, "holdout", with_copies=False), range(len(holdout.names))),
        bootstrap,
    )
    power = evaluate_attacks(RELEASE, _attacked(train, mixed, members), _attacked(train, mixed, others), bootstrap)
    return Section(
        metrics=[_auc(release), _power(power, len(copies), len(audit.accepted))],
        tables=[outcomes_table(release.outcomes, "Membership inference by whoever receives the release")],
        statements=[_statement(release, power, has_reference=bool(len(spaces[0].reference)))],
    )


def _subjects(audit: AuditInput, side: Side) -> Subjects:
    rows, volumes, names = attacked_rows(audit, side), audit.dataset.volumes(side), audit.dataset.subjects(side)
    difficulty = difficulty_of(volumes, rows, audit.contract)
    return Subjects(Selection.of(volumes, rows), [names[row] for row in rows], difficulty)


def _scores(spaces: Sequence[Space], side: Side, with_copies: bool) -> Scores:
    return {name: column for space in spaces for name, column in space.scores(side, with_copies).items()}


def _attacked(subjects: Subjects, scores: Scores, rows: Sequence[int]) -> Attacked:
    kept = {name: column[list(rows)] for name, column in scores.items()}
    return Attacked([subjects.names[row] for row in rows], subjects.difficulty[list(rows)], {RELEASE: kept})


def _spaces(
    audit: AuditInput, asked: Mapping[Side, Subjects], copies: Volumes
) -> Generator[Progress, None, list[Space]]:
    """Voxels, and those of the audit's extractors that see anatomy."""
    reference = audit.dataset.volumes("validation")
    if len(reference) < FEWEST_REFERENCE:
        reference = Selection([])
    sets = {"released": audit.accepted, "copies": copies, "reference": reference}
    keys = {side: all_keys_of(one.volumes, audit.contract) for side, one in asked.items()}
    width = keys["train"].shape[-1]
    others = {name: keys_of(one, audit.contract) if len(one) else _no_rows(width) for name, one in sets.items()}
    spaces = [Space("voxels", nearest_voxels, keys, **others)]
    yield Progress("attack release", 1, 1 + len(SPACES))
    for extractor in [one for one in audit.extractors if one.name in SPACES]:
        vectors: dict[str, FloatArray] = {}
        for name, volumes in (sets | {side: one.volumes for side, one in asked.items()}).items():
            vectors[name] = (yield from extract(extractor, volumes)).values if len(volumes) else _no_rows(0)
        spaces.append(_feature_space(extractor.name, vectors))
        yield Progress("attack release", len(spaces), 1 + len(SPACES))
    return spaces


def _no_rows(width: int) -> FloatArray:
    return np.zeros((0, width), np.float32)


def _feature_space(name: str, vectors: Mapping[str, FloatArray]) -> Space:
    """Scaled by what a receiver has: the volumes released."""
    spread = vectors["released"].std(0)
    scale = np.where(spread > TINY, spread, 1.0).astype(np.float32)
    scaled = {one: rows / scale if len(rows) else _no_rows(len(scale)) for one, rows in vectors.items()}
    sides: tuple[Side, Side] = ("train", "holdout")
    asked = {side: scaled[side][:, None] for side in sides}
    return Space(name, _nearest_vectors, asked, scaled["released"], scaled["copies"], scaled["reference"])


def _nearest_vectors(query: FloatArray, others: FloatArray, centre: FloatArray) -> Neighbours:
    return nearest((query[:, 0] - centre).astype(np.float64), (others - centre).astype(np.float64))


def distance_scores(to_released: Neighbours, to_reference: Neighbours | None) -> Scores:
    """Minus the logarithm of the distance to the nearest released volume, alone and over others.

    Calibrated by the reference: a common head is near to all, and so to released ones, without having been trained on.
    """
    near = -_log(to_released.distance)
    scores = {"nearest": near, "nearest over the next": near + _log(to_released.local)}
    return scores if to_reference is None else scores | {"nearest over reference": near + _log(to_reference.distance)}


def _log(distance: Matrix) -> Matrix:
    return np.asarray(np.log(np.maximum(distance, TINY)))


def density_scores(query: FloatArray, released: FloatArray, reference: FloatArray) -> Scores:
    """DOMIAS: logarithm of the density of the released volumes over that of the reference, in few dimensions."""
    if not len(reference):
        return {}
    known = np.concatenate([released, reference]).astype(np.float64)
    centre = known.mean(0)
    _, lengths, axes = np.linalg.svd(known - centre, full_matrices=False)
    kept = min(DENSITY_DIM, int((lengths > TINY).sum()))
    axes = axes[:kept] / lengths[:kept, None] * np.sqrt(len(known))
    own, near, far = ((one - centre) @ axes.T for one in (query, released, reference))
    return {"density ratio": log_density(own, near) - log_density(own, far)}


def log_density(query: Matrix, sample: Matrix) -> Matrix:
    """(n,) logarithm of a Gaussian kernel density of a sample (m, d), bandwidth by Scott's rule (1992)."""
    from sklearn.metrics.pairwise import euclidean_distances  # slow to import, as all of scikit-learn

    count, dim = sample.shape
    width = count ** (-1 / (dim + 4)) * max(float(np.sqrt(sample.var(0).mean())), TINY)
    kernels = -0.5 * euclidean_distances(query, sample, squared=True) / width**2
    return np.asarray(logsumexp(kernels, axis=1) - np.log(count) - dim * np.log(width * np.sqrt(2 * np.pi)))


def _auc(evaluation: Evaluation) -> Metric:
    words = (
        "Area under the ROC curve of the strongest attack by whoever receives the release, without weights, corrected "
        "for the choice of the strongest: 0.5 is no leak."
    )
    return metric_of(RELEASE_AUC, evaluation.corrected, words, reference=0.5)


def _power(evaluation: Evaluation, copies: int, size: int) -> Metric:
    words = (
        f"The same area between training subjects of whom copies were mixed into the cohort ({copies} beside {size} "
        "volumes) and other training subjects: what the attacks make of a cohort that does leak."
    )
    return metric_of(RELEASE_POWER, evaluation.corrected, words, reference=0.5)


def _statement(release: Evaluation, power: Evaluation, has_reference: bool) -> str:
    without = "" if has_reference else f" There are fewer than {FEWEST_REFERENCE} validation volumes for a reference."
    best = release.best
    return (
        f"From the seat of whoever receives the release, with its volumes and no weights, the strongest of "
        f"{len(release.outcomes)} membership attacks ({best.attack}) reaches an area of {best.auc.value:.2f} "
        f"({best.auc.low:.2f} to {best.auc.high:.2f}); the best of so many would reach {release.chance:.2f} without "
        f"any leak, and as much as was found with p = {release.p:.2g}. Where copies were mixed in on purpose, the same "
        f"attacks reach {power.best.auc.value:.2f} on the copied subjects.{without}"
    )
