"""nnU-Net's raw data set: what its planner accepts, and what makes it take HU for HU.

A channel that is not called exactly `CT` gets the normalisation of MR without a word, and a label that is called
`ignore` is not learnt.
"""

import re
from pathlib import Path

from meddiff_core.artefacts import write_json
from meddiff_core.distribution.exports.cohort import Cohort, ExportedVolume
from meddiff_core.distribution.exports.format import ExportFormat, Voxels
from meddiff_core.distribution.exports.nifti import ENDING, save_nifti
from meddiff_core.distribution.exports.papers import write_papers, write_table
from meddiff_core.errors import ConfigurationError

DATASET = re.compile(r"Dataset\d{3}_\w+", re.ASCII)
"""Name of a folder by which nnU-Net finds a data set."""
SPECIAL = ("background", "ignore")
"""Names that nnU-Net takes for something else than a structure."""
TEST = "test"


def check_nnunet(cohort: Cohort, destination: Path) -> None:
    """Refuse what nnU-Net would not find or could not train on.

    Raises:
        ConfigurationError: the release has no label maps, or the folder is not called as nnU-Net wants it.
    """
    if not cohort.names:
        raise ConfigurationError("--format nnunet: needs label maps, the release has none; take nifti")
    if not DATASET.fullmatch(destination.name):
        raise ConfigurationError(
            f"--format nnunet: the folder must be called DatasetNNN_NAME, as nnU-Net finds data sets by it, is "
            f"{destination.name!r}; take Dataset501_{re.sub('[^A-Za-z0-9]', '', cohort.release.manifest.name)}"
        )


class NnunetExport(ExportFormat):
    """`imagesTr`, `labelsTr`, `dataset.json`; the test side of a split lies in `imagesTs`, `labelsTs`."""

    title = "nnU-Net"

    def write_volume(self, folder: Path, volume: ExportedVolume, content: Voxels) -> list[Path]:
        """An image with its channel's number, and its label map."""
        side = "Ts" if volume.side == TEST else "Tr"
        paths = [
            folder / f"images{side}" / f"{volume.label}_0000{ENDING}",
            folder / f"labels{side}" / f"{volume.label}{ENDING}",
        ]
        save_nifti(paths[0], content.image, self.cohort)
        if content.label is not None:
            save_nifti(paths[1], content.label, self.cohort)
        return paths

    def finish(self, folder: Path) -> None:
        """dataset.json, the split as nnU-Net reads it, the table, the page."""
        training = [volume for volume in self.cohort.volumes if volume.side != TEST]
        told = self.cohort.provenance
        dataset = {
            "channel_names": {"0": self.cohort.modality},
            "labels": {"background": 0} | {_name(name): value for name, value in self.cohort.names.items()},
            "numTraining": len(training),
            "file_ending": ENDING,
            "name": told["title"],
            "description": self.cohort.line,
            "licence": told["licence"],
            "release": told,
        }
        write_json(folder / "dataset.json", dataset)
        files = {
            "`imagesTr/`, `labelsTr/`": f"int16, {self.cohort.unit}; uint8",
            "`dataset.json`": "channel, labels, number of training volumes",
        }
        validation = [volume.label for volume in training if volume.side == "validation"]
        if validation:
            fold = {"train": [volume.label for volume in training if volume.side == "train"], "val": validation}
            write_json(folder / "splits_final.json", [fold])
            files |= {"`splits_final.json`": "the split; copy it into the folder of `nnUNet_preprocessed`"}
        write_table(folder, self.cohort.table(), self.cohort.describe_columns())
        write_papers(folder, self.cohort, self.title, files)


def _name(name: str) -> str:
    return f"{name}_structure" if name.casefold() in SPECIAL else name
