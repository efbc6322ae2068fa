"""A scan as it came onto the grid of the models, by the contract that lies in their checkpoints, and the way back.

The same steps as for a scan of a study, so that a model sees what it was trained on. Whatever does not fit is refused
with the difference before a network sees it: a network makes a brain of anything.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from meddiff_core.applications.files.coarse import coarse_scan
from meddiff_core.applications.files.intake import KSPACE, ScanFiles
from meddiff_core.applications.files.kspace import is_kspace, read_kspace
from meddiff_core.applications.files.masks import check_size, hole_on_grid, read_mask
from meddiff_core.applications.files.placement import OwnGrid, own_grid
from meddiff_core.applications.kinds import TaskKind
from meddiff_core.applications.scans import GridScan, Mask
from meddiff_core.contract import Condition, ContinuousCondition, Contract, spacing_text
from meddiff_core.data.conform import Conformed, Loaded, conform_scan, ends_of, nearest
from meddiff_core.data.fingerprint import Foreground, foreground_of
from meddiff_core.data.foreground import extract_brain
from meddiff_core.data.ingest import load_label_map, read_scan
from meddiff_core.data.modality import is_shifted
from meddiff_core.data.scan import Scan
from meddiff_core.data.store import digest_volume
from meddiff_core.errors import CaseRefused, ConfigurationError
from meddiff_core.types import Volume

MOST_ALIKE = 0.6
"""Share of neighbouring voxels of one value from which whole numbers are labels: of 149 regions 0.77, of scans in
8 bits 0.17."""
MIDDLE = 160
"""Voxels along each axis that are looked at."""
SMALLEST, LARGEST = 0.4, 1.5
"""Extents of a subject along an axis, in those of the grid, beyond which it is something else than was trained on."""
WORTH_A_NOTE = 1.05
BRAIN_NOTE = (
    "no label map and no --foreground: what lies outside of the brain was taken away by deepbet, as label maps did "
    "for the scans that the models know"
)


@dataclass(frozen=True)
class TakenIn:
    """A scan on the grid, and how its results come back."""

    scan: GridScan
    own: OwnGrid
    notes: tuple[str, ...]


def take_in(files: ScanFiles, kind: TaskKind, contract: Contract) -> TakenIn:
    """Read one scan and all that belongs to it.

    Raises:
        CaseRefused: it cannot be read, or does not fit the models.
    """
    case = files.case
    if kind.name == "reconstruct" and is_kspace(case.image):
        return _kspace(case.case, case.image, contract)
    if case.image.name.endswith(KSPACE):
        raise CaseRefused(case.case, f"{kind.name}: k-space is for reconstruct, scans are NIfTI, MGH or DICOM")
    if not case.slices:
        check_size(case.case, case.image, "scan")
    read = read_scan(case)
    notes = [*read.source.warnings, *check_scan(case.case, read, contract)]
    label, label_notes = _labels(files, read.volume, contract)
    mask, mask_notes = _foreground(files, read.volume, label, contract)
    hole = None if files.mask is None else read_mask(case.case, files.mask, read.volume, "--mask")
    found = foreground_of(case.case, read.volume, mask, contract.intensity.modality, hole)
    notes += [*label_notes, *mask_notes, *check_extent(case.case, found, read.volume, contract)]
    conformed = conform_scan(Loaded(read.volume, label, mask), found, contract)
    own = own_grid(case, read, ends_of(found, contract), conformed.affine, mask, hole)
    known = _condition(files, label, read.volume, contract)
    return TakenIn(_grid_scan(kind, case.case, own, conformed, found, known, contract), own, tuple(notes))


def _grid_scan(
    kind: TaskKind,
    case: str,
    own: OwnGrid,
    conformed: Conformed,
    found: Foreground,
    known: Condition | None,
    contract: Contract,
) -> GridScan:
    volume = own.volume
    step = np.asarray(np.linalg.solve(volume.affine, conformed.affine), np.float64)
    coarse = None
    if kind.name == "super-resolve":
        unit = contract.intensity.normalise(volume.array, own.low, own.high)
        coarse = coarse_scan(case, unit if own.foreground is None else unit * own.foreground, step, contract)
    return GridScan(
        image=contract.intensity.unit(conformed.image),
        inside=nearest(np.ones(volume.array.shape, np.bool_), step, contract.size),
        digest=digest_volume(volume.array),
        labels=conformed.label,
        condition=known,
        mask=None if own.hole is None else hole_on_grid(case, own.hole, found.inside, step, contract.size),
        coarse=coarse,
    )


def check_scan(case: str, scan: Scan, contract: Contract) -> list[str]:
    """Refuse a label map, and a scan of another modality; notes on what was taken on trust."""
    wanted, modality = contract.intensity.modality, scan.source.modality
    if is_label_map(scan.volume.array):
        raise CaseRefused(case, "must be a scan, its voxels are those of a label map")
    if modality is not None and modality != wanted:
        raise CaseRefused(case, f"must be {wanted}, as the models were trained on, is {modality}")
    if wanted == "CT" and is_shifted(scan.volume.array):
        raise CaseRefused(case, "CT must be in Hounsfield units, its soft tissue lies about 1024 above them")
    return [] if modality else [f"taken as {wanted}: neither the file nor its intensities say"]


def is_label_map(array: NDArray[Any]) -> bool:
    """Whole numbers, of which most neighbours share one, the most frequent left out. Looks at the middle of it."""
    array = array[tuple(slice(max(0, (length - MIDDLE) // 2), (length + MIDDLE) // 2) for length in array.shape)]
    if not np.array_equal(array, np.rint(array)):
        return False
    values, counts = np.unique(array, return_counts=True)
    rest = array != values[np.argmax(counts)]
    alike = pairs = 0
    for axis in range(3):
        ahead, behind = (np.moveaxis(array, axis, 0)[part] for part in (slice(1, None), slice(None, -1)))
        both = np.moveaxis(rest, axis, 0)[1:] & np.moveaxis(rest, axis, 0)[:-1]
        alike += int((both & (ahead == behind)).sum())
        pairs += int(both.sum())
    return pairs == 0 or alike > MOST_ALIKE * pairs


def check_extent(case: str, found: Foreground, volume: Volume, contract: Contract) -> list[str]:
    """Refuse what is far larger or smaller than the grid; a note where it is cut."""
    extent = np.array([stop - start for start, stop in found.box]) * volume.spacing_mm
    grid = np.array(contract.size) * contract.spacing_mm
    share = extent / grid
    what = f"{_millimetres(extent)}, the grid of the models is {_millimetres(grid)}"
    if share.max() > LARGEST or share.min() < SMALLEST:
        raise CaseRefused(
            case,
            f"must show what the models were trained on: the subject spans {what}; another part of the body, a crop, "
            f"more than the models want, or voxels ({spacing_text(volume.spacing_mm)}) in another unit",
        )
    return [f"the subject spans {what}: what reaches past it is cut"] if share.max() > WORTH_A_NOTE else []


def _millimetres(lengths: NDArray[np.float64]) -> str:
    return f"{' x '.join(f'{length:.0f}' for length in lengths)} mm"


def _labels(files: ScanFiles, volume: Volume, contract: Contract) -> tuple[NDArray[np.int32] | None, tuple[str, ...]]:
    case = files.case
    if case.label is None:
        return None, ()
    check_size(case.case, case.label, "label map", volume)
    found = load_label_map(case, volume)
    if not found.values.any():
        raise CaseRefused(case.case, "label map must hold labels, all of it is 0")
    wanted = {value for values in contract.labels.values() for value in values}
    if contract.labels and not wanted & set(np.unique(found.values).tolist()):
        raise CaseRefused(case.case, "label map must have values of the models' structures, it has none of them")
    return found.values, found.warnings


def _foreground(
    files: ScanFiles, volume: Volume, label: NDArray[np.int32] | None, contract: Contract
) -> tuple[Mask | None, list[str]]:
    """What of the scan the models want to see, as the contract says."""
    case = files.case.case
    if contract.mask == "none":
        return None, ["--foreground is not used: the models know whole scans"] if files.foreground else []
    if files.foreground is not None:
        return read_mask(case, files.foreground, volume, "--foreground"), []
    if contract.mask == "label" and label is not None:
        return label > 0, []
    if contract.intensity.modality != "MR":
        raise CaseRefused(case, "needs --labels or --foreground: the models know scans with the rest masked away")
    try:
        mask = extract_brain(volume)
    except ConfigurationError as error:
        raise CaseRefused(
            case,
            "needs --labels or --foreground: the models know scans with the rest masked away "
            "(or for heads the extra `brain`: pip install meddiff[brain])",
        ) from error
    except Exception as error:  # a network of others, on any scan
        raise CaseRefused(case, f"no brain can be extracted: {type(error).__name__}; give --foreground") from error
    if not mask.any():
        raise CaseRefused(case, "no brain was found in it; give --foreground")
    return (_largest_piece(mask), [BRAIN_NOTE]) if contract.mask == "label" else (mask, [])


def _largest_piece(mask: Mask) -> Mask:
    """Without specks in an eye or the neck, which move the box: no label map has them."""
    pieces, _ = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.asarray(pieces == sizes.argmax())


def _condition(
    files: ScanFiles, label: NDArray[np.int32] | None, volume: Volume, contract: Contract
) -> Condition | None:
    """What is known of the subject: told, or measured on its label map."""
    known = dict(files.case.covariates)
    voxel_mm3 = abs(float(np.linalg.det(volume.affine[:3, :3])))
    for spec in contract.conditions:
        if isinstance(spec, ContinuousCondition) and spec.group and label is not None and spec.name not in known:
            known[spec.name] = float(np.isin(label, contract.labels[spec.group]).sum() * voxel_mm3)
    return known or None


def _kspace(case: str, path: Path, contract: Contract) -> TakenIn:
    """K-space has no scan behind it: its results lie on the grid of the models."""
    found = read_kspace(case, path, contract)
    volume = Volume(found.image, found.affine)
    inside = np.ones(contract.size, np.bool_)
    scan = GridScan(found.image, inside, found.digest, kspace=found.kspace)
    header = nib.Nifti1Image(found.image, found.affine).header
    own = OwnGrid(volume, 0.0, found.scale, found.affine, "RAS", contract.size, header=header)
    return TakenIn(scan, own, (f"results have intensities of the image of the k-space, 0 to {found.scale:g}",))
