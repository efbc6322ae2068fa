"""Screening shard by shard: every candidate measured, compared with the reference, listed with its verdict.

Rejected volumes stay where they are, with the reasons beside them: nobody can assess a filter whose rejects
are gone.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from meddiff_core.contract import EXTRAPOLATED, Condition, Contract
from meddiff_core.evidence.duplicates import near_duplicates
from meddiff_core.evidence.features.random_conv import RandomConvFeatures
from meddiff_core.evidence.measurements import measure
from meddiff_core.evidence.rejections import DUPLICATE, REJECTIONS, Rejection, reject, stored
from meddiff_core.evidence.screening.bounds import load_reference, screen_volume
from meddiff_core.evidence.screening.outlier import Models, open_probe
from meddiff_core.evidence.voxel_keys import keys_of, voxel_keys
from meddiff_core.generation.region import is_extrapolated
from meddiff_core.generation.schedule import Shard
from meddiff_core.generation.shards import Candidates
from meddiff_core.types import Mapper, Progress

Row = dict[str, Any]
REQUESTED, MEASURED, SCORE = "requested.", "measured.", "score."
"""Prefixes of the columns of a table of verdicts."""
KEPT, KEPT_DISTANCE = "kept_noise", "kept_distance"
"""Columns with the number of the noise that the volume is from, of those of `sampling.best_of`, and its distance to
what was asked for (see `generation.best_of`)."""


@dataclass(frozen=True)
class ScreenJob:
    """All that a worker needs to screen one shard."""

    shard: Shard
    candidates: Path
    reference: Path
    contract: Contract
    models: Models | None = None
    """Needed if the reference has a bound on the error after denoising."""


def screen_shard(job: ScreenJob) -> list[Row]:
    """One row per candidate of a shard: who it is, what was asked for, what was measured, and the verdict."""
    reference, arrays = load_reference(job.reference)
    places = [(job.shard.name, position) for position in range(len(job.shard.samples))]
    volumes = Candidates(job.candidates, places)
    features = RandomConvFeatures(job.contract)(volumes, range(len(volumes)))
    probe = open_probe(job.models) if job.models and reference.outliers else None
    kept, rows = volumes.kept(), []
    for position, sample in enumerate(job.shard.samples):
        image, label = volumes.image(position), volumes.label(position)
        measured = measure(image, label, job.contract)
        errors = probe(volumes, position, sample.seed) if probe else None
        verdict = screen_volume(
            measured, features[position], voxel_keys(image, job.contract), reference, arrays, errors
        )
        identity = {"sample_id": sample.sample_id, "slot": sample.slot, "attempt": sample.attempt, "seed": sample.seed}
        place: Row = {"shard": job.shard.name, "position": position}
        place |= dict(zip((KEPT, KEPT_DISTANCE), kept[position], strict=True))
        decided = {"accepted": verdict.accepted, REJECTIONS: stored(verdict.rejections)}
        asked = {EXTRAPOLATED: is_extrapolated(sample.condition, job.contract.conditions)}
        figures = _prefixed(MEASURED, measured) | _prefixed(SCORE, verdict.scores)
        rows.append(identity | place | decided | asked | _prefixed(REQUESTED, sample.condition) | figures)
    return rows


def _prefixed(prefix: str, values: Mapping[str, Any]) -> Row:
    return {prefix + name: value for name, value in values.items()}


def screen_shards(
    shards: Sequence[Shard],
    candidates: Path,
    reference: Path,
    contract: Contract,
    mapper: Mapper,
    models: Models | None = None,
) -> Generator[Progress, None, pd.DataFrame]:
    """The verdict of every candidate of some shards, in their order."""
    jobs = [ScreenJob(shard, candidates, reference, contract, models) for shard in shards]
    rows: dict[int, list[Row]] = {}
    for position, found in mapper(screen_shard, jobs):
        rows[position] = found
        yield Progress("screen shards", len(rows), len(jobs))
    return pd.DataFrame([row for position in sorted(rows) for row in rows[position]])


def reject_duplicates(verdicts: pd.DataFrame, candidates: Path, reference: Path, contract: Contract) -> pd.DataFrame:
    """The same table, with those accepted volumes rejected that are nearly equal to an earlier one."""
    bounds, arrays = load_reference(reference)
    accepted = verdicts.index[verdicts["accepted"]]
    volumes = accepted_volumes(verdicts, candidates)
    if len(volumes) < 2:
        return verdicts
    keys = keys_of(volumes, contract)
    repeated = Rejection(measurement=DUPLICATE, bound=bounds.duplicate_distance, side="below")
    dropped = accepted[sorted(near_duplicates(keys, arrays.key_centre, bounds.duplicate_distance))]
    return reject(verdicts, dict.fromkeys(dropped, repeated))


def open_slots(verdicts: pd.DataFrame, size: int, most_candidates: int) -> list[int]:
    """Places of the cohort without an accepted volume, as many as the budget of candidates still allows."""
    filled = set() if verdicts.empty else set(verdicts.loc[verdicts["accepted"], "slot"])
    return [slot for slot in range(size) if slot not in filled][: max(0, most_candidates - len(verdicts))]


def next_attempt(verdicts: pd.DataFrame) -> int:
    """The first that no slot has seen, so that no sample id occurs twice."""
    return 0 if verdicts.empty else int(verdicts["attempt"].max()) + 1


def accepted_volumes(verdicts: pd.DataFrame, candidates: Path) -> Candidates:
    """The accepted volumes, in the order of the table."""
    rows = verdicts[verdicts["accepted"]]
    return Candidates(candidates, list(zip(rows["shard"], rows["position"], strict=True)))


def columns_of(verdicts: pd.DataFrame, prefix: str) -> list[Row]:
    """The columns under a prefix as one dict per row, None where a value is missing."""
    names = [column for column in verdicts.columns if column.startswith(prefix)]
    rows = verdicts[names].to_dict("records")
    return [{str(k).removeprefix(prefix): None if pd.isna(v) else v for k, v in row.items()} for row in rows]


def requested_conditions(verdicts: pd.DataFrame) -> list[Condition]:
    """What was asked for, per row."""
    return columns_of(verdicts, REQUESTED)
