"""Whether the models betray who was trained on (Shokri et al. 2017), attacked with all that their owner has: weights.

A subject is the unit: scores are averaged over its volumes, made comparable by subtracting how difficult its volumes
are, and training is set apart from holdout. Without the difficulty a blurred scan passes for a member; without a
correction for the choice, the best of many attacks finds a leak in noise.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, stats

from meddiff_core.contract import Contract
from meddiff_core.data.split.sides import Side
from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.intervals import Bootstrap, Estimate, Matrix, from_count
from meddiff_core.evidence.measurements import measure
from meddiff_core.evidence.metrics import Metric, MetricSpec, metric_of
from meddiff_core.evidence.privacy.attacks import (
    Scores,
    augmented_scores,
    autoencoder_scores,
    denoiser_scores,
    encode_augmented,
)
from meddiff_core.evidence.section import Cell, Section, Table
from meddiff_core.evidence.subjects import mean_by_subject
from meddiff_core.models.augmentation import AugmentVectors
from meddiff_core.models.autoencoder import load_autoencoder
from meddiff_core.models.conditions import ConditionVectors, encode_conditions
from meddiff_core.models.denoiser import has_guide, load_denoiser, load_guide
from meddiff_core.models.inference.packed import packed
from meddiff_core.types import Latents, Progress, Volumes

MEMBERSHIP_AUC = MetricSpec(
    name="membership_auc",
    part="privacy",
    privacy=True,
    better="lower",
    reference="that of weights that betray nobody",
    detail="model",
    requires="the weights of autoencoder and denoiser",
)
MEMBERSHIP_TPR = MEMBERSHIP_AUC.model_copy(update={"name": "membership_tpr"})
METRICS = (MEMBERSHIP_AUC, MEMBERSHIP_TPR)
MOST = 200
"""Volumes of a side that are attacked."""
TRAIN_PER_HOLDOUT = 2
"""Training volumes per holdout volume: the smaller side sets the width of the interval, more of the other costs."""
VARIANTS = 2
"""Augmented variants of a volume that are asked about, of those that training saw; encoding them takes time."""
DIFFICULTY = ("mean", "std", "foreground_share", "sharpness")
"""Measurements that tell how hard a volume is to give back. No model has seen them, so they carry no membership; the
autoencoder's own error does."""
RIDGE = 1.0
PERMUTATIONS = 1999
FALSE_POSITIVES = 0.01
"""Share of outsiders that may be taken for members."""
INSIDE = 1 - 1e-9
"""The area at which a root is looked for where the area found is 1, which is one itself."""
MODELS = ("autoencoder", "denoiser")


@dataclass(frozen=True)
class Attacked:
    """Volumes of one side, and how the models answered to them."""

    subjects: Sequence[str]
    difficulty: Matrix
    """(n, len(DIFFICULTY))."""
    scores: Mapping[str, Scores]
    """Per model."""


@dataclass(frozen=True)
class Outcome:
    """How well one attack tells training subjects from holdout subjects."""

    attack: str
    auc: Estimate
    plain_auc: float
    """Without the difficulty subtracted."""
    found: Estimate
    """Share of training subjects above all but 1% of the holdout."""


def membership_inference(audit: AuditInput, bootstrap: Bootstrap) -> Generator[Progress, None, Section]:
    """Attacks on the autoencoder and the denoiser."""
    folder = audit.models
    if folder is None or not all((folder / name).is_dir() for name in MODELS):
        return Section(statements=(
            "Membership inference needs the weights of autoencoder and denoiser, which are not at hand: whether they "
            "betray who was trained on is not known.",
        ))  # fmt: skip
    train = yield from _attack(audit, "train", attacked_rows(audit, "train"))
    holdout = yield from _attack(audit, "holdout", attacked_rows(audit, "holdout"))
    sections = [weights_section(name, train, holdout, bootstrap) for name in MODELS]
    return Section.merge([*sections, Section(statements=[_resolution(holdout)])])


