"""Segmentation as a test of usefulness: trained on synthetic, on real and on both, tested on the sealed holdout.

Quality figures can be perfect for a cohort that nobody can train on. All trainings take the same steps, since more
volumes at equal epochs would be more training, and that alone would look like a gain.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from meddiff_core.evidence.disclosure import FEWEST
from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.intervals import Bootstrap, Matrix
from meddiff_core.evidence.section import Section, Table
from meddiff_core.evidence.selection import Selection
from meddiff_core.evidence.subjects import mean_by_subject
from meddiff_core.evidence.utility.arms import Arm, Design, choose_synthetic
from meddiff_core.evidence.utility.comparing import Task, compare_arms, with_interval
from meddiff_core.evidence.utility.resampling import Outcome, mean_score, outcome
from meddiff_core.evidence.utility.segmentation import (
    Recipe,
    Segmenter,
    dice_scores,
    most_common_labels,
    train_segmenter,
)
from meddiff_core.models.randomness import derive_seed
from meddiff_core.models.training.loading import Remembered
from meddiff_core.types import LabelArray, Progress, StoredArray, Volumes

HELD_BYTES = 2**29
"""Of each set of volumes that is kept in memory while networks train on it."""

TRIVIAL = Arm("no image: the most common label of each voxel", 0, 0)


@dataclass(frozen=True)
class SegmentationTrials:
    """What came out, and a network that is worth using again."""

    section: Section
    segmenter: Segmenter
    """Of the first training on real volumes."""


def segmentation_trials(
    audit: AuditInput, design: Design, bootstrap: Bootstrap
) -> Generator[Progress, None, SegmentationTrials]:
    """Train every arm under every seed and test it on the holdout."""
    real, synthetic = (Remembered(set_, HELD_BYTES) for set_ in (audit.dataset.volumes("train"), audit.accepted))
    holdout = Remembered(audit.dataset.volumes("holdout"), HELD_BYTES)
    subjects, groups = audit.dataset.subjects("holdout"), len(audit.contract.labels)
    recipe = Recipe(design.steps, mirror=audit.config.utility.mirror)
    found: dict[Arm, list[Matrix]] = {}
    first: Segmenter | None = None
    for arm in design.arms:
        for number in range(design.seeds):
            seed = derive_seed(audit.seed, "utility", number)
            pairs = pairs_of(arm, real, synthetic, seed)
            label = f"segmentation on {arm.name}, {number + 1} of {design.seeds}"
            segmenter = yield from train_segmenter(label, pairs, audit.contract, recipe, seed, audit.device)
            first = first or segmenter
            scores = score_segmentation(segmenter, holdout, groups)
            found.setdefault(arm, []).append(mean_by_subject(scores, subjects))
    assert first is not None, "a design has at least the real arm"
    guess = most_common_labels(real, groups)
    found[TRIVIAL] = [mean_by_subject(score_segmentation(lambda _: guess, holdout, groups), subjects)]
    return SegmentationTrials(_report(audit, design, found, bootstrap), first)


def pairs_of(arm: Arm, real: Volumes, synthetic: Volumes, seed: int) -> Selection:
    """The training set of an arm under a seed."""
    rows = [(real, row) for row in range(arm.real)]
    return Selection([*rows, *((synthetic, row) for row in choose_synthetic(arm, len(synthetic), seed))])


def score_segmentation(segment: Callable[[StoredArray], LabelArray], volumes: Volumes, groups: int) -> Matrix:
    """(n, groups) Dice of each volume."""
    rows = []
    for index in range(len(volumes)):
        truth = volumes.label(index)
        assert truth is not None, "trials are run where there are label maps"
        rows.append(dice_scores(segment(volumes.image(index)), truth, groups))
    return np.stack(rows)


Found = Mapping[Arm, Sequence[Matrix]]
"""Per arm and seed the Dice (subjects, groups)."""


def _report(audit: AuditInput, design: Design, found: Found, bootstrap: Bootstrap) -> Section:
    kept, left_out = _groups_of_enough(found[design.real][0], list(audit.contract.labels))
    if not kept:
        nothing = f"No label group is found in {FEWEST} holdout subjects, so segmentation cannot be tested."
        return Section(statements=[nothing])
    found = {arm: [scores[:, list(kept.values())] for scores in runs] for arm, runs in found.items()}
    means = {arm: dice_outcome(arm, runs, bootstrap) for arm, runs in found.items()}
    task = Task("segmentation", "segmentation", "mean Dice", True, means[TRIVIAL].value, " at equal steps")
    compared = compare_arms(task, means, design, bootstrap)
    missing = [f"Too few holdout subjects have {', '.join(left_out)} for a Dice of it."] if left_out else []
    table = _table(found, means, list(kept), design, bootstrap)
    return Section.merge([Section(tables=[table]), compared, Section(statements=missing)])


def _groups_of_enough(scores: Matrix, groups: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """Column of each group that enough test subjects have, and the names of the others."""
    counts = dict(zip(groups, np.isfinite(scores).sum(0), strict=True))
    kept = {group: column for column, group in enumerate(groups) if counts[group] >= FEWEST}
    return kept, [group for group in groups if group not in kept]


def dice_outcome(arm: Arm, runs: Sequence[Matrix], bootstrap: Bootstrap) -> Outcome:
    """The mean of Dice (subjects, groups), first over the groups that a subject has."""
    means = [mean_score(pd.DataFrame(scores).mean(axis=1).to_numpy()) for scores in runs]
    return outcome(arm.name, means, len(runs[0]), bootstrap)


def _table(
    found: Found, means: Mapping[Arm, Outcome], groups: Sequence[str], design: Design, bootstrap: Bootstrap
) -> Table:
    rows = []
    for arm, runs in found.items():
        columns = [
            dice_outcome(arm, [scores[:, [column]] for scores in runs], bootstrap) for column in range(len(groups))
        ]
        dice = [with_interval(one.estimate(bootstrap.confidence)) for one in (means[arm], *columns)]
        volumes = (None, None) if arm == TRIVIAL else (arm.real, arm.synthetic)
        rows.append((arm.name, *volumes, *dice))
    return Table(
        part="utility",
        title="Segmentation of the holdout",
        caption=f"Dice of a small U-Net, {design.steps} steps for every row, mean of {design.seeds} training(s) and of "
        f"{len(found[design.real][0])} test subjects, with {bootstrap.confidence:.0%} intervals over both.",
        columns=("trained on", "real volumes", "synthetic volumes", "mean Dice", *groups),
        rows=tuple(rows),
    )
