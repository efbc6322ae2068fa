"""Phantoms as files, as a site would hand them over: images, label maps and a table with gaps."""

import gzip
from collections.abc import Generator
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from meddiff_core.artefacts import write_bytes, write_text
from meddiff_core.errors import ConfigurationError
from meddiff_core.phantoms.scan import LABEL_GROUPS, Phantom, make_phantom
from meddiff_core.types import LabelArray, Progress


def write_phantoms(
    folder: Path, subjects: int, seed: int = 0, spacing_mm: float = 4.0
) -> Generator[Progress, None, None]:
    """Write `images/`, `labels/`, `participants.tsv` and `groups.yaml` as a site would hand them over, gaps included.

    The fourth subject has no row, and from the third on every twentieth has no age. A subject is the same however
    many others there are.
    """
    if subjects < 1:
        raise ConfigurationError(f"subjects must be >= 1, is {subjects}")
    rows = ["participant_id\tage\tsex"]
    for index in range(subjects):
        name = f"phantom-{index + 1:04d}"
        person, age, sex = _person(seed, index)
        phantom = make_phantom(person, age, sex, spacing_mm)
        write_bytes(folder / "images" / f"{name}.nii.gz", _nifti(np.rint(phantom.image).astype(np.int16), phantom))
        write_bytes(folder / "labels" / f"{name}.nii.gz", _nifti(phantom.label, phantom))
        if index != 3:
            rows.append(f"{name}\t{'n/a' if index % 20 == 2 else age}\t{sex}")
        yield Progress("phantoms", index + 1, subjects)
    write_text(folder / "participants.tsv", "\n".join(rows) + "\n")
    write_text(folder / "groups.yaml", "".join(f"{group}: {values}\n" for group, values in LABEL_GROUPS.items()))


def _person(seed: int, index: int) -> tuple[int, float, str]:
    rng = np.random.default_rng([seed, index])
    return int(rng.integers(2**53)), round(float(rng.uniform(20, 85)), 1), str(rng.choice(["F", "M"]))


def _nifti(array: NDArray[np.int16] | LabelArray, phantom: Phantom) -> bytes:
    image = nibabel.Nifti1Image(array, phantom.affine)
    image.set_qform(phantom.affine, code=1)
    image.set_sform(phantom.affine, code=1)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
