"""A BIDS derivative: labels, sex and missing values in BIDS's words, and every column described.

BIDS knows no contrast for "some MR", nor computed tomography. Without `--suffix` an image is called `_MR` or `_ct`,
and such names stand in `.bidsignore`: a wrong contrast would be believed.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from meddiff_core.artefacts import write_json, write_text
from meddiff_core.distribution.exports.cohort import Cohort, ExportedVolume
from meddiff_core.distribution.exports.format import ExportFormat, Voxels
from meddiff_core.distribution.exports.nifti import ENDING, save_nifti
from meddiff_core.distribution.exports.papers import RECORD, write_papers, write_table
from meddiff_core.errors import ConfigurationError
from meddiff_core.release.participants_table import IDENTIFIER, as_cell

BIDS_VERSION = "1.10.0"
SUFFIXES = ("T1w", "T2w", "PDw", "T2starw", "FLAIR", "inplaneT1", "inplaneT2", "PDT2", "angio")
"""Contrasts of BIDS that a volume of arbitrary intensities may have."""
OWN_SUFFIXES = {"MR": "MR", "CT": "ct"}
WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "sex": {"F": ("f", "female", "woman"), "M": ("m", "male", "man"), "O": ("o", "other")},
    "handedness": {"L": ("l", "left"), "R": ("r", "right"), "A": ("a", "ambidextrous")},
}
"""Columns of words that BIDS fixes: its word, and those of others."""
NUMBERS = ("age",)
"""Columns in which BIDS takes numbers alone."""


def check_bids(cohort: Cohort, suffix: str | None) -> None:
    """Refuse a contrast that BIDS does not know, or that a CT cannot have.

    Raises:
        ConfigurationError: it is one of those.
    """
    if suffix is None:
        return
    if cohort.modality != "MR":
        raise ConfigurationError(f"--suffix: names the contrast of MR, the release is {cohort.modality}; leave it out")
    if suffix not in SUFFIXES:
        raise ConfigurationError(f"--suffix: must be one of {', '.join(SUFFIXES)}, got {suffix[:40]!r}")


class BidsExport(ExportFormat):
    """`sub-LABEL/anat`, or `sub-LABEL/ct`."""

    title = "BIDS derivative"

    def __init__(self, cohort: Cohort, suffix: str | None = None) -> None:
        super().__init__(cohort)
        self.known = suffix is not None
        self.suffix = suffix or OWN_SUFFIXES[cohort.modality]

    def write_volume(self, folder: Path, volume: ExportedVolume, content: Voxels) -> list[Path]:
        """An image, and its label map as a discrete segmentation."""
        stem = folder / f"sub-{volume.label}" / "anat" / f"sub-{volume.label}"
        image, label = (stem.with_name(f"{stem.name}_{suffix}{ENDING}") for suffix in (self.suffix, "dseg"))
        save_nifti(image, content.image, self.cohort)
        if content.label is None:
            return [image]
        save_nifti(label, content.label, self.cohort)
        return [image, label]

    def finish(self, folder: Path) -> None:
        """The description, the table in BIDS's words, sidecars that all subjects inherit, the page."""
        table, columns = in_words_of_bids(self.cohort.table("sub-"), self.cohort.describe_columns())
        write_table(folder, table, columns)
        write_json(folder / "dataset_description.json", self._description())
        skull = {"none": False}.get(str(self.cohort.release.contract["mask"]), True)
        sidecar = {"Description": self.cohort.line, "Synthetic": True, "Units": self.cohort.unit}
        write_json(folder / f"{self.suffix}.json", sidecar | {"SkullStripped": skull, "SpatialReference": "orig"})
        ignored = [RECORD] + ([] if self.known else [f"*_{self.suffix}{ENDING}", f"{self.suffix}.json"])
        write_text(folder / ".bidsignore", "\n".join(ignored) + "\n")
        files = {f"`sub-*/anat/*_{self.suffix}{ENDING}`": f"int16, {self.cohort.unit}"}
        if self.cohort.names:
            write_json(folder / "dseg.json", {"Manual": False, "SpatialReference": "orig", "Description": "Synthetic."})
            rows = [f"{value}\t{as_cell(name)}\n" for name, value in self.cohort.names.items()]
            write_text(folder / "dseg.tsv", "index\tname\n0\tbackground\n" + "".join(rows))
            files |= {f"`sub-*/anat/*_dseg{ENDING}`, `dseg.tsv`": "uint8 label maps, and their values"}
        write_papers(folder, self.cohort, self.title, files)

    def _description(self) -> dict[str, Any]:
        told = self.cohort.provenance
        generated = {
            "Name": "meddiff",
            "Version": self.cohort.release.manifest.versions.get("meddiff", "n/a"),
            "Description": self.cohort.line,
        }
        return {
            "Name": told["title"],
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "License": told["licence"],
            "GeneratedBy": [generated],
            "SourceDatasets": [{"Version": f"{told['release']} {told['version']}, {told['manifest_sha256']}"}],
        }


def in_words_of_bids(
    table: pd.DataFrame, columns: dict[str, dict[str, Any]]
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """The table with BIDS's own values where it fixes them; what it cannot say keeps its values under another name."""
    renamed: dict[str, str] = {}
    table, columns = table.copy(), dict(columns)
    for name in [str(name) for name in table.columns if str(name) != IDENTIFIER]:
        if name in NUMBERS and not pd.api.types.is_numeric_dtype(table[name]):
            renamed[name] = _free(f"{name}_of_release", table)
        elif name in WORDS:
            words = _translated(table[name], WORDS[name])
            if words is None:
                renamed[name] = _free(f"{name}_of_release", table)
                continue
            table[name] = words
            levels = {word: others[1] for word, others in WORDS[name].items() if word in set(words)}
            columns[name] = columns[name] | {"Levels": levels}
    table = table.rename(columns=renamed)
    return table, {renamed.get(name, name): described for name, described in columns.items()}


def _translated(column: "pd.Series[Any]", words: dict[str, tuple[str, ...]]) -> "pd.Series[Any] | None":
    """BIDS's word for each value, None where one of them is no word that is known."""
    known = {other: word for word, others in words.items() for other in others}
    found = [
        None if pd.isna(value) or str(value) == "n/a" else known.get(str(value).strip().casefold(), "")
        for value in column
    ]
    return None if "" in found else pd.Series(found, index=column.index, dtype=object)


def _free(name: str, table: pd.DataFrame) -> str:
    return name if name not in table.columns else _free(f"{name}_", table)
