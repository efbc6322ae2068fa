"""Whether synthetic volumes lie nearer to training volumes than these lie to one another, or than fresh ones would.

Three figures on one ranking of all real volumes: authenticity (Alaa et al. 2022), distance ratios of neighbours, and
the share that is closer to train than to holdout. Each stands beside what fresh volumes show: a perfect generator has
an authenticity near a half, not 1, and rows of two sets that are mixed up give pure copies 0.96.
"""

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from meddiff_core.evidence.disclosure import FEWEST
from meddiff_core.evidence.features.records import Extractor, extract
from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.intervals import Bootstrap, Estimate, Matrix, from_flags, from_resamples, resample_weights
from meddiff_core.evidence.metrics import MetricSpec, metric_of
from meddiff_core.evidence.neighbours import Ranking, Rows, best_correlation, join, rank, rank_rows, to_length_one
from meddiff_core.evidence.quality.distances import fit_projection
from meddiff_core.evidence.section import Cell, Section, Table, rounded
from meddiff_core.evidence.subjects import numbered
from meddiff_core.evidence.voxel_keys import keys_of, voxel_keys
from meddiff_core.types import FloatArray, Progress, Volumes

AUTHENTICITY = MetricSpec(
    name="authenticity",
    part="privacy",
    privacy=True,
    better="higher",
    reference="that of the holdout",
    detail="feature space",
)
NNDR = AUTHENTICITY.model_copy(update={"name": "nndr"})
CLOSER_SHARE = AUTHENTICITY.model_copy(
    update={"name": "closer_share", "better": "nearer", "reference": "no difference"}
)
METRICS = (AUTHENTICITY, NNDR, CLOSER_SHARE)
EXPLANATIONS = {
    AUTHENTICITY: "Share of synthetic volumes whose nearest training volume has another training subject still nearer "
    "to it.",
    NNDR: "Median distance to the nearest training subject over that to the second: 0 for copies.",
    CLOSER_SHARE: "Share of synthetic volumes that are closer to the training set than to the holdout, at equal sizes "
    "over all subsets.",
}
BATCH = 16
"""Volumes whose keys are held at a time."""
MOST_SIDED = 1000
"""Synthetic volumes whose side is tested."""
PERMUTATIONS = 999
"""Exchanges of training and holdout subjects that the test is made of."""


@dataclass(frozen=True)
class RealVolumes:
    """Train and holdout together: whose each volume is, and which are of the train side."""

    subjects: Rows
    """(m,) the same number for volumes of one subject."""
    train: int
    """How many, from the first on, are training volumes."""

    @property
    def is_train(self) -> NDArray[np.bool_]:
        """(m,)."""
        return np.arange(len(self.subjects)) < self.train


@dataclass(frozen=True)
class RankedView:
    """One way to look: the nearest real volumes of synthetic, train and holdout ones, never of one's own subject."""

    name: str
    synthetic: Ranking
    train: Ranking
    holdout: Ranking


def authenticity_evidence(audit: AuditInput, bootstrap: Bootstrap) -> Generator[Progress, None, Section]:
    """Authenticity, neighbour ratios, and the side of the cohort as generated, by voxels and by each extractor.

    Without suspected copies any cohort lies less on the side of training.
    """
    subjects = [*audit.dataset.subjects("train"), *audit.dataset.subjects("holdout")]
    real = RealVolumes(numbered(subjects, len(subjects)), len(audit.dataset.subjects("train")))
    views = [(yield from _voxels(audit, real))]
    for extractor in audit.extractors:
        views.append((yield from _features(extractor, audit, real)))
    sections, rows = zip(*[_evaluate(view, real, bootstrap) for view in views], strict=True)
    table = Table(
        part="privacy",
        title="Authenticity and distances to training subjects",
        caption="Of synthetic volumes beside fresh real ones: the share whose nearest training volume has another "
        "subject nearer to it, and the distance to the nearest subject over that to the second. Copies have 0 of both.",
        columns=("view", "volumes", "n", "authentic", "low", "high", "ratio, lowest 5%", "ratio, median"),
        rows=tuple(row for both in rows for row in both),
    )
    return Section.merge([*sections, Section(tables=[table])])


