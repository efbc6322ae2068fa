"""Covariates predicted from images: trained on synthetic, on real and on both, tested on the sealed holdout.

Ridge regression on features of a fixed random network: at a hundred volumes it does as well as a trained network,
and its optimum is exact, so that no arm can be trained for less than another.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from meddiff_core.contract import CategoricalCondition, Condition, ConditionSpec, ContinuousCondition
from meddiff_core.evidence.disclosure import FEWEST
from meddiff_core.evidence.features.random_conv import RandomConvFeatures
from meddiff_core.evidence.features.records import extract
from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.intervals import Bootstrap, Matrix
from meddiff_core.evidence.section import Cell, Section, Table
from meddiff_core.evidence.selection import Selection
from meddiff_core.evidence.subjects import mean_by_subject
from meddiff_core.evidence.utility.arms import Arm, Design, choose_synthetic
from meddiff_core.evidence.utility.comparing import Task, compare_arms, with_interval
from meddiff_core.evidence.utility.resampling import (
    Outcome,
    Score,
    accuracy_score,
    explained_score,
    mean_score,
    outcome,
    ranking_score,
)
from meddiff_core.models.randomness import derive_seed
from meddiff_core.types import LabelArray, Progress, StoredArray, Volumes

MOST_COVARIATES = 6
"""Of which the first are taken."""
FEWEST_TRAIN = 20
"""Real training volumes with a known value, below which nothing is learned."""
FEWEST_TEST = 8
"""Holdout subjects with a known value."""
PENALTIES = np.logspace(0, 6, 13)
"""Of ridge regression on standardised features; chosen by leave-one-out error within the training set."""


@dataclass(frozen=True)
class ImagesOnly:
    """Volumes without their label maps, from which a covariate could be read off; a `Volumes` set."""

    volumes: Volumes

    def __len__(self) -> int:
        return len(self.volumes)

    def image(self, index: int) -> StoredArray:
        """As stored, (i, j, k)."""
        return self.volumes.image(index)

    def label(self, index: int) -> LabelArray | None:
        """None."""
        return None


@dataclass(frozen=True)
class Known:
    """Features (n, d) of some volumes under one seed, with what is known of them."""

    features: Matrix
    conditions: Sequence[Condition]

    def targets(self, spec: ConditionSpec) -> tuple[Matrix, Matrix]:
        """Features and targets (n, 1 or classes) of the volumes whose value is known."""
        values = [condition.get(spec.name) for condition in self.conditions]
        rows = [row for row, value in enumerate(values) if value is not None]
        return self.features[rows], encode_targets([values[row] for row in rows], spec)


def encode_targets(values: Sequence[object], spec: ConditionSpec) -> Matrix:
    """Numbers as one column, categories as a column of 1 and -1 each."""
    if isinstance(spec, CategoricalCondition):
        rows = [[1.0 if value == name else -1.0 for name in spec.categories] for value in values]
        return np.array(rows, dtype=np.float64).reshape(len(values), len(spec.categories))
    return np.array(values, dtype=np.float64).reshape(len(values), 1)


def covariate_trials(audit: AuditInput, design: Design, bootstrap: Bootstrap) -> Generator[Progress, None, Section]:
    """Every covariate that is no volume of a structure, one task each."""
    usable, statements = _usable(audit)
    if not usable:
        return Section(statements=statements)
    predicted: dict[tuple[str, Arm], list[Matrix]] = {}
    for number in range(design.seeds):
        sides = yield from _features(audit, design, number)
        for spec in usable:
            for arm in design.arms:
                predicted.setdefault((spec.name, arm), []).append(_predict(spec, arm, sides))
    reports = [
        _report(audit, spec, {arm: predicted[spec.name, arm] for arm in design.arms}, design, bootstrap)
        for spec in usable
    ]
    return Section.merge([*reports, Section(statements=statements)])


def _usable(audit: AuditInput) -> tuple[list[ConditionSpec], list[str]]:
    """Covariates that can be tested, and a sentence for each that cannot."""
    specs = [spec for spec in audit.contract.conditions if isinstance(spec, CategoricalCondition) or spec.group is None]
    wanting = {spec.name: _wanting(audit, spec) for spec in specs[:MOST_COVARIATES]}
    statements = [f"Prediction of {name} could not be tested: {why}." for name, why in wanting.items() if why]
    if len(specs) > MOST_COVARIATES:
        statements.append(f"Prediction was tested for the first {MOST_COVARIATES} of {len(specs)} covariates.")
    return [spec for spec in specs[:MOST_COVARIATES] if not wanting[spec.name]], statements


def _wanting(audit: AuditInput, spec: ConditionSpec) -> str:
    """What is missing for a covariate to be tested; empty if nothing."""
    tested = _by_subject(audit, spec)
    sets = {
        "real training volumes": (_count(audit.dataset.conditions("train"), spec), FEWEST_TRAIN),
        "synthetic volumes": (_count(audit.requested, spec), FEWEST_TRAIN),
        "holdout subjects": (len(tested), FEWEST_TEST),
    }
    for name, (count, needed) in sets.items():
        if count < needed:
            return f"{needed} {name} with a known value are needed, there are {count}"
    if isinstance(spec, CategoricalCondition) and len(_tested_classes(tested)) < 2:
        return f"{FEWEST} holdout subjects are needed in each of two categories"
    return ""


def _count(conditions: Sequence[Condition], spec: ConditionSpec) -> int:
    return sum(condition.get(spec.name) is not None for condition in conditions)


def _by_subject(audit: AuditInput, spec: ConditionSpec) -> Matrix:
    """(subjects, 1 or classes) targets of the holdout subjects whose value is known."""
    rows = _tested_rows(audit, spec)
    conditions, subjects = audit.dataset.conditions("holdout"), audit.dataset.subjects("holdout")
    targets = encode_targets([conditions[row][spec.name] for row in rows], spec)
    return mean_by_subject(targets, [subjects[row] for row in rows]) if rows else targets


def _tested_rows(audit: AuditInput, spec: ConditionSpec) -> list[int]:
    conditions = audit.dataset.conditions("holdout")
    return [row for row, condition in enumerate(conditions) if condition.get(spec.name) is not None]


def _tested_classes(targets: Matrix) -> list[int]:
    """Columns of the categories that enough subjects have."""
    counts = (targets > 0).sum(0) if len(targets) else np.zeros(0)
    return [column for column, count in enumerate(counts) if count >= FEWEST]


def _features(audit: AuditInput, design: Design, number: int) -> Generator[Progress, None, dict[str, Known]]:
    """Of the real training volumes, the synthetic ones that any arm sees under a seed in their order, the holdout."""
    seed = derive_seed(audit.seed, "utility", number)
    extractor = RandomConvFeatures(audit.contract.model_copy(update={"labels": {}}), seed, device=audit.device)
    rows = choose_synthetic(design.added[-1], len(audit.accepted), seed)
    sets: dict[str, tuple[Volumes, Sequence[Condition]]] = {
        "real": (audit.dataset.volumes("train"), audit.dataset.conditions("train")),
        "synthetic": (Selection.of(audit.accepted, rows), [audit.requested[row] for row in rows]),
        "holdout": (audit.dataset.volumes("holdout"), audit.dataset.conditions("holdout")),
    }
    sides = {}
    for name, (volumes, conditions) in sets.items():
        features = yield from extract(extractor, ImagesOnly(volumes))
        sides[name] = Known(features.values.astype(np.float64), conditions)
    return sides


def _predict(spec: ConditionSpec, arm: Arm, sides: Mapping[str, Known]) -> Matrix:
    """(n, 1 or classes) predictions for the holdout volumes whose value is known."""
    real, synthetic = sides["real"], sides["synthetic"]
    parts = [
        Known(real.features[: arm.real], real.conditions[: arm.real]).targets(spec),
        Known(synthetic.features[: arm.synthetic], synthetic.conditions[: arm.synthetic]).targets(spec),
    ]
    features, targets = (np.concatenate(part) for part in zip(*parts, strict=True))
    tested, _ = sides["holdout"].targets(spec)
    return fit_ridge(features, targets, tested, balanced=isinstance(spec, CategoricalCondition))


def fit_ridge(features: Matrix, targets: Matrix, tested: Matrix, balanced: bool) -> Matrix:
    """Predictions (n, m) for tested features (n, d) by ridge regression; `balanced`: every class weighs the same."""
    from sklearn.linear_model import RidgeCV

    mean, std = features.mean(0), features.std(0)
    # StandardScaler would blow up what varies by the rounding of single precision alone
    scale = np.where(std > 1e-6 * (1 + np.abs(mean)), std, np.inf)
    weights = None
    if balanced:
        weights = (targets > 0) @ (1 / np.maximum(1, (targets > 0).sum(0)))
        weights = weights / weights.mean()
    ridge = RidgeCV(PENALTIES).fit((features - mean) / scale, targets, sample_weight=weights)
    return np.asarray(ridge.predict((tested - mean) / scale), dtype=np.float64).reshape(len(tested), targets.shape[1])


def _report(
    audit: AuditInput,
    spec: ConditionSpec,
    predicted: Mapping[Arm, Sequence[Matrix]],
    design: Design,
    bootstrap: Bootstrap,
) -> Section:
    rows, names = _tested_rows(audit, spec), audit.dataset.subjects("holdout")
    subjects, truth = [names[row] for row in rows], _by_subject(audit, spec)
    scores = {
        arm: [_scores(spec, mean_by_subject(run, subjects), truth) for run in runs] for arm, runs in predicted.items()
    }
    count = len(truth) if isinstance(spec, ContinuousCondition) else len(_of_tested_classes(truth, truth)[0])
    outcomes = {
        arm: [outcome(arm.name, one, count, bootstrap) for one in zip(*runs, strict=True)]
        for arm, runs in scores.items()
    }
    task = _task(audit, spec, truth)
    compared = compare_arms(task, {arm: both[0] for arm, both in outcomes.items()}, design, bootstrap)
    table = _table(task, spec, outcomes, count, design, bootstrap)
    return Section.merge([Section(tables=[table]), compared])


def _scores(spec: ConditionSpec, predicted: Matrix, truth: Matrix) -> tuple[Score, Score]:
    """The figure of a training that is compared, and a second one to read beside it."""
    if isinstance(spec, ContinuousCondition):
        return mean_score(np.abs(predicted - truth)[:, 0]), explained_score(predicted[:, 0], truth[:, 0])
    decisions, belongs = _of_tested_classes(predicted, truth)
    return ranking_score(decisions, belongs > 0), accuracy_score(decisions, belongs > 0)


def _of_tested_classes(predicted: Matrix, truth: Matrix) -> tuple[Matrix, Matrix]:
    """Only the categories that enough test subjects have, and only those subjects."""
    columns = _tested_classes(truth)
    rows = (truth[:, columns] > 0).any(1)
    return predicted[rows][:, columns], truth[rows][:, columns]


def _task(audit: AuditInput, spec: ConditionSpec, truth: Matrix) -> Task:
    title = f"prediction of {spec.name}"
    if isinstance(spec, CategoricalCondition):
        return Task(spec.name, title, "area under the ROC curve", True, 0.5)
    values = [condition.get(spec.name) for condition in audit.dataset.conditions("train")]
    middle = float(np.median([value for value in values if isinstance(value, int | float)]))
    return Task(spec.name, title, "mean absolute error", False, float(np.abs(truth - middle).mean()))


def _table(
    task: Task,
    spec: ConditionSpec,
    outcomes: Mapping[Arm, Sequence[Outcome]],
    count: int,
    design: Design,
    bootstrap: Bootstrap,
) -> Table:
    second = "R2" if isinstance(spec, ContinuousCondition) else "balanced accuracy"
    rows: list[tuple[Cell, ...]] = [
        (arm.name, arm.real, arm.synthetic, *(with_interval(one.estimate(bootstrap.confidence)) for one in both))
        for arm, both in outcomes.items()
    ]
    rows.append(("no image", None, None, f"{task.trivial:.3g}", None))
    return Table(
        part="utility",
        title=f"Prediction of {spec.name} from the image",
        caption=f"Ridge regression on features of a random network, tested on {count} holdout subjects; mean of "
        f"{design.seeds} network(s), with {bootstrap.confidence:.0%} intervals over both. Volumes whose {spec.name} is "
        "not known are left out.",
        columns=("trained on", "real volumes", "synthetic volumes", task.figure, second),
        rows=tuple(rows),
    )
