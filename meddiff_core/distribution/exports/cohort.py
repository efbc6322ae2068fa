"""What an export takes from a release: which volumes, under which names, on which side, and where they come from.

Every format takes it from here, so that none can leave out a licence or call a volume by another name.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from meddiff_core.distribution.exports.labels import labels_of
from meddiff_core.distribution.exports.sides import split_volumes
from meddiff_core.errors import ConfigurationError, IntegrityError
from meddiff_core.release.bounded import MOST_JSON, one_line, parse_json
from meddiff_core.release.participants_table import IDENTIFIER
from meddiff_core.release.reader import Release

SENTENCE = "Every volume was sampled from a generative model; nothing here is a real scan or a row about a real person."
SAMPLE, SPLIT = "sample_id", "split"
"""Columns of an exported table: the id in the release, and the side."""
DESCRIPTIONS = "participants.json"
CARD = "README.md"


@dataclass(frozen=True)
class Selection:
    """Which volumes of a release are exported, and how they are split."""

    rows: tuple[int, ...] | None = None
    """Numbers in the release; None for all."""
    where: str | None = None
    """The condition that chose them, as it was given."""
    shares: tuple[Fraction, ...] = ()
    """Shares of the sides; none for no split."""
    seed: int = 0


@dataclass(frozen=True)
class ExportedVolume:
    """One volume of an export."""

    row: int
    """Its number in the release."""
    label: str
    """Its name in the export."""
    sample: str
    """Its name in the release."""
    side: str
    """The side that it is on, empty without a split."""


@dataclass(frozen=True)
class Cohort:
    """The volumes of a release that are exported."""

    release: Release
    selection: Selection = field(default_factory=Selection)

    @cached_property
    def volumes(self) -> tuple[ExportedVolume, ...]:
        """In the order of the release."""
        rows = self.selection.rows
        chosen = range(len(self.release)) if rows is None else sorted(set(rows))
        if not chosen:
            raise ConfigurationError(f"an export must have a volume; none of {len(self.release)} was chosen")
        samples = [self.release.participant_id(row) for row in range(len(self.release))]
        if len(set(samples)) != len(samples):
            raise IntegrityError(f"{IDENTIFIER} must name each volume by a name of its own, some have the same")
        labels = labels_of(samples)
        sides = self._sides([samples[row] for row in chosen], chosen)
        return tuple(ExportedVolume(row, labels[row], samples[row], sides.get(samples[row], "")) for row in chosen)

    def _sides(self, samples: Sequence[str], rows: Sequence[int]) -> dict[str, str]:
        if not self.selection.shares:
            return {}
        names = [str(condition["name"]) for condition in self.release.contract["conditions"]]
        known = [name for name in names if name in self.release.table]
        table = self.release.table[known].iloc[list(rows)].astype(object)
        conditions = table.where(table.notna(), None).to_dict("records")
        volumes = {
            sample: {str(name): value for name, value in row.items()}
            for sample, row in zip(samples, conditions, strict=True)
        }
        return split_volumes(volumes, self.selection.shares, self.selection.seed)

    @property
    def names(self) -> dict[str, int]:
        """Value in the label maps by name, 1 to n."""
        names = self.release.labels
        if sorted(names.values()) != list(range(1, len(names) + 1)):
            raise IntegrityError(f"labels must have the values 1 to {len(names)}, have {sorted(names.values())}")
        return dict(sorted(names.items(), key=lambda item: item[1]))

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4), voxel index (i, j, k) to RAS mm."""
        affine = self.release.affine
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise IntegrityError("the affine must be an invertible matrix of 4 x 4 numbers")
        return affine

    @property
    def modality(self) -> str:
        """MR or CT."""
        found = str(self.release.contract["intensity"]["modality"])
        if found not in ("MR", "CT"):
            raise IntegrityError(f"the modality must be MR or CT, is {one_line(found)}")
        return found

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest intensity."""
        intensity = self.release.contract["intensity"]
        return float(intensity["low"]), float(intensity["high"])

    @property
    def unit(self) -> str:
        """What an intensity means."""
        return (
            "Hounsfield units" if self.modality == "CT" else f"0 to {self.range[1]:g} without a unit, 0 is background"
        )

    def table(self, prefix: str = "") -> pd.DataFrame:
        """A row for each volume: its label, its id in the release, its side if there is a split, its columns."""
        rows = self.release.table.iloc[[volume.row for volume in self.volumes]].reset_index(drop=True)
        columns = rows.drop(columns=[IDENTIFIER, *({SAMPLE, SPLIT} & set(rows.columns))])
        named = pd.DataFrame(
            {
                IDENTIFIER: [f"{prefix}{volume.label}" for volume in self.volumes],
                SAMPLE: [volume.sample for volume in self.volumes],
            }
        )
        if self.selection.shares:
            named[SPLIT] = [volume.side for volume in self.volumes]
        return pd.concat([named, columns], axis=1)

    def describe_columns(self) -> dict[str, dict[str, Any]]:
        """What each column of that table means, in the words of the release."""
        raw = self.release.document(DESCRIPTIONS)
        if len(raw) > MOST_JSON:
            raise IntegrityError(f"{DESCRIPTIONS}: must have at most {MOST_JSON} bytes, has {len(raw)}")
        given = parse_json(raw, DESCRIPTIONS)
        known = given if isinstance(given, dict) else {}
        own = {
            IDENTIFIER: {"Description": "Name of the synthetic volume in this export. It stands for no person."},
            SAMPLE: {"Description": "Name of the volume in the release."},
            SPLIT: {"Description": f"Side of a split that was drawn with seed {self.selection.seed}."},
        }
        of_release = {
            str(name): known[name] if isinstance(known.get(name), dict) else {"Description": f"{name}, of the volume."}
            for name in self.release.table.columns
        }
        return {str(name): (of_release | own)[str(name)] for name in self.table().columns}

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Where the volumes come from, for whatever place a format has."""
        manifest, selection = self.release.manifest, self.selection
        return {
            "synthetic": True,
            "statement": SENTENCE,
            "title": one_line(manifest.title),
            "release": manifest.name,
            "version": manifest.version,
            "licence": one_line(manifest.licence),
            "manifest_sha256": self.release.digest,
            "volumes": len(self.volumes),
            "volumes_of_release": len(self.release),
            "where": selection.where,
            "split": [float(share) for share in selection.shares] or None,
            "seed": selection.seed if selection.shares else None,
        }

    @property
    def line(self) -> str:
        """The same in one line."""
        told = self.provenance
        return (
            f"{SENTENCE} Release {told['release']} {told['version']}, licence: {told['licence']}, "
            f"SHA-256 of its manifest: {told['manifest_sha256']}"
        )

    @property
    def card(self) -> str:
        """The card of the release, without the settings for a hub at its top."""
        text = self.release.document(CARD).decode("utf-8", "replace")
        return text.split("\n---\n", 1)[-1].lstrip() if text.startswith("---\n") else text
