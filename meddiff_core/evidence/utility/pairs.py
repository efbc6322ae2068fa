"""What a segmentation network that knows only real pairs sees in the synthetic images.

A model can generate a label map that follows its condition perfectly beside an image that does not: measured on
its own label maps, fidelity would never show it. Here the structures are measured on the images.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from meddiff_core.contract import Condition, ContinuousCondition
from meddiff_core.evidence.disclosure import FEWEST
from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.intervals import Bootstrap, Estimate, Matrix
from meddiff_core.evidence.metrics import MetricSpec, metric_of
from meddiff_core.evidence.quality.fidelity import fidelity, fidelity_section
from meddiff_core.evidence.section import Section, Table
from meddiff_core.evidence.subjects import mean_by_subject
from meddiff_core.evidence.utility.arms import Arm
from meddiff_core.evidence.utility.comparing import with_interval
from meddiff_core.evidence.utility.segmentation import Segmenter, dice_scores
from meddiff_core.evidence.utility.trials import dice_outcome
from meddiff_core.models.randomness import generator_for
from meddiff_core.types import LabelArray, Progress, Volumes

MOST_SEGMENTED = 500
"""Synthetic volumes; more makes it slower, not clearer."""
PAIR_AGREEMENT = MetricSpec(
    name="pair_agreement",
    part="fidelity",
    better="higher",
    reference="that of the holdout",
    limited_by="synthetic",
    requires="audit.utility.effort and label maps (data.labels)",
)
METRICS = (PAIR_AGREEMENT,)
AGREEMENT = (
    "Dice of a generated label map with what a segmentation network that was trained on real pairs sees in the image "
    "beside it."
)


@dataclass(frozen=True)
class Segmented:
    """What the network saw in the volumes of a set."""

    seen_mm3: Matrix
    """(n, groups)."""
    dice: Matrix
    """(n, groups) with the label map that belongs to the image; NaN where that has none of it."""
    own_mm3: Matrix
    """(n, groups) by that label map."""


def pair_fidelity(audit: AuditInput, segmenter: Segmenter, bootstrap: Bootstrap) -> Generator[Progress, None, Section]:
    """Requested against segmented volumes, and how well image and label map of a pair agree."""
    order = torch.randperm(len(audit.accepted), generator=generator_for(audit.seed, "utility", "segmented"))
    rows = sorted(int(row) for row in order[:MOST_SEGMENTED])
    synthetic = yield from _segment("segment synthetic", audit, audit.accepted, rows, segmenter)
    holdout = audit.dataset.volumes("holdout")
    real = yield from _segment("segment holdout", audit, holdout, range(len(holdout)), segmenter)
    groups = list(audit.contract.labels)
    agreement = _agreement(
        synthetic.dice, mean_by_subject(real.dice, audit.dataset.subjects("holdout")), groups, bootstrap
    )
    followed = _followed(audit, [audit.requested[row] for row in rows], synthetic, real, bootstrap)
    return Section.merge([followed, agreement])


def _segment(
    label: str, audit: AuditInput, volumes: Volumes, rows: Sequence[int], segmenter: Segmenter
) -> Generator[Progress, None, Segmented]:
    groups, voxel = len(audit.contract.labels), audit.contract.voxel_mm3
    seen, agreed, own = [], [], []
    for done, row in enumerate(rows, start=1):
        predicted, truth = segmenter(volumes.image(row)), volumes.label(row)
        assert truth is not None, "pairs are looked at where there are label maps"
        seen.append(_counts(predicted, groups) * voxel)
        own.append(_counts(truth, groups) * voxel)
        agreed.append(dice_scores(predicted, truth, groups))
        yield Progress(label, done, len(rows))
    return Segmented(np.stack(seen), np.stack(agreed), np.stack(own))


def _counts(labels: LabelArray, groups: int) -> Matrix:
    return np.bincount(labels.ravel(), minlength=groups + 1)[1 : groups + 1].astype(np.float64)


def _followed(
    audit: AuditInput, requested: Sequence[Condition], synthetic: Segmented, real: Segmented, bootstrap: Bootstrap
) -> Section:
    """Per condition that is a structure's volume: requested against what the network measures on the image."""
    groups = list(audit.contract.labels)
    columns = {
        spec.name: groups.index(spec.group)
        for spec in audit.contract.conditions
        if isinstance(spec, ContinuousCondition) and spec.group is not None
    }
    measured = {name: synthetic.seen_mm3[:, column] for name, column in columns.items()}
    references = {
        name: fidelity(real.own_mm3[:, column], real.seen_mm3[:, column], bootstrap).r.value
        for name, column in columns.items()
    }
    return fidelity_section(requested, measured, "segmentation", bootstrap, references)


def _agreement(synthetic: Matrix, real: Matrix, groups: Sequence[str], bootstrap: Bootstrap) -> Section:
    """Dice of segmentation and label map, of synthetic volumes (n, groups) and of holdout subjects (m, groups)."""
    kept = [column for column in range(len(groups)) if np.isfinite(real[:, column]).sum() >= FEWEST]
    kept = [column for column in kept if np.isfinite(synthetic[:, column]).any()]
    if not kept:
        return Section(statements=["No label group is common enough to tell whether image and label map agree."])
    columns = {"mean": kept} | {groups[column]: [column] for column in kept}
    found = {name: _both(synthetic[:, chosen], real[:, chosen], bootstrap) for name, chosen in columns.items()}
    synthetic_mean, real_mean = found["mean"]
    table = Table(
        part="fidelity",
        title="Agreement of image and label map",
        caption="Dice of the label map of a pair with the segmentation of its image by a network that was trained on "
        "real pairs. Far below the holdout, images and label maps do not belong together; above it, synthetic images "
        "are easier than real ones.",
        columns=("structure", "synthetic", "holdout"),
        rows=tuple((name, *map(with_interval, both)) for name, both in found.items()),
    )
    return Section([metric_of(PAIR_AGREEMENT, synthetic_mean, AGREEMENT, reference=real_mean.value)], [table])


def _both(synthetic: Matrix, real: Matrix, bootstrap: Bootstrap) -> tuple[Estimate, Estimate]:
    arms = (Arm("synthetic pairs", 0, len(synthetic)), synthetic), (Arm("real pairs", len(real), 0), real)
    first, second = (dice_outcome(arm, [scores], bootstrap).estimate(bootstrap.confidence) for arm, scores in arms)
    return first, second