def _voxels(audit: AuditInput, real: RealVolumes) -> Generator[Progress, None, RankedView]:
    """By keys of voxels, as the copy test has them: whole, through flips and shifts, for every set alike."""
    train, holdout = audit.dataset.volumes("train"), audit.dataset.volumes("holdout")
    keys = keys_of(train, audit.contract)
    centre = keys.mean(0)
    pool = to_length_one(np.concatenate([keys, keys_of(holdout, audit.contract)]) - centre).T

    def distances(views: FloatArray) -> Matrix:
        return 1 - best_correlation(to_length_one(views - centre), pool)

    def ranked(volumes: Volumes, own: Rows | None) -> Generator[Progress, None, Ranking]:
        parts = []
        for start in range(0, len(volumes), BATCH):
            rows = range(start, min(start + BATCH, len(volumes)))
            views = np.stack([voxel_keys(volumes.image(row), audit.contract) for row in rows])
            parts.append(rank(distances(views), real.subjects, None if own is None else own[rows.start : rows.stop]))
            yield Progress("rank real volumes", rows.stop, len(volumes))
        return join(parts)

    split = real.train
    return RankedView(
        name="voxels",
        synthetic=(yield from ranked(audit.as_generated, None)),
        train=(yield from ranked(train, real.subjects[:split])),
        holdout=(yield from ranked(holdout, real.subjects[split:])),
    )


def _features(extractor: Extractor, audit: AuditInput, real: RealVolumes) -> Generator[Progress, None, RankedView]:
    """By features, standardised by the training set's standard deviations."""
    train = yield from extract(extractor, audit.dataset.volumes("train"))
    holdout = yield from extract(extractor, audit.dataset.volumes("holdout"))
    synthetic = yield from extract(extractor, audit.as_generated)
    scale = fit_projection(train, 1).standardise
    sides, split = [scale(features) for features in (synthetic, train, holdout)], real.train
    own = (None, real.subjects[:split], real.subjects[split:])
    pool = np.concatenate(sides[1:])
    ranked = (rank_rows(rows, pool, real.subjects, mine) for rows, mine in zip(sides, own, strict=True))
    return RankedView(extractor.name, *ranked)


def authentic(query: Ranking, train: Ranking, real: RealVolumes) -> NDArray[np.bool_]:
    """(n,) whether the nearest training volume t of s has another training subject nearer to it than s.

    Alaa et al. 2022, eq. 7: d(t, nearest other) < d(t, s). Both distances are of the same t.
    """
    nearest, distance = _first_of_train(query, real)
    return np.asarray(_first_of_train(train, real)[1][nearest] < distance)


def _first_of_train(ranking: Ranking, real: RealVolumes) -> tuple[Rows, Matrix]:
    """Row and distance of the nearest training volume; the last that was kept stands for one still further."""
    return _pick(ranking, real.is_train[ranking.index])


def _pick(ranking: Ranking, wanted: NDArray[np.bool_]) -> tuple[Rows, Matrix]:
    rows, place = np.arange(len(wanted)), _first(wanted)
    return ranking.index[rows, place], ranking.distance[rows, place]


def _first(wanted: NDArray[np.bool_]) -> Rows:
    """(n,) column of the first that is wanted; the last column where none is."""
    return np.asarray(np.where(wanted.any(1), wanted.argmax(1), wanted.shape[1] - 1))


def neighbour_ratios(query: Ranking, real: RealVolumes) -> Matrix:
    """(n,) distance to the nearest training subject over that to the second nearest: 0 for a copy."""
    nearest, distance = _first_of_train(query, real)
    others = real.is_train[query.index] & (real.subjects[query.index] != real.subjects[nearest][:, None])
    return np.asarray(distance / np.maximum(_pick(query, others)[1], 1e-12))


def closer_share(query: Ranking, real: RealVolumes) -> float:
    """Share of queries nearer to train than to holdout at equal sizes, over all subsets of the larger side.

    If c volumes of the larger side (n) are nearer than all of the smaller (m), a subset of m holds none of them with
    probability C(n - c, m) / C(n, m). 0.5 in the mean if train is like holdout to the cohort. A copied volume is
    in few of the subsets, so pure copies move it by about m / 2n only: no preset gates it. `closer_to_train` of
    copies.py counts what each real volume attracts instead, and has no such exact test.
    """
    return float(_closer(real.is_train[None], query.index)[0])


def _closer(is_train: NDArray[np.bool_], index: Rows, kept: NDArray[np.bool_] | None = None) -> Matrix:
    """(r,) `closer_share` for each of r choices (r, m) of training volumes, of those that are `kept` (r, m)."""
    shares = []
    for row, choice in enumerate(is_train):
        present = np.ones(len(choice), dtype=bool) if kept is None else kept[row]
        train, holdout = int((choice & present).sum()), int((~choice & present).sum())
        is_large = choice if train >= holdout else ~choice
        end = _first((~is_large & present)[index])
        nearer = (is_large & present)[index].cumsum(1)[np.arange(len(index)), end]
        missed = stats.hypergeom.pmf(0, max(train, holdout), nearer, min(train, holdout))
        shares.append(float((1 - missed if train >= holdout else missed).mean()))
    return np.array(shares)