def attacked_rows(audit: AuditInput, side: Side) -> list[int]:
    """Volumes of a side that are attacked, all or a random sample."""
    count, holdout = len(audit.dataset.subjects(side)), len(audit.dataset.subjects("holdout"))
    most = min(MOST, TRAIN_PER_HOLDOUT * holdout)
    if count <= most:
        return list(range(count))
    return sorted(map(int, np.random.default_rng([audit.seed, 7]).choice(count, most, replace=False)))


def _attack(audit: AuditInput, side: Side, rows: Sequence[int]) -> Generator[Progress, None, Attacked]:
    assert audit.models is not None
    volumes, device = audit.dataset.volumes(side), audit.device
    autoencoder, _ = load_autoencoder(audit.models / "autoencoder", device)
    denoiser, scale, _ = load_denoiser(audit.models / "denoiser", device)
    early = load_guide(audit.models / "denoiser", denoiser) if has_guide(audit.models / "denoiser") else None
    if device == "cpu":
        autoencoder, denoiser, early = packed(autoencoder), packed(denoiser), None if early is None else packed(early)
    latents, errors = yield from autoencoder_scores(autoencoder, volumes, rows, audit.contract, device)
    given = audit.dataset.conditions(side)
    conditions = encode_conditions([given[row] for row in rows], audit.contract.conditions)
    variants = list[tuple[Latents, ConditionVectors]]()
    answers = yield from denoiser_scores(denoiser, scale.standardise(latents), conditions, audit.seed, device, early)
    for vectors in vectors_of(audit, side, rows):
        means = encode_augmented(autoencoder, volumes, rows, vectors, audit.contract, device)
        variants.append((scale.standardise(means), torch.cat([conditions, vectors], dim=1)))
    answers |= yield from augmented_scores(denoiser, variants, audit.seed, device, early)
    subjects = audit.dataset.subjects(side)
    return Attacked(
        [subjects[row] for row in rows], difficulty_of(volumes, rows, audit.contract),
        {"autoencoder": errors, "denoiser": answers},
    )  # fmt: skip


def vectors_of(audit: AuditInput, side: Side, rows: Sequence[int]) -> list[AugmentVectors]:
    """Augmentations of some volumes, (n, 10) for each variant to be asked about; none if training saw no variants.

    Those of a training volume are its own in training. A volume of the holdout has those of a training volume, as if it
    stood in its place: with others the attack would find the augmentations instead of the volumes.
    """
    if audit.augmentations is None:
        return []
    each = audit.augmentations.unflatten(0, (-1, len(audit.dataset.subjects("train"))))[:VARIANTS]
    places = attacked_rows(audit, "train")
    return list(each[:, rows if side == "train" else [places[number % len(places)] for number in range(len(rows))]])


def difficulty_of(volumes: Volumes, rows: Sequence[int], contract: Contract) -> Matrix:
    """(n, len(DIFFICULTY)) logarithms of what the images of some volumes measure."""
    figures = [measure(volumes.image(row), None, contract) for row in rows]
    return np.log(np.maximum([[one[name] for name in DIFFICULTY] for one in figures], 1e-6))


@dataclass(frozen=True)
class Evaluation:
    """What all attacks on one thing come to."""

    outcomes: Sequence[Outcome]
    chance: float
    """Mean area of the strongest without a leak."""
    p: float
    """Chance of an area as high as that of the strongest without a leak."""

    @property
    def best(self) -> Outcome:
        """The strongest attack."""
        return max(self.outcomes, key=lambda outcome: outcome.auc.value)

    @property
    def corrected(self) -> Estimate:
        """Its area, corrected for having been chosen."""
        return beyond_chance(self.best.auc, self.chance)


