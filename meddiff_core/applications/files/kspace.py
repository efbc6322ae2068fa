"""K-space from a file: complex numbers on the grid of the models, zero where nothing was measured.

A .npy file may hold Python objects, which run code when they are read: only its header is trusted before its shape
and type are those that are wanted, and objects are never read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray

from meddiff_core.contract import Contract
from meddiff_core.data.store import digest_volume
from meddiff_core.errors import CaseRefused
from meddiff_core.types import FloatArray

SAME_SPACING = 0.01
AIR = 0.05
"""Share of the brightest voxel up to which one is none of the subject."""


@dataclass(frozen=True)
class KSpace:
    """K-space and its image."""

    kspace: NDArray[Any]
    """(i, j, k) complex64, orthonormal transform of an image of 0 to 1."""
    image: FloatArray
    """Real part of the zero-filled one, 0 to 1."""
    affine: NDArray[np.float64]
    scale: float
    """Intensity that 1 stands for."""
    digest: str


def is_kspace(path: Path) -> bool:
    """Whether a file holds complex numbers."""
    if path.suffix == ".npy":
        return True
    try:
        image: Any = nib.load(path)
        return bool(image.get_data_dtype().kind == "c")
    except Exception:  # whatever is wrong with it is said when it is read
        return False


def read_kspace(case: str, path: Path, contract: Contract) -> KSpace:
    """K-space of the contract's size.

    Raises:
        CaseRefused: it is of another size or type, or holds nothing.
    """
    try:
        array, affine = _numpy(path, contract) if path.suffix == ".npy" else _nifti(path, contract)
    except (OSError, ValueError, EOFError) as error:
        raise CaseRefused(case, f"k-space {error}") from error
    if not np.isfinite(array).all():
        raise CaseRefused(case, "k-space must be finite, has NaN or infinite values")
    if not array.any():
        raise CaseRefused(case, "k-space must hold samples, all are 0")
    zero_filled = np.fft.ifftn(array, norm="ortho").real
    if zero_filled.max() <= 0:
        raise CaseRefused(case, "k-space must be that of an image without phase, none of it is above 0")
    scale = float(np.percentile(zero_filled[zero_filled > AIR * zero_filled.max()], 99.5))
    unit = np.clip(zero_filled / scale, 0, 1).astype(np.float32)
    return KSpace((array / scale).astype(np.complex64), unit, affine, scale, digest_volume(array))


def _numpy(path: Path, contract: Contract) -> tuple[NDArray[Any], NDArray[np.float64]]:
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = reader(file)
    _check(tuple(shape), kind, contract)
    affine = np.diag([*contract.spacing_mm, 1.0])
    affine[:3, 3] = -(np.array(contract.size) - 1) / 2 * contract.spacing_mm
    return np.asarray(np.load(path, allow_pickle=False)), affine


def _nifti(path: Path, contract: Contract) -> tuple[NDArray[Any], NDArray[np.float64]]:
    image: Any = nib.load(path)
    _check(tuple(image.shape), image.get_data_dtype(), contract)
    affine = np.array(image.affine, np.float64)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(spacing, contract.spacing_mm, rtol=SAME_SPACING):
        raise ValueError(f"must have the models' voxels of {list(contract.spacing_mm)} mm, has {spacing.tolist()}")
    if (axes := "".join(map(str, aff2axcodes(affine)))) != "RAS":
        raise ValueError(f"must have axes RAS, has {axes}")
    return np.asarray(image.dataobj), affine


def _check(shape: tuple[int, ...], kind: np.dtype[Any], contract: Contract) -> None:
    if kind.kind != "c":
        raise ValueError(f"must be complex numbers, are {kind}")
    if shape != contract.size:
        raise ValueError(f"must have the models' size {list(contract.size)}, has {list(shape)}")
