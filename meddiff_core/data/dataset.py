"""The conformed scans of a study on disk, and the table that says whose they are and on which side.

Written in a folder beside and published when whole: a kill or a full disk leaves no half data set, and what
was finished is kept for the next run. A case that fails leaves no hole.
"""

import csv
import errno
import io
import json
import shutil
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from os.path import relpath
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from numpy.typing import NDArray

from meddiff_core.artefacts import STATE, digest_of, publish_folder, write_json, write_text
from meddiff_core.contract import CategoricalCondition, Condition, ConditionSpec, ConditionValue, Contract
from meddiff_core.data.conform import conform_case
from meddiff_core.data.fingerprint import CaseFingerprint, Fingerprint, all_refused
from meddiff_core.data.split.sides import SIDES, Side, Split
from meddiff_core.data.store import (
    StoredVolumes,
    chunk_path,
    create_store,
    create_volumes,
    digest_volume,
    open_array,
    read_volume,
)
from meddiff_core.errors import CaseRefused, DataRefused, IntegrityError, MeddiffError
from meddiff_core.parquet import write_parquet
from meddiff_core.study import DataConfig
from meddiff_core.types import CaseRef, Mapper, Progress, Refusal

STORE = "dataset.zarr"
TABLE = "cases.parquet"
DIGESTED = ("subject", "side", "voxels_sha256", "label_voxels_sha256")
"""Columns of the table that, with the contract, make the data set what it is."""
BATCH = 4
"""Cases a mapped call: long enough to be worth sending, short enough to lose little."""


@dataclass(frozen=True)
class Job:
    """One case and the row of the store that is its own."""

    row: int
    case: CaseRef
    found: CaseFingerprint


@dataclass(frozen=True)
class Written:
    """Digests of what lies in a row."""

    row: int
    voxels_sha256: str
    label_voxels_sha256: str | None


def build_dataset(
    folder: Path,
    cases: Sequence[CaseRef],
    fingerprint: Fingerprint,
    contract: Contract,
    data: DataConfig,
    split: Split,
    mapper: Mapper,
) -> Generator[Progress, None, list[Refusal]]:
    """Write dataset.zarr and cases.parquet below `folder`; returns the cases that had to be left out.

    Raises:
        DataRefused: no case could be conformed.
        MeddiffError: the disk is full; the finished cases are kept, and the next run goes on from them.
    """
    jobs, refused = _jobs(cases, fingerprint)
    staged = folder / f".{STORE}.partial"
    with _full_disk_named(folder):
        _stage(staged, jobs, contract)
        results = yield from _conform_all(staged, jobs, contract, data, mapper)
        refused += [result for result in results if isinstance(result, Refusal)]
        written = [result for result in results if isinstance(result, Written)]
        if not written:
            raise DataRefused(all_refused(refused))
        whole = staged if len(written) == len(jobs) else _without_holes(staged, written, contract)
        table = _table(folder, [(jobs[one.row], one) for one in written], fingerprint, split)
        zarr.open_group(whole, mode="r+").attrs["digest"] = _digest(contract, table.to_pandas())
        write_parquet(folder / TABLE, table)
        publish_folder(whole, folder / STORE)  # last: until here all that was conformed can be picked up again
        shutil.rmtree(staged, ignore_errors=True)
    return refused


