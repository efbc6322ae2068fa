"""A cohort as one OME-Zarr 0.5: what viewers, xarray and a training loop can all open as it lies there.

Samples are stacked along a first axis and each volume is one checksummed chunk, so that reading one costs
one request and a flipped bit is an error. The smaller copies of the images lie in `pyramid/1`, because two
sizes side by side would keep xarray from opening the store; those of the label maps lie side by side all the
same, because ome-zarr-models (1.8) takes no label map whose levels are in groups of their own. Chunks are named
with dots, `c.7.0.0.0`: with slashes each volume takes twelve folders. Axes are (sample, z, y, x) at this edge only.
"""

import os
import warnings
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.errors import ZarrUserWarning

from meddiff_core.contract import CategoricalCondition, Contract
from meddiff_core.data.store import create_store, create_volumes, write_volume
from meddiff_core.errors import IntegrityError
from meddiff_core.release.array_names import array_names
from meddiff_core.release.colours import label_colours
from meddiff_core.types import LabelArray, Progress, StoredArray, Volumes

COHORT = "cohort.ome.zarr"
LABELS = "structures"
AXES = ("sample", "z", "y", "x")
MR_RANGE = 1000
"""Released MR intensities run from 0, the background, to this."""
LEVEL = 5
"""Level of zstd: a release is written once and read often."""
MOST_THREADS = 8
"""Volumes that are compressed side by side; each takes some memory."""
SEPARATOR: Final = "."
"""Between the numbers of a chunk's name."""
SMALLER = "pyramid/1"
"""Where the smaller copy of the images lies, from the root."""
LABEL_LEVELS = ("0", "1")
"""Label maps and their smaller copy, from their group."""
Factors = tuple[int, int, int]


def affine_of(contract: Contract) -> NDArray[np.float64]:
    """(4, 4), voxel index (x, y, z) to RAS mm, with the origin in the middle of the grid."""
    affine = np.diag([*contract.spacing_mm, 1.0])
    affine[:3, 3] = [-step * (size - 1) / 2 for step, size in zip(contract.spacing_mm, contract.size, strict=True)]
    return affine


def released_image(stored: StoredArray, contract: Contract) -> NDArray[np.int16]:
    """(i, j, k) stored to (z, y, x) released: HU, or for MR 0 to 1000."""
    mapping = contract.intensity
    values = mapping.physical(stored) if mapping.modality == "CT" else mapping.unit(stored) * MR_RANGE
    return np.ascontiguousarray(np.rint(values).astype(np.int16).T)


def intensity_range(contract: Contract) -> tuple[float, float]:
    """Smallest and largest released intensity."""
    mapping = contract.intensity
    return (mapping.low, mapping.high) if mapping.modality == "CT" else (0.0, float(MR_RANGE))


def public_contract(contract: Contract) -> dict[str, Any]:
    """The contract without what was measured on few subjects: the ranges and moments of the covariates."""
    low, high = intensity_range(contract)
    mapping = contract.intensity
    conditions = [
        {"name": condition.name, "kind": condition.kind}
        | (
            {"categories": list(condition.categories)}
            if isinstance(condition, CategoricalCondition)
            else {"volume_of": condition.group}
        )
        for condition in contract.conditions
    ]
    return {
        "spacing_mm": list(contract.spacing_mm),
        "size": list(contract.size),
        "orientation": "RAS+",
        "intensity": {
            "modality": mapping.modality,
            "unit": "HU" if mapping.modality == "CT" else "arbitrary",
            "low": low,
            "high": high,
            "meaning": "Hounsfield units, clipped to the range"
            if mapping.modality == "CT"
            else f"0 is background, 0 to {MR_RANGE} spans the foreground percentiles of a scan",
            "percentiles": list(mapping.percentiles) if mapping.percentiles else None,
        },
        "mask": contract.mask,
        "labels": {name: value for value, name in enumerate(contract.labels, start=1)},
        "source_labels": {name: list(values) for name, values in contract.labels.items()},
        "conditions": conditions,
    }


