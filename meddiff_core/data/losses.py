"""What conforming takes from a scan, measured by bringing it back onto its own grid.

A mask that keeps a small organ, a grid that is too small, or a scale that clips gives volumes that are tidy and
wrong, and networks learn them as they are. So what is lost is counted, case by case, before anything is trained.
"""

import csv
import io
from collections.abc import Generator, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meddiff_core.artefacts import write_text
from meddiff_core.contract import Contract
from meddiff_core.data.conform import Conformed, Loaded, conform_scan, ends_of, load_case, nearest, restore
from meddiff_core.data.dataset import as_text
from meddiff_core.data.fingerprint import CaseFingerprint, Fingerprint
from meddiff_core.data.foreground import Mask, body_of, steps_within
from meddiff_core.errors import CaseRefused
from meddiff_core.study import DataConfig
from meddiff_core.types import CaseRef, Mapper, Progress, Refusal, Volume

WORTH_SAYING = 0.03
MOST_VOXELS = 1_000_000
"""Of a scan that are compared: every n-th along an axis of a larger one."""


@dataclass(frozen=True)
class Loss:
    """What conforming takes from one scan, as shares of its foreground unless it says otherwise."""

    case: str
    outside_mask: float
    outside_grid: float
    """Of what the mask keeps, as the next three are."""
    below: float
    """Darker than what becomes 0."""
    above: float
    """Brighter than what becomes 1."""
    difference: float
    """Mean absolute difference between the scan and its conformed self, as a share of the intensities from 0 to 1."""


SAID = {
    "outside_mask": "foreground outside of the mask (data.mask), which becomes background",
    "outside_grid": "foreground outside of the grid (plan.size, plan.spacing_mm)",
    "below": "foreground darker than what becomes black",
    "above": "foreground brighter than what becomes white",
    "difference": "mean difference between a scan and what the networks see, of the intensity range (plan.spacing_mm)",
}


def measure_losses(
    cases: Sequence[CaseRef], fingerprint: Fingerprint, contract: Contract, config: DataConfig, mapper: Mapper
) -> Generator[Progress, None, list[Loss]]:
    """Losses of all cases that can be conformed, the worst first."""
    known = {found.case: found for found in fingerprint.cases}
    jobs = [(case, known[case.case]) for case in cases if case.case in known]
    losses: list[Loss] = []
    results = mapper(partial(_loss_of_case, contract=contract, config=config), jobs)
    for done, (_, result) in enumerate(results, start=1):
        losses += [result] if isinstance(result, Loss) else []
        yield Progress("losses", done, len(jobs))
    return worst_first(losses)


def worst_first(losses: Sequence[Loss]) -> list[Loss]:
    """By how far the worst figure of each is above the median of all: what a mask takes from all alike is no rank."""
    if not losses:
        return []
    shares = np.array([astuple(loss)[1:] for loss in losses], np.float64)
    above = (shares - np.median(shares, axis=0)).max(axis=1)
    return [losses[n] for n in sorted(range(len(losses)), key=lambda n: (-above[n], losses[n].case))]


def _loss_of_case(job: tuple[CaseRef, CaseFingerprint], contract: Contract, config: DataConfig) -> Loss | Refusal:
    case, found = job
    try:
        scan = load_case(case, found, config)
        return loss_of(scan, conform_scan(scan, found, contract), found, contract)
    except CaseRefused as refused:
        return Refusal(refused.case, refused.reason)


def loss_of(scan: Loaded, conformed: Conformed, found: CaseFingerprint, contract: Contract) -> Loss:
    """What one scan lost on its way to the grid."""
    steps = steps_within(scan.volume.array.shape, MOST_VOXELS)
    thin = _thinned(scan.volume, steps)
    body = body_of(thin, contract.intensity.modality)
    kept = body if scan.mask is None else body & scan.mask[:: steps[0], :: steps[1], :: steps[2]]
    if not kept.any():
        return Loss(found.case, 1.0, 0.0, 0.0, 0.0, 0.0)
    low, high = ends_of(found, contract)
    unit = (thin.array[kept] - low) / (high - low)
    back, _ = restore(conformed.image, None, contract, conformed.affine, thin)
    seen = (back.array[kept] - contract.intensity.low) / (contract.intensity.high - contract.intensity.low)
    return Loss(
        case=found.case,
        outside_mask=float(1 - kept.sum() / body.sum()),
        outside_grid=float(1 - _on_grid(conformed, thin)[kept].mean()),
        below=float((unit < 0).mean()),
        above=float((unit > 1).mean()),
        difference=float(np.abs(np.clip(unit, -1, 2) - seen).mean()),  # clipped: one hot voxel is no loss
    )


def _thinned(volume: Volume, steps: Sequence[int]) -> Volume:
    array = volume.array[:: steps[0], :: steps[1], :: steps[2]]
    return Volume(np.ascontiguousarray(array), volume.affine @ np.diag([*steps, 1.0]))


def _on_grid(conformed: Conformed, like: Volume) -> Mask:
    """Which voxels of a scan lie on the grid."""
    step = np.asarray(np.linalg.solve(conformed.affine, like.affine), np.float64)
    i, j, k = like.array.shape
    return nearest(np.ones(conformed.image.shape, np.bool_), step, (i, j, k))


def summarise_losses(losses: Sequence[Loss]) -> list[str]:
    """A sentence for each kind of loss of more than a few percent, without names of cases."""
    return [text for name in SAID if (text := _said(name, np.array([getattr(loss, name) for loss in losses])))]


def _said(name: str, shares: NDArray[np.float64]) -> str:
    over = int((shares > WORTH_SAYING).sum())
    if not over:
        return ""
    figures = f"{np.median(shares):.0%} in the median, {shares.max():.0%} at most"
    return f"{SAID[name]}: more than {WORTH_SAYING:.0%} in {over} of {len(shares)} scans looked at ({figures})"


def write_losses(path: Path, losses: Sequence[Loss]) -> None:
    """A table of what each scan lost, the worst first."""
    buffer = io.StringIO(newline="")
    lines = csv.writer(buffer, lineterminator="\n")
    lines.writerow([field.name for field in fields(Loss)])
    for loss in losses:
        case, *shares = astuple(loss)
        lines.writerow([as_text(case), *(f"{share:.4f}" for share in shares)])
    write_text(path, buffer.getvalue())
