"""What a part of a release consists of: which objects it takes, under which names, and what is written anew.

A filtered copy that keeps the arrays' length shows zeros, to every reader, for what was left out. So a subset is dense:
arrays, columns, tables and metadata hold the kept volumes alone. A volume is one chunk, so chunks are taken as they are
and get another number; only small files are written anew. The plan is a pure function of those, and the same wherever
the objects come from: a folder is copied by it, a server is asked by it, and a subset is held against its whole by it.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numcodecs.vlen import VLenUTF8
from numcodecs.zstd import Zstd
from pydantic import BaseModel, ValidationError

from meddiff_core.artefacts import digest_of
from meddiff_core.distribution.subset_papers import (
    CARD,
    CATALOGUE,
    render_subset_card,
    restate_catalogue,
    restate_croissant,
)
from meddiff_core.distribution.where import select_rows
from meddiff_core.errors import ConfigurationError, IntegrityError
from meddiff_core.parquet import as_parquet
from meddiff_core.release.bounded import MOST_JSON, describe_error, first_fault, parse_json
from meddiff_core.release.checks.array_document import DOCUMENT, ArrayDocument
from meddiff_core.release.checks.layout import MOST_METADATA, parse_array
from meddiff_core.release.checks.parquet_bounds import LONGEST_CELL, ROOM, parse_table
from meddiff_core.release.checks.table_agreement import CROISSANT, SIDECAR, stored_values
from meddiff_core.release.manifest import MANIFEST, WHOLE, FileEntry, Manifest, Step, Subset
from meddiff_core.release.ome import AXES, COHORT
from meddiff_core.release.participants_table import TABLE, TEXT, as_tsv

Read = Callable[[str], bytes]
"""Gives a file of the release by its name in the manifest, held against the manifest."""
RESTATED = (CARD, CROISSANT, CATALOGUE)
"""Papers that a subset has of its own. Those of the whole go along as well, with all others, in `whole/`."""


@dataclass(frozen=True)
class Choice:
    """Which volumes somebody wants."""

    where: str | None = None
    """Filter (see where.py)."""
    limit: int | None = None
    """Of those that fulfil it, so many of the first."""


@dataclass(frozen=True)
class Taken:
    """An object that goes along as it is."""

    source: str
    """Its name in the release that the subset is taken from."""
    name: str
    entry: FileEntry


@dataclass(frozen=True)
class SubsetPlan:
    """All files of a subset but a signature."""

    manifest: Manifest
    taken: tuple[Taken, ...]
    written: Mapping[str, bytes]
    """Content by name of what is written anew, the manifest among it."""


def plan_subset(read: Read, manifest: Manifest, digest: str, choice: Choice) -> SubsetPlan:
    """The part of a release that somebody wants. `digest` is that of its manifest.

    Raises:
        ConfigurationError: nothing is chosen, the filter is wrong, or it keeps no volume.
        IntegrityError: the release is not laid out as releases are, or a file of it is missing or altered.
    """
    if choice.where is None and choice.limit is None:
        raise ConfigurationError("a subset must have a filter or a limit: --where or --limit")
    if choice.limit is not None and choice.limit < 1:
        raise ConfigurationError(f"--limit: must be at least 1, is {choice.limit}")
    table = _read_table(read, manifest)
    rows = select_rows(table, choice.where) if choice.where is not None else list(range(manifest.samples))
    rows = rows[: choice.limit]
    step = {"of": digest, "where": choice.where, "limit": choice.limit, "kept": len(rows)}
    return _plan(read, manifest, table, rows, _record(manifest, digest, step, rows))


def plan_again(read: Read, manifest: Manifest, subset: Subset) -> SubsetPlan:
    """The plan of a subset that exists, from the whole that it names."""
    if manifest.subset or subset.samples != manifest.samples:
        raise IntegrityError(f"{manifest.name}: must be the whole of {subset.samples} volumes that the subset names")
    return _plan(read, manifest, _read_table(read, manifest), list(subset.rows), subset)


def _record(manifest: Manifest, digest: str, step: dict[str, Any], rows: Sequence[int]) -> Subset:
    """What the subset is a part of: of a subset of a subset, the whole."""
    before = manifest.subset
    content = {
        "name": before.name if before else manifest.name,
        "version": manifest.version,
        "title": before.title if before else manifest.title,
        "samples": before.samples if before else manifest.samples,
        "manifest": before.manifest if before else digest,
        "steps": (*(before.steps if before else ()), Step.model_validate(step)),
        "rows": tuple(before.rows[row] for row in rows) if before else tuple(rows),
    }
    try:
        return Subset.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError(f"this cannot be a subset: {first_fault(error)}") from error


def _plan(read: Read, manifest: Manifest, table: pd.DataFrame, rows: list[int], subset: Subset) -> SubsetPlan:
    """`table` is that of the release, `rows` are kept of it."""
    try:
        return _laid_out(read, manifest, table.iloc[rows].reset_index(drop=True), rows, subset)
    except (TypeError, KeyError, IndexError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        what = describe_error(error)
        raise IntegrityError(
            f"{manifest.name}: must be laid out as a release, `meddiff verify` says more: {what}"
        ) from error


def _laid_out(read: Read, manifest: Manifest, kept: pd.DataFrame, rows: list[int], subset: Subset) -> SubsetPlan:
    """What metadata of a stranger say is not looked at further than is needed here; the subset is verified."""
    documents = _documents(read, manifest)
    arrays = {path: parse_array(path, content) for path, content in documents.items() if "shape" in content}
    taken = [*_papers(manifest), Taken(SIDECAR, SIDECAR, _entry(manifest, SIDECAR))]
    written = {TABLE: as_parquet(kept), TEXT: as_tsv(kept).encode()}
    for path, array in arrays.items():
        taken += _chunks(path, array, manifest, rows)
        written |= _column(path, array, kept)
    for path, content in documents.items():
        name = f"{COHORT}/{path}/{DOCUMENT}" if path else f"{COHORT}/{DOCUMENT}"
        shorter = _shortened(content, len(rows))
        if shorter == content:
            taken.append(Taken(name, name, _entry(manifest, name)))
        else:
            written[name] = _as_json(shorter)
    described = manifest.model_copy(
        update={
            "name": f"{subset.name[:180].rstrip('-')}-subset-{digest_of(subset)[:8]}",
            "title": f"{subset.title}, {len(rows):,} of {subset.samples:,} volumes",
            "samples": len(rows),
            "subset": subset,
        }
    )
    written |= _restated(read, manifest, described, kept, written[TABLE])
    return _sealed(described, taken, written)


def _sealed(manifest: Manifest, taken: Sequence[Taken], written: dict[str, bytes]) -> SubsetPlan:
    """The plan with the manifest of all of it."""
    files = {one.name: one.entry for one in taken} | {name: _describe(content) for name, content in written.items()}
    if len(files) != len(taken) + len(written):
        raise IntegrityError(f"{manifest.name}: must have a name for each file of a subset, has two of one name")
    sealed = manifest.model_copy(update={"files": dict(sorted(files.items()))})
    return SubsetPlan(sealed, tuple(taken), written | {MANIFEST: _as_json(sealed)})


def _describe(content: bytes) -> FileEntry:
    return FileEntry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _as_json(value: Any) -> bytes:
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return (json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _read_table(read: Read, manifest: Manifest) -> pd.DataFrame:
    _entry(manifest, TABLE, ROOM + manifest.samples * LONGEST_CELL)
    return parse_table(read(TABLE), TABLE, manifest.samples)


def _entry(manifest: Manifest, name: str, most: int | None = None) -> FileEntry:
    """A file that the manifest must name, of at most so many bytes."""
    if (entry := manifest.files.get(name)) is None:
        raise IntegrityError(f"{name}: must be there, the manifest does not name it")
    if most is not None and entry.bytes > most:
        raise IntegrityError(f"{name}: must have at most {most} bytes, has {entry.bytes}")
    return entry


def _documents(read: Read, manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Content of each zarr.json of the store, by the path of its group or array."""
    names = [name for name in manifest.files if name.startswith(f"{COHORT}/") and name.endswith(f"/{DOCUMENT}")]
    if sum(manifest.files[name].bytes for name in names) > MOST_METADATA:
        raise IntegrityError(f"{COHORT}: must have at most {MOST_METADATA} bytes of metadata, has more")
    documents = {}
    for name in names:
        content = parse_json(read(name), name)
        if not isinstance(content, dict):
            raise IntegrityError(f"{name}: must hold keys and values, holds {type(content).__name__}")
        documents[str(PurePosixPath(name).parent).removeprefix(COHORT).lstrip("/")] = content
    if "" not in documents:
        raise IntegrityError(f"{COHORT}/{DOCUMENT}: must be there, the manifest does not name it")
    return documents