@contextmanager
def _full_disk_named(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise MeddiffError(
            f"{folder}: no space left on the disk; free some and run again, finished cases are kept"
        ) from error


def _jobs(cases: Sequence[CaseRef], fingerprint: Fingerprint) -> tuple[list[Job], list[Refusal]]:
    by_case = {case.case: case for case in cases}
    known = [(by_case[found.case], found) for found in fingerprint.cases if found.case in by_case]
    gone = [found.case for found in fingerprint.cases if found.case not in by_case]
    jobs = [Job(row, case, found) for row, (case, found) in enumerate(known)]
    return jobs, [Refusal(case, "is gone since the fingerprint was taken") for case in gone]


def _stage(staged: Path, jobs: Sequence[Job], contract: Contract) -> None:
    """An empty store for all jobs, unless the one that stands was begun for the very same."""
    sources = [[job.found.case, job.found.image_sha256, job.found.label_sha256] for job in jobs]
    made_from = digest_of({"contract": contract.model_dump(mode="json"), "sources": sources})
    if _begun_from(staged) != made_from:
        _create(staged, len(jobs), contract).attrs["made_from"] = made_from  # last: without it nothing is kept
    for leftover in staged.rglob("*.partial"):  # of a write that was killed
        leftover.unlink()


def _begun_from(staged: Path) -> Any:
    try:
        return zarr.open_group(staged, mode="r").attrs.get("made_from")
    except (FileNotFoundError, ValueError):
        return None


def _create(path: Path, count: int, contract: Contract) -> zarr.Group:
    group = create_store(path, {"contract": contract.model_dump(mode="json"), "spacing_mm": list(contract.spacing_mm)})
    create_volumes(group, "image", count, contract.size, contract.intensity.storage)
    if contract.labels:
        create_volumes(group, "label", count, contract.size, "uint8")
    return group


def _conform_all(
    staged: Path, jobs: Sequence[Job], contract: Contract, data: DataConfig, mapper: Mapper
) -> Generator[Progress, None, list[Written | Refusal]]:
    batches = [jobs[start : start + BATCH] for start in range(0, len(jobs), BATCH)]
    results: dict[int, list[Written | Refusal]] = {}
    for position, result in mapper(partial(write_batch, path=staged, contract=contract, data=data), batches):
        results[position] = result
        yield Progress("conform", sum(map(len, results.values())), len(jobs))
    return [one for position in sorted(results) for one in results[position]]


def write_batch(jobs: Sequence[Job], path: Path, contract: Contract, data: DataConfig) -> list[Written | Refusal]:
    """Conform some cases into their own rows; rows that stand already are kept. May run twice."""
    arrays = [open_array(path, name, mode="r+") for name in _names(contract)]
    results: list[Written | Refusal] = []
    for job in jobs:
        try:
            results.append(_written(arrays, job, contract, data))
        except CaseRefused as refused:
            results.append(Refusal(refused.case, refused.reason))
    return results


def _written(arrays: Sequence[zarr.Array[Any]], job: Job, contract: Contract, data: DataConfig) -> Written:
    volumes = _standing(arrays, job.row)
    if volumes is None:
        volumes = _conformed(job, contract, data)
        for array, volume in zip(arrays, volumes, strict=True):
            write_volume(array, job.row, volume)
    digests = [digest_volume(volume) for volume in volumes]
    return Written(job.row, digests[0], digests[1] if len(digests) > 1 else None)


def _names(contract: Contract) -> list[str]:
    return ["image", "label"] if contract.labels else ["image"]


def _standing(arrays: Sequence[zarr.Array[Any]], row: int) -> list[NDArray[Any]] | None:
    try:
        return [read_volume(array, row) for array in arrays]
    except IntegrityError:
        return None


def _conformed(job: Job, contract: Contract, data: DataConfig) -> list[NDArray[Any]]:
    conformed = conform_case(job.case, job.found, contract, data)
    if not contract.labels:
        return [conformed.image]
    if conformed.label is None:
        raise CaseRefused(job.case.case, "has no label map, the study has label groups")
    return [conformed.image, conformed.label]


def write_volume(array: zarr.Array[Any], row: int, volume: NDArray[Any]) -> None:
    """Write one volume, which is one chunk that nobody else writes."""
    array[row] = volume


def _without_holes(staged: Path, written: Sequence[Written], contract: Contract) -> Path:
    """Move the chunks that stand into a store of just as many; a kill in between only costs their remaking."""
    dense = staged.with_name(f".{STORE}.dense")
    _create(dense, len(written), contract)
    for name in _names(contract):
        old, new = open_array(staged, name), open_array(dense, name)
        for index, one in enumerate(written):
            target = chunk_path(new, index)
            target.parent.mkdir(parents=True, exist_ok=True)
            chunk_path(old, one.row).replace(target)
    return dense


def _digest(contract: Contract, table: pd.DataFrame) -> str:
    """Also of the sides: who was trained on is as much a part of the data set as the voxels are."""
    lines = table[list(DIGESTED)].astype(object).where(table[list(DIGESTED)].notna(), None).to_numpy().tolist()
    return digest_of({"contract": contract.model_dump(mode="json"), "volumes": lines})


def _table(folder: Path, rows: Sequence[tuple[Job, Written]], fingerprint: Fingerprint, split: Split) -> pa.Table:
    covariates = {
        name: pa.array(
            [job.found.covariates.get(name) for job, _ in rows], pa.string() if kind == "categorical" else pa.float64()
        )
        for name, kind in fingerprint.kinds.items()
    }
    texts: dict[str, list[str | None]] = {
        "case": [job.case.case for job, _ in rows],
        "subject": [job.found.subject for job, _ in rows],
        "side": [split.sides[job.found.subject] for job, _ in rows],
        "image_sha256": [job.found.image_sha256 for job, _ in rows],
        "source": [Path(relpath(job.case.image, folder)).as_posix() for job, _ in rows],
        "voxels_sha256": [one.voxels_sha256 for _, one in rows],
        "label_voxels_sha256": [one.label_voxels_sha256 for _, one in rows],
    }
    columns = {name: pa.array(values, pa.string()) for name, values in texts.items()}
    first = {"row": pa.array(range(len(rows)), pa.int64())} | {
        name: columns.pop(name) for name in ("case", "subject", "side")
    }
    return pa.table(first | covariates | columns)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A finished data set."""

    folder: Path
    contract: Contract
    table: pd.DataFrame
    """One line per volume: row, case, subject, side, covariates, digests."""

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """Open the data set of a study folder; IntegrityError if it is missing or its parts do not belong together."""
        try:
            attributes = zarr.open_group(folder / STORE, mode="r").attrs.asdict()
            table = pq.read_table(folder / TABLE).to_pandas()
            contract = Contract.model_validate(attributes["contract"])
        except (OSError, ValueError, KeyError) as error:
            raise IntegrityError(f"{folder} must hold {STORE} and {TABLE}: {error}") from error
        dataset = cls(folder, contract, table)
        if attributes.get("digest") != dataset.digest():
            raise IntegrityError(f"{folder}: {STORE} and {TABLE} must be of one build, they are not")
        return dataset

    def digest(self) -> str:
        """Of the contract and of every volume: its voxels, its subject and its side."""
        return _digest(self.contract, self.table)

    def rows(self, side: Side | None) -> list[int]:
        """Rows of one side, or all."""
        chosen = self.table if side is None else self.table[self.table["side"] == side]
        return [int(row) for row in chosen["row"]]

    def sizes(self) -> dict[str, int]:
        """Volumes on each side."""
        return {side: len(self.rows(side)) for side in SIDES}

    def subjects(self, side: Side | None) -> list[str]:
        """Whose each volume of one side, or of all, is, in the order of `rows`."""
        return [str(subject) for subject in self.table.iloc[self.rows(side)]["subject"]]

    def volumes(self, side: Side | None) -> StoredVolumes:
        """Volumes of one side, or all, in the order of `rows`."""
        places = [(self.folder / STORE, row) for row in self.rows(side)]
        return StoredVolumes(places, has_labels=bool(self.contract.labels))

    def conditions(self, side: Side | None) -> list[Condition]:
        """Conditions of the contract per volume, in the order of `rows`; None where not known.

        A category that no training subject has is one that the models cannot be asked for: it counts as not known.
        """
        lines = self.table.iloc[self.rows(side)].to_dict("records")
        return [{spec.name: _condition(line, spec) for spec in self.contract.conditions} for line in lines]


def _condition(line: Mapping[Any, Any], spec: ConditionSpec) -> ConditionValue:
    value = line[spec.name]
    if pd.isna(value):
        return None
    if isinstance(spec, CategoricalCondition):
        return str(value) if value in spec.categories else None
    return float(value)


def sides_of_dataset(folder: Path) -> dict[str, Side]:
    """On which side each subject of a finished data set is, from its table alone; nobody where there is none."""
    try:
        table = pq.read_table(folder / TABLE, columns=["subject", "side"]).to_pydict()
    except (OSError, ValueError):
        return {}
    return dict(zip(table["subject"], table["side"], strict=True))


def remember_subjects(folder: Path, digest: str) -> None:
    """Keep on which side each subject of the data set is, which is about to be replaced: releases made from it stay."""
    if sides := sides_of_dataset(folder):
        write_json(_remembered(folder, digest), dict(sorted(sides.items())))


def remembered_subjects(folder: Path, digest: str) -> dict[str, Side] | None:
    """What is kept so of a data set; None where nothing is."""
    try:
        return dict(json.loads(_remembered(folder, digest).read_bytes()))
    except (OSError, ValueError):
        return None


def _remembered(folder: Path, digest: str) -> Path:
    return folder / STATE / "ledger" / "subjects" / f"{digest}.json"


def write_refusals(path: Path, refusals: Iterable[Refusal]) -> None:
    """A table of what was refused and why, which a spreadsheet shows as text and never runs as a formula."""
    buffer = io.StringIO(newline="")
    lines = csv.writer(buffer, lineterminator="\n")
    lines.writerow(["case", "reason"])
    lines.writerows([as_text(refusal.case), as_text(refusal.reason)] for refusal in refusals)
    write_text(path, buffer.getvalue())


def as_text(cell: str) -> str:
    """A cell that no spreadsheet runs as a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
