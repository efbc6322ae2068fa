"""What a release is made of, gathered in one frozen value before a byte is written.

Whatever reaches a stranger passes through here: synthetic volumes, their table, and aggregates. There is
no field for a real voxel or a real row, so none can be passed along by accident.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from meddiff_core.contract import Contract
from meddiff_core.diffusion.checkpoint_selection import SelectionRecord
from meddiff_core.errors import ConfigurationError, GatesFailed, IntegrityError
from meddiff_core.evidence import section
from meddiff_core.evidence.aggregates import Histogram
from meddiff_core.evidence.gates import GateResult
from meddiff_core.evidence.metrics import Metric
from meddiff_core.generation.cells import CellCount
from meddiff_core.types import Volumes

Table = pd.DataFrame


@dataclass(frozen=True)
class Counts:
    """How many volumes were made for those that were accepted."""

    candidates: int
    accepted: int
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Rejected candidates by reason. One with two reasons counts under both."""
    flagged: int = 0
    """Suspected copies of a real scan among the accepted. None of them is in the release."""
    rounds: str = ""
    """How often copies were searched and replaced, and why that matters, in sentences."""


@dataclass(frozen=True)
class ReleaseContent:
    """Everything that a release says and holds."""

    title: str
    name: str
    version: str
    licence: str
    contact: str
    source: str
    """One public sentence on the real data."""
    contract: Contract
    volumes: Volumes
    """The accepted synthetic volumes, in stored form."""
    table: Table
    """A row per volume: sample_id, seed, requested conditions, `measured_<name>`, `<group>_mm3`,
    and `extrapolated` where requests outside the training range were allowed."""
    gates: Sequence[GateResult]
    metrics: Sequence[Metric]
    histograms: Sequence[Histogram]
    methods: Sequence[str]
    """One sentence per stage."""
    parents: Mapping[str, str]
    """SHA-256 by artefact name."""
    study: Mapping[str, Any]
    """The public part: sampling, cohort, screen, audit."""
    versions: Mapping[str, str]
    preset: str
    counts: Counts
    cells: Sequence[CellCount] = ()
    """Wanted volumes beside those in the release, where the cohort is made up of parts."""
    selection: SelectionRecord | None = None
    """How the denoiser's weights were chosen; distances between sets, nothing of a single case."""
    intended_use: str | None = None
    not_intended_for: str | None = None
    """What the owner adds to what no cohort is for."""
    data_use: Sequence[str] = ()
    """Terms of the Data Use Ontology."""
    code_repository: str | None = None
    environment: str | None = None
    """Versions and kind of machine that the volumes were made with, without a machine's name."""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    """Of the networks, their trainings and their seed."""
    tables: Sequence[section.Table] = ()
    curves: Sequence[section.Curve] = ()
    statements: Sequence[str] = ()
    """What the audit says in sentences: what was found, and what could not be measured and why."""
    shortfall: str | None = None
    """Why the cohort is smaller than, or differs from, the one that was asked for."""

    signed_by: str | None = None
    """Fingerprint of the key that signs the manifest."""

    @property
    def folder(self) -> str:
        """Name of the folder of the release."""
        return f"{self.name}-{self.version}"


def check_content(content: ReleaseContent) -> None:
    """Refuse what must not become a release.

    Raises:
        ConfigurationError: name or version would not make a folder name.
        GatesFailed: a gate failed that nobody answers for, or there is none.
        IntegrityError: table and volumes do not belong together.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*-[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}", content.folder):
        raise ConfigurationError(
            f"name and release.version must be like head-mr and 1.0.0, are {content.name!r} and {content.version!r}"
        )
    if not content.gates:
        raise GatesFailed("release refused: it needs a gate that it passed, the audit has none")
    if failed := [f"{gate.verdict}: {gate.message}" for gate in content.gates if gate.holds_back]:
        raise GatesFailed(f"release refused: {'; '.join(failed)}")
    if missing := [name for name in ("sample_id", "seed") if name not in content.table]:
        raise IntegrityError(f"the table of the release must have the columns sample_id and seed, lacks {missing}")
    rows, volumes = len(content.table), len(content.volumes)
    if rows != volumes or not content.table["sample_id"].is_unique:
        raise IntegrityError(
            f"the table must have one row per volume, each with its own sample_id: {rows} rows, {volumes} volumes"
        )