def _shortened(content: dict[str, Any], kept: int) -> dict[str, Any]:
    """Metadata of an array, or of a group with the copies that it has of its arrays', for fewer samples."""
    shorter = copy.deepcopy(content)
    if "shape" in content:
        if (content.get("dimension_names") or [""])[0] == AXES[0]:
            shorter["shape"][0] = kept
            chunks = shorter["chunk_grid"]["configuration"]["chunk_shape"]
            chunks[0] = min(chunks[0], kept)
        return shorter
    consolidated = content.get("consolidated_metadata")
    if isinstance(consolidated, dict) and isinstance(consolidated.get("metadata"), dict):
        own = {path: _shortened(one, kept) for path, one in consolidated["metadata"].items() if
               isinstance(one, dict)}  # fmt: skip
        shorter["consolidated_metadata"]["metadata"] = own
    return shorter


def _chunks(path: str, array: ArrayDocument, manifest: Manifest, rows: Sequence[int]) -> Iterator[Taken]:
    """Chunks of the kept volumes under their new numbers; of coordinates, all as they are."""
    if _is_column(array):
        return
    stacked = array.dimension_names[0] == AXES[0]
    if stacked and (array.chunks != (1, *array.shape[1:]) or array.shape[0] != manifest.samples):
        raise IntegrityError(f"{COHORT}/{path}: must hold {manifest.samples} volumes, one chunk each, does not")
    rest = (0,) * (len(array.shape) - 1)
    places = [((row, *rest), (place, *rest)) for place, row in enumerate(rows)] if stacked else [((0,), (0,))]
    for old, new in places:
        source, name = (f"{COHORT}/{path}/{array.chunk_name(place)}" for place in (old, new))
        yield Taken(source, name, _entry(manifest, source))


