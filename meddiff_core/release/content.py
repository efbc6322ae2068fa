"""What a release is made of, gathered in one frozen value before a byte is written.

Whatever reaches a stranger passes through here: synthetic volumes, their table, and aggregates. There is
no field for a real voxel or a real row, so none can be passed along by accident.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pydantic import model_validator

from meddiff_core.contract import Contract, Frozen
from meddiff_core.errors import ConfigurationError, GatesFailed, IntegrityError
from meddiff_core.evidence.gates import GateResult, Metric
from meddiff_core.types import Volumes

Table = pd.DataFrame
LEAST_SUBJECTS = 5
"""A histogram bin with fewer real subjects could point at one of them, so it is merged with the next."""


class Histogram(Frozen):
    """Shares of real subjects and synthetic volumes per bin, without a value of any one of them."""

    edges: tuple[float, ...]
    real: tuple[float, ...]
    """Share of the real subjects in each bin."""
    synthetic: tuple[float, ...]
    """Share of the synthetic volumes in each bin."""
    unit: str = ""

    @model_validator(mode="after")
    def _fits(self) -> "Histogram":
        if not len(self.real) == len(self.synthetic) == len(self.edges) - 1:
            raise ValueError(
                f"{len(self.edges)} edges need one share less, got {len(self.real)} and {len(self.synthetic)}"
            )
        return self


def aggregate_histogram(real: ArrayLike, synthetic: ArrayLike, unit: str = "", bins: int = 20) -> Histogram | None:
    """A histogram in which every bin gathers at least `LEAST_SUBJECTS` real values; None where that needs one bin.

    Edges are rounded outward, so that they give away neither the smallest nor the largest real value.
    """
    left, right = _finite(real), _finite(synthetic)
    if len(left) == 0 or len(right) == 0:
        return None
    fine = _round_edges(min(left.min(), right.min()), max(left.max(), right.max()), bins)
    edges = fine[_merged(np.histogram(left, fine)[0])]
    if len(edges) < 3:
        return None
    shares = [tuple((np.histogram(values, edges)[0] / len(values)).round(4).tolist()) for values in (left, right)]
    return Histogram(edges=tuple(edges.tolist()), real=shares[0], synthetic=shares[1], unit=unit)


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]


def _round_edges(low: float, high: float, bins: int) -> NDArray[np.float64]:
    rough = max(high - low, 1e-9) / bins
    decade = 10.0 ** math.floor(math.log10(rough))
    step = next(decade * factor for factor in (1, 2, 2.5, 5, 10) if decade * factor >= rough)
    return np.round(np.arange(math.floor(low / step), math.floor(high / step) + 2) * step, 12)


def _merged(counts: NDArray[np.int64]) -> list[int]:
    """Positions of the edges that remain when each bin is to hold enough, from left to right."""
    kept, held = [0], 0
    for position, count in enumerate(counts, start=1):
        held += int(count)
        if held >= LEAST_SUBJECTS:
            kept.append(position)
            held = 0
    if len(kept) > 1:  # what is left over at the right joins the last bin
        kept[-1] = len(counts)
    return kept


@dataclass(frozen=True)
class Counts:
    """How many volumes were made for those that were accepted."""

    candidates: int
    accepted: int
    rejected: Mapping[str, int] = field(default_factory=dict)
    """By reason. A volume with two reasons counts under both."""
    flagged: int = 0
    """Suspected copies of a real scan. None of them is in the release."""


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
    """A row per volume: sample_id, seed, requested conditions, `measured_<name>`, `<group>_mm3`."""
    gates: "Sequence[GateResult]"
    metrics: "Sequence[Metric]"
    histograms: Mapping[str, Histogram]
    methods: Sequence[str]
    """One sentence per stage."""
    parents: Mapping[str, str]
    """SHA-256 by artefact name."""
    study: Mapping[str, Any]
    """The public part: sampling, cohort, screen, audit."""
    versions: Mapping[str, str]
    preset: str
    counts: Counts
    shortfall: str | None = None
    """Why the cohort is smaller than, or differs from, the one that was asked for."""

    @property
    def folder(self) -> str:
        """Name of the folder of the release."""
        return f"{self.name}-{self.version}"


def check_content(content: ReleaseContent) -> None:
    """Refuse what must not become a release.

    Raises:
        ConfigurationError: name or version would not make a folder name.
        GatesFailed: a gate failed, or there is none.
        IntegrityError: table and volumes do not belong together.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*-\d+\.\d+\.\d+", content.folder):
        raise ConfigurationError(
            f"name and release.version must be like head-mr and 1.0.0, are {content.name!r} and {content.version!r}"
        )
    if not content.gates:
        raise GatesFailed("a release needs a gate that it passed, the audit has none")
    if failed := [gate.message for gate in content.gates if not gate.passed]:
        raise GatesFailed("; ".join(failed))
    if missing := [name for name in ("sample_id", "seed") if name not in content.table]:
        raise IntegrityError(f"the table of the release must have the columns sample_id and seed, lacks {missing}")
    rows, volumes = len(content.table), len(content.volumes)
    if rows != volumes or not content.table["sample_id"].is_unique:
        raise IntegrityError(
            f"the table must have one row per volume, each with its own sample_id: {rows} rows, {volumes} volumes"
        )
