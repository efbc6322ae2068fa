"""Whether a release is what its manifest says: complete, unaltered, and consistent in itself.

A checksum alone does not show that a table lost a row before it was hashed, or that an array has no chunk
where zarr would read zeros; so the parts are also held against each other.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import zarr
from zarr.codecs import ZstdCodec

from meddiff_core.data.store import chunk_path
from meddiff_core.errors import IntegrityError
from meddiff_core.release.manifest import MANIFEST, Manifest, describe_file, read_manifest
from meddiff_core.release.ome import COHORT, array_name
from meddiff_core.release.participants_table import IDENTIFIER, TABLE, TEXT


def verify_release(path: Path) -> list[str]:
    """What is wrong with a release, one line each; empty when nothing is."""
    try:
        manifest = read_manifest(path)
    except IntegrityError as error:
        return [str(error)]
    faults = [*_check_files(path, manifest)]
    return faults or [*_check_tables(path, manifest), *_check_arrays(path / COHORT, manifest)]


def _check_files(folder: Path, manifest: Manifest) -> Iterator[str]:
    found = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }
    for name in sorted(manifest.files.keys() - found.keys()):
        yield f"{name}: missing"
    for name in sorted(found.keys() - manifest.files.keys() - {MANIFEST}):
        yield f"{name}: not in the manifest"
    for name, path in found.items():
        if path.is_symlink():
            yield f"{name}: must be a file, is a link"
        elif (expected := manifest.files.get(name)) and describe_file(path) != expected:
            yield f"{name}: altered, it is not the file in the manifest"


def _check_tables(folder: Path, manifest: Manifest) -> Iterator[str]:
    try:
        table = pd.read_parquet(folder / TABLE)
        text = pd.read_csv(folder / TEXT, sep="\t", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        yield f"participants: both tables must be readable: {type(error).__name__}"
        return
    for name, rows in ((TABLE, len(table)), (TEXT, len(text))):
        if rows != manifest.samples:
            yield f"{name}: must have {manifest.samples} rows, has {rows}"
    if list(table.columns) != list(text.columns) or IDENTIFIER not in table:
        yield f"{TEXT}: must have the columns of {TABLE}, {IDENTIFIER} among them"
    elif list(table[IDENTIFIER]) != list(text[IDENTIFIER]):
        yield f"{TEXT}: {IDENTIFIER} must be that of {TABLE}"


def _check_arrays(store: Path, manifest: Manifest) -> Iterator[str]:
    try:
        root = zarr.open_group(store, mode="r", use_consolidated=False)
        datasets = _datasets(store, "")
        for name in _attributes(store / "labels")["ome"]["labels"] if (store / "labels").is_dir() else []:
            datasets |= _datasets(store, f"labels/{name}/")
    except (OSError, KeyError, TypeError, ValueError) as error:
        yield f"{COHORT}: must be an OME-Zarr with multiscales: {type(error).__name__}"
        return
    for name, axes in datasets.items():
        yield from _check_volumes(root, name, axes, manifest.samples)
    yield from _check_columns(root, store.parent, manifest.samples)


def _attributes(group: Path) -> dict[str, Any]:
    return dict(json.loads((group / "zarr.json").read_bytes())["attributes"])


def _datasets(store: Path, prefix: str) -> dict[str, int]:
    """Number of axes by path of each array that the metadata promise."""
    scales = _attributes(store / prefix)["ome"]["multiscales"]
    return {prefix + dataset["path"]: len(scale["axes"]) for scale in scales for dataset in scale["datasets"]}


def _check_volumes(root: zarr.Group, name: str, axes: int, samples: int) -> Iterator[str]:
    array = root.get(name)
    if not isinstance(array, zarr.Array):
        yield f"{COHORT}/{name}: the array is missing"
        return
    if array.ndim != axes or array.shape[0] != samples or array.chunks != (1, *array.shape[1:]):
        found = f"shape {array.shape} in chunks of {array.chunks}"
        yield f"{COHORT}/{name}: must hold {samples} volumes of one chunk each, has {found}"
        return
    if not _is_checksummed(array):
        yield f"{COHORT}/{name}: must be stored as zstd with checksum"
    for index in range(samples):
        if not chunk_path(array, index).is_file():
            yield f"{COHORT}/{name}: the chunk of volume {index} is missing"


def _is_checksummed(array: zarr.Array[Any]) -> bool:
    return any(isinstance(codec, ZstdCodec) and codec.checksum for codec in array.compressors)


def _check_columns(root: zarr.Group, folder: Path, samples: int) -> Iterator[str]:
    for column in pd.read_parquet(folder / TABLE).columns:
        array = root.get(array_name(str(column)))
        if not isinstance(array, zarr.Array) or array.shape != (samples,):
            yield f"{COHORT}/{array_name(str(column))}: must hold the {samples} values of the column {column}"
