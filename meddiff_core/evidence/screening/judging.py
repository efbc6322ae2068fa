"""Screening shard by shard: every candidate measured, held against the reference, listed with its verdict.

Rejected volumes stay where they are, with the reason beside them: nobody can judge a filter whose rejects
are gone.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from meddiff_core.contract import Condition, Contract
from meddiff_core.evidence.features.random_conv import RandomConvFeatures
from meddiff_core.evidence.measurements import measure
from meddiff_core.evidence.privacy.copies import keys_of, voxel_keys
from meddiff_core.evidence.screening.bounds import judge, load_reference
from meddiff_core.evidence.screening.duplicates import near_duplicates
from meddiff_core.evidence.screening.outlier import Models, open_probe
from meddiff_core.evidence.screening.reasons import count_kinds
from meddiff_core.generation.region import is_extrapolated
from meddiff_core.generation.schedule import Shard
from meddiff_core.generation.shards import Candidates
from meddiff_core.types import Mapper, Progress

Row = dict[str, Any]
REQUESTED, MEASURED, SCORE = "requested.", "measured.", "score."
"""Prefixes of the columns of a table of verdicts."""
EXTRAPOLATED = "extrapolated"
"""Column that says whether a condition lies outside what training saw."""
DUPLICATE = "near duplicate of an earlier volume of the cohort"


@dataclass(frozen=True)
class JudgeJob:
    """All that a worker needs to judge one shard."""

    shard: Shard
    candidates: Path
    reference: Path
    contract: Contract
    models: Models | None = None
    """Needed if the reference has a bound on the error after denoising."""


def judge_shard(job: JudgeJob) -> list[Row]:
    """One row per candidate of a shard: who it is, what was asked for, what was measured, and the verdict."""
    reference, arrays = load_reference(job.reference)
    places = [(job.shard.name, position) for position in range(len(job.shard.samples))]
    volumes = Candidates(job.candidates, places)
    features = RandomConvFeatures(job.contract)(volumes, range(len(volumes)))
    probe = open_probe(job.models) if job.models and reference.outliers else None
    rows = []
    for position, sample in enumerate(job.shard.samples):
        image, label = volumes.image(position), volumes.label(position)
        measured = measure(image, label, job.contract)
        errors = probe(volumes, position, sample.seed) if probe else None
        verdict = judge(measured, features[position], voxel_keys(image, job.contract), reference, arrays, errors)
        identity = {"sample_id": sample.sample_id, "slot": sample.slot, "attempt": sample.attempt, "seed": sample.seed}
        place = {"shard": job.shard.name, "position": position}
        said = {"accepted": verdict.accepted, "reasons": "; ".join(verdict.reasons)}
        asked = {EXTRAPOLATED: is_extrapolated(sample.condition, job.contract.conditions)}
        figures = _prefixed(MEASURED, measured) | _prefixed(SCORE, verdict.scores)
        rows.append(identity | place | said | asked | _prefixed(REQUESTED, sample.condition) | figures)
    return rows


def _prefixed(prefix: str, values: Mapping[str, Any]) -> Row:
    return {prefix + name: value for name, value in values.items()}


def judge_shards(
    shards: Sequence[Shard],
    candidates: Path,
    reference: Path,
    contract: Contract,
    mapper: Mapper,
    models: Models | None = None,
) -> Generator[Progress, None, pd.DataFrame]:
    """The verdict of every candidate of some shards, in their order."""
    jobs = [JudgeJob(shard, candidates, reference, contract, models) for shard in shards]
    rows: dict[int, list[Row]] = {}
    for position, found in mapper(judge_shard, jobs):
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
    dropped = accepted[sorted(near_duplicates(keys, arrays.key_centre, bounds.duplicate_distance))]
    verdicts = verdicts.copy()
    verdicts.loc[dropped, "accepted"] = False
    verdicts.loc[dropped, "reasons"] = DUPLICATE
    return verdicts


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


def count_reasons(verdicts: pd.DataFrame) -> dict[str, int]:
    """Rejected candidates by kind of reason, most frequent first; one with two reasons counts under both."""
    return count_kinds(said.split("; ") for said in verdicts.loc[~verdicts["accepted"], "reasons"])


def requested_conditions(verdicts: pd.DataFrame) -> list[Condition]:
    """What was asked for, per row."""
    return columns_of(verdicts, REQUESTED)