def weights_section(model: str, train: Attacked, holdout: Attacked, bootstrap: Bootstrap) -> Section:
    """Every attack on one model, and the strongest of them."""
    evaluation = evaluate_attacks(model, train, holdout, bootstrap)
    return Section(
        metrics=_metrics(model, evaluation),
        tables=[outcomes_table(evaluation.outcomes, f"Membership inference on the {model}")],
        statements=[_statement(model, evaluation)],
    )


def evaluate_attacks(attacked: str, train: Attacked, holdout: Attacked, bootstrap: Bootstrap) -> Evaluation:
    """Every attack on a model, or on what is released."""
    names = list(train.scores[attacked])
    sides = (train, holdout)
    answers = [np.stack([side.scores[attacked][name] for name in names], 1) for side in sides]
    plain = [mean_by_subject(rows, side.subjects) for rows, side in zip(answers, sides, strict=True)]
    difficulty = np.concatenate([mean_by_subject(side.difficulty, side.subjects) for side in sides])
    members = np.arange(len(difficulty)) < len(plain[0])
    scores = without_difficulty(np.concatenate(plain), difficulty)
    outcomes = [
        _outcome(name, column, before, members, bootstrap.confidence)
        for name, column, before in zip(names, scores.T, np.concatenate(plain).T, strict=True)
    ]
    highest = max(outcome.auc.value for outcome in outcomes)
    chance = best_by_chance(scores, members, bootstrap.seed)
    p = (1 + int((chance >= highest - 1e-12).sum())) / (1 + len(chance))
    return Evaluation(outcomes, float(chance.mean()), p)


def without_difficulty(scores: Matrix, difficulty: Matrix) -> Matrix:
    """Scores (n, k) less their ridge regression on the difficulty (n, d).

    The fit sees all subjects and not who is a member, so that under no leak any of them may change sides.
    """
    from sklearn.linear_model import Ridge  # slow to import, as all of scikit-learn
    from sklearn.preprocessing import scale

    unit = scale(difficulty)
    return np.asarray(scores - Ridge(RIDGE).fit(unit, scores).predict(unit).reshape(scores.shape))


def _outcome(name: str, scores: Matrix, plain: Matrix, members: NDArray[np.bool_], confidence: float) -> Outcome:
    auc = auc_interval(area(scores, members), int(members.sum()), int((~members).sum()), confidence)
    outsiders = np.sort(scores[~members])
    threshold = outsiders[-1 - int(FALSE_POSITIVES * len(outsiders))]
    found = from_count(int((scores[members] > threshold).sum()), int(members.sum()), confidence)
    return Outcome(name, auc, area(plain, members), found)