def write_cohort(
    path: Path, volumes: Volumes, table: pd.DataFrame, contract: Contract, title: str
) -> Generator[Progress, None, None]:
    """Write the whole store; yields after each volume. `table` is the public one."""
    root = create_store(path, _root_attributes(contract, title))
    _write_coordinates(root, contract)
    for column, name in array_names(map(str, table.columns)).items():
        _write_column(root, name, table[column])
    arrays = _create_arrays(root, len(volumes), contract)
    for done in _write_samples(arrays, volumes, contract):
        yield Progress("writing volumes", done, len(volumes))
    with warnings.catch_warnings():  # for readers over HTTP, which cannot list a folder
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(path)


def _create_arrays(root: zarr.Group, count: int, contract: Contract) -> dict[str, zarr.Array[Any]]:
    full = contract.size[::-1]
    half = tuple(-(-size // factor) for size, factor in zip(full, smaller_by(contract)[::-1], strict=True))
    wanted = {"image": (full, "int16"), SMALLER: (half, "int16")}
    if contract.labels:
        root.create_group("labels", attributes={"ome": {"version": "0.5", "labels": [LABELS]}})
        root.create_group(f"labels/{LABELS}", attributes={"ome": _label_metadata(contract)})
        wanted |= {name: (shape, "uint8") for name, shape in zip(_label_arrays(), (full, half), strict=True)}
    return {
        name: create_volumes(root, name, count, shape, dtype, AXES, level=LEVEL, separator=SEPARATOR)
        for name, (shape, dtype) in wanted.items()
    }


def _write_samples(arrays: dict[str, zarr.Array[Any]], volumes: Volumes, contract: Contract) -> Iterator[int]:
    """Compress several volumes side by side, which leaves Python's lock alone; yields how many are written.

    They are read one after the other, since whatever gives them need not stand threads.
    """
    threads = min(os.cpu_count() or 1, MOST_THREADS)
    writing: deque[Future[None]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for index in range(len(volumes)):
            stored, label = volumes.image(index), volumes.label(index) if contract.labels else None
            writing.append(pool.submit(_write_sample, arrays, index, stored, label, contract))
            if len(writing) > threads:
                writing.popleft().result()
                yield index + 1 - len(writing)
        while writing:
            writing.popleft().result()
            yield len(volumes) - len(writing)


def _write_sample(
    arrays: dict[str, zarr.Array[Any]], index: int, stored: StoredArray, label: LabelArray | None, contract: Contract
) -> None:
    if stored.shape != contract.size:
        raise IntegrityError(f"volume {index} must have the size {contract.size} of the contract, has {stored.shape}")
    image = released_image(stored, contract)
    write_volume(arrays["image"], index, image)
    write_volume(arrays[SMALLER], index, halve_image(image, smaller_by(contract)[::-1]))
    if not contract.labels:
        return
    if label is None or label.shape != contract.size or label.max() > len(contract.labels):
        raise IntegrityError(
            f"volume {index} must have a label map with values 0 to {len(contract.labels)} on the grid of its image"
        )
    label = np.ascontiguousarray(label.T)
    smaller = halve_label(label, smaller_by(contract)[::-1])
    for name, level in zip(_label_arrays(), (label, smaller), strict=True):
        write_volume(arrays[name], index, level)


def _label_arrays() -> list[str]:
    return [f"labels/{LABELS}/{level}" for level in LABEL_LEVELS]


def smaller_by(contract: Contract) -> Factors:
    """Downsampling of the smaller copy along x, y, z: 2, but 1 along an axis that is as coarse as the halved ones."""
    return factors_of(contract.spacing_mm)


def factors_of(spacing_mm: tuple[float, float, float]) -> Factors:
    """The same, by the spacing along x, y, z."""
    finest = min(spacing_mm)
    x, y, z = (2 if spacing < 2 * finest else 1 for spacing in spacing_mm)
    return x, y, z


def halve_image(image: NDArray[np.int16], factors: Factors = (2, 2, 2)) -> NDArray[np.int16]:
    """The mean of every block of voxels, 2x2x2 or as the factors say; an odd edge is repeated."""
    means: NDArray[np.int16] = np.rint(_blocks(image, factors).mean(axis=0)).astype(np.int16)
    return means


def halve_label(label: LabelArray, factors: Factors = (2, 2, 2)) -> LabelArray:
    """The most frequent value of every block of voxels; a tie goes to the first of them."""
    blocks = _blocks(label, factors)
    votes = np.zeros(blocks.shape, np.uint8)
    for one, other in combinations(range(len(blocks)), 2):
        same = blocks[one] == blocks[other]
        votes[one] += same
        votes[other] += same
    winners: LabelArray = blocks[0].copy()
    most = votes[0].copy()
    for block, count in zip(blocks[1:], votes[1:], strict=True):
        np.copyto(winners, block, where=count > most)
        np.maximum(most, count, out=most)
    return winners


def _blocks(array: NDArray[Any], factors: Factors) -> NDArray[Any]:
    """(8, z/2, y/2, x/2), or as the factors say: the voxels of each block along the first axis."""
    even = np.pad(array, [(0, -size % factor) for size, factor in zip(array.shape, factors, strict=True)], mode="edge")
    p, q, r = factors
    return np.stack([even[z::p, y::q, x::r] for z in range(p) for y in range(q) for x in range(r)])


def _write_coordinates(root: zarr.Group, contract: Contract) -> None:
    for axis, (name, size) in enumerate(zip("xyz", contract.size, strict=True)):
        positions = affine_of(contract)[axis, 3] + contract.spacing_mm[axis] * np.arange(size)
        _write_line(root, name, positions, name, {"units": "mm", "long_name": f"RAS {name} of the voxel's middle"})


def _write_column(root: zarr.Group, name: str, column: "pd.Series[Any]") -> None:
    if pd.api.types.is_numeric_dtype(column):
        values = column.to_numpy()
    else:
        values = column.astype(object).where(column.notna(), "n/a").astype(str).to_numpy(dtype=object)
    _write_line(root, name, values, "sample", {"column": str(column.name)})


def _write_line(root: zarr.Group, name: str, values: NDArray[Any], dimension: str, attributes: dict[str, Any]) -> None:
    array = root.create_array(
        name,
        shape=values.shape,
        chunks=values.shape,
        dtype=str if values.dtype == object else values.dtype,
        compressors=ZstdCodec(level=LEVEL, checksum=True),
        chunk_key_encoding={"name": "default", "separator": SEPARATOR},
        dimension_names=(dimension,),
        attributes=attributes,
        config={"write_empty_chunks": True},
    )
    array[:] = values


def _root_attributes(contract: Contract, title: str) -> dict[str, Any]:
    low, high = intensity_range(contract)
    window = {"min": low, "max": high, "start": low, "end": high}
    channel = {"label": contract.intensity.modality, "color": "FFFFFF", "active": True, "window": window}
    return {
        "ome": {
            "version": "0.5",
            "multiscales": [_multiscale(title, ("image", SMALLER), contract)],
            "omero": {"channels": [channel], "rdefs": {"model": "greyscale", "defaultZ": contract.size[2] // 2}},
        },
        "affine": affine_of(contract).tolist(),
        "affine_meaning": "voxel index (x, y, z) to mm, right-anterior-superior (RAS+); the array is (sample, z, y, x)",
        "contract": public_contract(contract),
        "synthetic": True,
    }


def _label_metadata(contract: Contract) -> dict[str, Any]:
    colours = label_colours(len(contract.labels))
    return {
        "version": "0.5",
        "multiscales": [_multiscale(LABELS, LABEL_LEVELS, contract)],
        "image-label": {
            "colors": [{"label-value": value, "rgba": [*colour, 255]} for value, colour in enumerate(colours, start=1)],
            "properties": [{"label-value": value, "name": name} for value, name in enumerate(contract.labels, start=1)],
            "source": {"image": "../../"},
        },
    }


def _multiscale(name: str, paths: tuple[str, str], contract: Contract) -> dict[str, Any]:
    axes: list[dict[str, str]] = [{"name": "sample", "type": "sample"}]
    axes += [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"]
    return {
        "name": name,
        "axes": axes,
        "datasets": [
            _dataset(path, factors, contract)
            for path, factors in zip(paths, ((1, 1, 1), smaller_by(contract)), strict=True)
        ],
    }


def _dataset(path: str, factors: Factors, contract: Contract) -> dict[str, Any]:
    spacing = np.array(contract.spacing_mm) * factors
    origin = affine_of(contract)[:3, 3] + (spacing - contract.spacing_mm) / 2
    place = [
        {"type": "scale", "scale": [1.0, *spacing[::-1].tolist()]},
        {"type": "translation", "translation": [0.0, *origin[::-1].tolist()]},
    ]
    return {"path": path, "coordinateTransformations": place}