def _is_column(array: ArrayDocument) -> bool:
    return array.dimension_names == AXES[:1]


def _column(path: str, array: ArrayDocument, kept: pd.DataFrame) -> dict[str, bytes]:
    """The chunk of a column, from the table."""
    if not _is_column(array):
        return {}
    if (name := array.attributes.get("column")) not in kept:
        raise IntegrityError(f"{COHORT}/{path}: must hold a column of the table, holds {name!r:.100}")
    values = stored_values(kept[name])
    if (values.dtype == object) != (array.data_type == "string"):
        raise IntegrityError(f"{COHORT}/{path}: must hold the values of the column {name!r:.100}, holds others")
    content = bytes(VLenUTF8().encode(values)) if values.dtype == object else np.asarray(values, array.dtype).tobytes()
    level = array.codecs[-1].get("configuration", {}).get("level") if array.codecs else None
    packed = bytes(Zstd(level=level if isinstance(level, int) and 0 < level < 20 else 5, checksum=True).encode(content))
    return {f"{COHORT}/{path}/{array.chunk_name((0,))}": packed}


def _papers(manifest: Manifest) -> Iterator[Taken]:
    """Card, report and evidence of the whole, in a folder of their own."""
    for name, entry in manifest.files.items():
        if name.startswith(f"{WHOLE}/"):
            yield Taken(name, name, entry)
        elif not manifest.subset and not name.startswith(f"{COHORT}/") and name not in (TABLE, TEXT, SIDECAR):
            yield Taken(name, f"{WHOLE}/{name}", entry)


def _restated(
    read: Read, manifest: Manifest, described: Manifest, kept: pd.DataFrame, table: bytes
) -> dict[str, bytes]:
    """The papers that a subset has of its own, from those of the whole."""

    def paper(name: str) -> dict[str, Any]:
        _entry(manifest, manifest.papers + name, MOST_JSON)
        content = parse_json(read(manifest.papers + name), name)
        return content if isinstance(content, dict) else {}

    papers = {
        CARD: render_subset_card(described).encode(),
        CROISSANT: _as_json(restate_croissant(paper(CROISSANT), described, TABLE, _describe(table))),
    }
    if manifest.papers + CATALOGUE in manifest.files:  # releases of older versions have none
        papers[CATALOGUE] = _as_json(restate_catalogue(paper(CATALOGUE), described, kept))
    return papers
