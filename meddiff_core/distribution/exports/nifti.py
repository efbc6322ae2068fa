"""NIfTI: whole numbers stay whole numbers, and every program finds the same place in the world.

Saved as floats under an integer header, 3 comes back as 2.99995; without codes, a program ignores the affine; with
qform and sform apart, two programs disagree about left and right.
"""

from pathlib import Path
from typing import Any

import nibabel
from nibabel.nifti1 import Nifti1Extension
from numpy.typing import NDArray

from meddiff_core.artefacts import write_json
from meddiff_core.distribution.exports.cohort import Cohort, ExportedVolume
from meddiff_core.distribution.exports.format import ExportFormat, Voxels
from meddiff_core.distribution.exports.papers import write_papers, write_table

ENDING = ".nii.gz"
ALIGNED = 2
"""Code of both forms: mm in an agreed frame, that of the release, which is no scanner's."""
DESCRIPTION_BYTES = 79
LABEL_NAMES = "labels.json"


def save_nifti(path: Path, voxels: NDArray[Any], cohort: Cohort) -> None:
    """Write integers (i, j, k) with slope 1, in mm, and with a comment that says where they come from."""
    image = nibabel.Nifti1Image(voxels, cohort.affine, dtype=voxels.dtype)
    header: Any = image.header
    header.set_xyzt_units("mm")
    header.set_slope_inter(1, 0)
    image.set_qform(cohort.affine, ALIGNED)
    image.set_sform(cohort.affine, ALIGNED)
    told = cohort.provenance
    described = f"synthetic, {told['manifest_sha256'][:16]}, {told['release']} {told['version']}"
    header["descrip"] = described.encode()[:DESCRIPTION_BYTES]
    header.extensions.append(Nifti1Extension("comment", cohort.line.encode()))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)


class NiftiExport(ExportFormat):
    """A folder of images and one of label maps."""

    title = "NIfTI"

    def write_volume(self, folder: Path, volume: ExportedVolume, content: Voxels) -> list[Path]:
        """An image and its label map under one name."""
        paths = [folder / "images" / f"{volume.label}{ENDING}"]
        save_nifti(paths[0], content.image, self.cohort)
        if content.label is not None:
            paths.append(folder / "labels" / f"{volume.label}{ENDING}")
            save_nifti(paths[1], content.label, self.cohort)
        return paths

    def finish(self, folder: Path) -> None:
        """The table, the names of labels, the page."""
        write_table(folder, self.cohort.table(), self.cohort.describe_columns())
        files = {"`images/`": f"int16, slope 1, {self.cohort.unit}"}
        if self.cohort.names:
            write_json(folder / LABEL_NAMES, {"background": 0} | self.cohort.names)
            files |= {"`labels/`": "uint8 on the grid of the image", f"`{LABEL_NAMES}`": "values of the structures"}
        files |= {"`participants.tsv`, `.json`": "a row for each volume, and what each column means"}
        write_papers(folder, self.cohort, self.title, files)