def closer_by_chance(query: Ranking, real: RealVolumes, seed: int) -> Matrix:
    """(PERMUTATIONS,) `closer_share` when subjects are of either side at random: exact without assumptions."""
    rng = np.random.default_rng([seed, 9])
    side = np.zeros(real.subjects.max() + 1, dtype=bool)
    side[real.subjects[: real.train]] = True
    return _closer(np.stack([rng.permutation(side)[real.subjects] for _ in range(PERMUTATIONS)]), query.index)


def closer_interval(query: Ranking, real: RealVolumes, bootstrap: Bootstrap) -> Estimate:
    """`closer_share` with its spread over random halves of the subjects, which is that of sampling all anew."""
    rng, value = np.random.default_rng([bootstrap.seed, 10]), closer_share(query, real)
    kept = np.stack([_half(real, rng) for _ in range(bootstrap.repeats)])
    resamples = _closer(np.broadcast_to(real.is_train, kept.shape), query.index, kept)
    spread = resamples - resamples.mean() + value
    smaller = min(real.train, len(real.subjects) - real.train)
    return from_resamples(value, np.clip(spread, 0, 1), bootstrap.confidence, smaller).holding_value


def _half(real: RealVolumes, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(m,) the volumes of half of the subjects of each side."""
    kept = np.zeros(len(real.subjects), dtype=bool)
    for subjects in (np.unique(real.subjects[: real.train]), np.unique(real.subjects[real.train :])):
        chosen = rng.choice(subjects, max(1, len(subjects) // 2), replace=False)
        kept |= np.isin(real.subjects, chosen)
    return kept


def _evaluate(view: RankedView, real: RealVolumes, bootstrap: Bootstrap) -> tuple[Section, list[tuple[Cell, ...]]]:
    """What one view finds, and its rows of the table."""
    sets = {"synthetic": view.synthetic, "holdout": view.holdout}
    shares = {name: from_flags(authentic(one, view.train, real), bootstrap.confidence) for name, one in sets.items()}
    ratios = {name: neighbour_ratios(one, real) for name, one in sets.items()}
    sided = _thinned(view.synthetic)
    closer = closer_interval(sided, real, bootstrap)
    p = (1 + int((closer_by_chance(sided, real, bootstrap.seed) >= closer.value - 1e-12).sum())) / (1 + PERMUTATIONS)
    found = {
        AUTHENTICITY: (shares["synthetic"], shares["holdout"].value),
        NNDR: (_median(ratios["synthetic"], bootstrap), float(np.median(ratios["holdout"]))),
        CLOSER_SHARE: (closer, 0.5),
    }
    metrics = [metric_of(spec, one, EXPLANATIONS[spec], view.name, fresh) for spec, (one, fresh) in found.items()]
    statement = (
        f"By {view.name}, {closer.value:.2f} of the synthetic volumes are closer to training than to holdout "
        f"volumes at equal sizes ({closer.low:.2f} to {closer.high:.2f}; 0.5 is no difference, p = {p:.2g})."
    )
    return Section(metrics, statements=[statement]), [
        _row(view.name, name, shares[name], ratios[name]) for name in sets
    ]


def _thinned(ranking: Ranking) -> Ranking:
    step = -(-len(ranking.index) // MOST_SIDED)
    return Ranking(ranking.distance[::step], ranking.index[::step])


def _median(values: Matrix, bootstrap: Bootstrap) -> Estimate:
    weights = resample_weights(len(values), bootstrap.repeats, bootstrap.seed).astype(int)
    medians = np.array([np.median(np.repeat(values, counts)) for counts in weights])
    return from_resamples(float(np.median(values)), medians, bootstrap.confidence, len(values)).holding_value


def _row(view: str, name: str, share: Estimate, ratios: Matrix) -> tuple[Cell, ...]:
    """The lowest ratios of fewer than `FEWEST` volumes would be single subjects': they are left out."""
    lowest = float(np.quantile(ratios, 0.05)) if 0.05 * len(ratios) >= FEWEST else None
    return view, name, share.n, *rounded((*share.figures, lowest, float(np.median(ratios))), 3)