def area(scores: Matrix, members: NDArray[np.bool_]) -> float:
    """Probability that a member's score is higher than an outsider's; ties count half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(members, scores))


def areas(ranks: Matrix, members: NDArray[np.bool_]) -> Matrix:
    """(p, k) areas for ranks (n, k) and p choices (p, n) of the same number of members: thousands in one product."""
    inside = int(members[0].sum())
    outside = members.shape[1] - inside
    return np.asarray((members @ ranks - inside * (inside + 1) / 2) / (inside * outside))


def best_by_chance(scores: Matrix, members: NDArray[np.bool_], seed: int) -> Matrix:
    """(PERMUTATIONS,) area of the best attack when subjects are members at random: what there is without a leak."""
    rng = np.random.default_rng([seed, 8])
    choices = np.stack([rng.permutation(members) for _ in range(PERMUTATIONS)])
    return np.asarray(areas(stats.rankdata(scores, axis=0), choices).max(1))


def auc_interval(auc: float, members: int, outsiders: int, confidence: float) -> Estimate:
    """An area with its score interval (Newcombe 2006, method 5), which keeps a width at an area of 1."""
    z, mean_size = float(stats.norm.ppf((1 + confidence) / 2)), (members + outsiders) / 2

    def excess(area: float) -> float:
        spread = 1 + (mean_size - 1) * ((1 - area) / (2 - area) + area / (1 + area))
        return abs(area - auc) - z * float(np.sqrt(area * (1 - area) * spread / (members * outsiders)))

    low = optimize.brentq(excess, 0, min(auc, INSIDE)) if auc > 0 else 0.0
    high = optimize.brentq(excess, max(auc, 1 - INSIDE), 1) if auc < 1 else 1.0
    return Estimate(auc, float(low), float(high), min(members, outsiders))


def beyond_chance(auc: Estimate, chance: float) -> Estimate:
    """An area on the scale where `chance` is 0.5 and 1 is 1: `chance` is what the best attack reaches without a leak.

    Under no leak it is 0.5 in the mean, however many attacks were tried (the correction of Cohen 1960 for agreement).
    """
    low, value, high = (max(0.0, 1 - (1 - end) / 2 / (1 - chance)) for end in (auc.low, auc.value, auc.high))
    return Estimate(value, low, high, auc.n)


def _metrics(model: str, evaluation: Evaluation) -> list[Metric]:
    best, outsiders = evaluation.best, evaluation.best.auc.n
    strongest = (
        f"Area under the ROC curve of the strongest attack on the weights of the {model}, corrected for the choice of "
        "the strongest: 0.5 is no leak."
    )
    found = (
        f"Share of training subjects that the strongest attack on the {model} finds at {_least_rate(outsiders)} false "
        f"positives, the fewest that {outsiders} holdout subjects can show."
    )
    return [
        metric_of(MEMBERSHIP_AUC, evaluation.corrected, strongest, model, reference=0.5),
        metric_of(MEMBERSHIP_TPR, best.found, found, model, _share_by_chance(outsiders)),
    ]


def _share_by_chance(outsiders: int) -> float:
    """Mean share above the threshold without a leak: its rank among the outsiders over their number and one."""
    return (1 + int(FALSE_POSITIVES * outsiders)) / (outsiders + 1)


def _least_rate(outsiders: int) -> str:
    return f"{max(FALSE_POSITIVES, _share_by_chance(outsiders)):.1%}"


def outcomes_table(outcomes: Sequence[Outcome], title: str) -> Table:
    """A row for each attack."""
    rows: list[tuple[Cell, ...]] = [
        (
            outcome.attack, *(round(figure, 3) for figure in (
                outcome.auc.value, outcome.auc.low, outcome.auc.high, outcome.plain_auc, outcome.found.value
            )),
        )
        for outcome in outcomes
    ]  # fmt: skip
    return Table(
        part="privacy",
        title=title,
        caption="How well each attack tells training subjects from holdout subjects: 0.5 is chance, 1 is always. "
        "Difficulty is subtracted but in the column `not calibrated`; no interval is corrected for there being many.",
        columns=("attack", "AUC", "low", "high", "not calibrated", f"found at {_least_rate(outcomes[0].auc.n)}"),
        rows=tuple(rows),
    )


def _statement(model: str, evaluation: Evaluation) -> str:
    best, count = evaluation.best, len(evaluation.outcomes)
    return (
        f"Whoever had the weights: the strongest of {count} membership attacks on the {model} ({best.attack}) reaches "
        f"an area of {best.auc.value:.2f} ({best.auc.low:.2f} to {best.auc.high:.2f}); the best of {count} would reach "
        f"{evaluation.chance:.2f} without any leak, and as much as was found with p = {evaluation.p:.2g}."
    )


def _resolution(holdout: Attacked) -> str:
    subjects = len(set(holdout.subjects))
    needed = round(1 / FALSE_POSITIVES) - 1
    if subjects >= needed:
        return f"True positives are given at 1% false positives, set on {subjects} holdout subjects."
    return (
        f"{subjects} holdout subjects cannot show a rate of 1% false positives: the fewest that can be set is 1 in "
        f"{subjects + 1}. At least {needed} are needed, and 300 to be sure of it."
    )
