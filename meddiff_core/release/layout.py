"""What the metadata of a store promise, read without zarr and held against each other and the contract.

Every reader trusts the consolidated copy in the root, so an array can be right in its own `zarr.json` and wrong for all
of them: another byte order there gives other voxels without a word. Here both must agree, each array must be what
contract and manifest make it, and its chunks must be of a size that can be decoded, before one of them is read.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from meddiff_core.contract import Contract, Frozen, IntensityMapping
from meddiff_core.data.frames import decompress
from meddiff_core.errors import IntegrityError
from meddiff_core.release.bounded import read_bounded, read_json
from meddiff_core.release.manifest import Manifest
from meddiff_core.release.ome import AXES, COHORT, Factors, affine_of, smaller_by

DOCUMENT = "zarr.json"
MOST_METADATA = 64 << 20
"""Bytes of all metadata of a store together."""
LARGEST_CHUNK = 1 << 29
"""Bytes of a decoded chunk: a CT of 640 voxels along each axis."""
Length = Annotated[int, Field(ge=1, le=1 << 31)]
FILL: dict[str, Any] = {"string": "", "bool": False}
NUMBERS = ("bool", *(f"{kind}int{bits}" for kind in ("", "u") for bits in (8, 16, 32, 64)), "float32", "float64")


class _Grid(Frozen):
    chunk_shape: tuple[Length, ...]


class _Chunks(Frozen):
    name: Literal["regular"]
    configuration: _Grid


class _Separator(Frozen):
    separator: Literal["/", "."] = "/"


class _Keys(Frozen):
    name: Literal["default"]
    configuration: _Separator = _Separator()


class ArrayDocument(Frozen):
    """zarr.json of an array, as far as a release uses it."""

    zarr_format: Literal[3]
    node_type: Literal["array"]
    shape: Annotated[tuple[Length, ...], Field(min_length=1, max_length=4)]
    data_type: str
    chunk_grid: _Chunks
    chunk_key_encoding: _Keys
    fill_value: bool | int | float | str
    codecs: tuple[dict[str, Any], ...]
    attributes: dict[str, Any] = Field(default_factory=dict)
    dimension_names: tuple[str, ...]
    storage_transformers: Annotated[tuple[Any, ...], Field(max_length=0)] = ()

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of a chunk."""
        return self.chunk_grid.configuration.chunk_shape

    @property
    def counts(self) -> tuple[int, ...]:
        """Chunks along each axis."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of decoded numbers: little-endian."""
        return np.dtype(self.data_type).newbyteorder("<")

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a decoded chunk of numbers."""
        return math.prod(self.chunks) * self.dtype.itemsize

    def chunk_name(self, place: tuple[int, ...]) -> str:
        """File of a chunk, from the array's folder."""
        return self.chunk_key_encoding.configuration.separator.join(["c", *map(str, place)])


class _GroupDocument(BaseModel):
    model_config = ConfigDict(extra="forbid")

    zarr_format: Literal[3]
    node_type: Literal["group"]
    attributes: dict[str, Any] = {}
    consolidated_metadata: Any = None


class _Intensity(BaseModel):
    modality: Literal["MR", "CT"]
    low: float
    high: float


class _Condition(BaseModel):
    name: str
    volume_of: str | None = None


class _PublicContract(BaseModel):
    """What verification needs of the contract in the store's attributes."""

    spacing_mm: Any
    size: tuple[Length, Length, Length]
    intensity: _Intensity
    labels: dict[str, int]
    conditions: list[_Condition] = []


@dataclass(frozen=True)
class Levels:
    """An image or a label map and its smaller copies."""

    paths: tuple[str, ...]
    factors: tuple[Factors, ...]
    """Downsampling of each along z, y, x."""


@dataclass(frozen=True)
class Layout:
    """What a store holds."""

    store: Path
    contract: Contract
    conditions: tuple[_Condition, ...]
    """Names of conditions and the label groups whose volumes they are."""
    arrays: Mapping[str, ArrayDocument]
    image: Levels
    labels: Levels | None

    def read_numbers(self, path: str, place: tuple[int, ...]) -> NDArray[Any]:
        """A decoded chunk of numbers.

        Raises:
            IntegrityError: it is missing, damaged, or of another size.
        """
        array = self.arrays[path]
        try:
            content = decompress(self.read_chunk(path, place), array.chunk_bytes)
        except IntegrityError as error:
            raise IntegrityError(f"{COHORT}/{path}/{array.chunk_name(place)}: {error}") from error
        return np.frombuffer(content, array.dtype).reshape(array.chunks)

    def read_chunk(self, path: str, place: tuple[int, ...]) -> bytes:
        """The bytes of a chunk as they lie there."""
        array = self.arrays[path]
        return read_bounded(self.store / path / array.chunk_name(place), LARGEST_CHUNK)

    def column(self, name: str) -> str:
        """Path of the array that holds a column of the table.

        Raises:
            IntegrityError: there is none, or there are several.
        """
        found = [path for path, array in self.arrays.items() if array.attributes.get("column") == name]
        if len(found) != 1:
            raise IntegrityError(f"{COHORT}: must hold the column {name} in one array, does in {len(found)}")
        return found[0]


def read_layout(store: Path, manifest: Manifest) -> tuple[Layout | None, list[str]]:
    """What a store holds, or None and what is wrong with its metadata."""
    documents = _read_documents(store, manifest)
    faults = [*_check_copies(documents)]
    arrays = {path: _array(path, content) for path, content in documents.items() if _is_array(content)}
    groups = {path: _group(path, content) for path, content in documents.items() if not _is_array(content)}
    for path, array in arrays.items():
        faults += _check_storage(path, array, manifest)
    if faults:
        return None, faults
    if "" not in groups:
        raise IntegrityError(f"{COHORT}: must be a group, is an array")
    public = _public(groups[""])
    contract = _contract(public)
    image, labels = _levels("", groups, contract), None
    if contract.labels:
        (name,) = _names_of_labels(groups)
        labels = _levels(f"labels/{name}/", groups, contract)
        faults += _check_meaning(groups[f"labels/{name}"], contract)
    layout = Layout(store, contract, tuple(public.conditions), arrays, image, labels)
    faults += [*_check_affine(groups[""], contract)]
    for levels, kind in ((image, "int16"), (labels, "uint8")):
        faults += _check_levels(layout, levels, kind, manifest.samples) if levels else []
    return layout, faults


def _read_documents(store: Path, manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Content of each zarr.json by the path of its group or array, the root's as ``."""
    start, end = f"{COHORT}/", f"/{DOCUMENT}"
    names = [name for name in manifest.files if name.startswith(start) and name.endswith(end)]
    if sum(manifest.files[name].bytes for name in names) > MOST_METADATA:
        raise IntegrityError(f"{COHORT}: must have at most {MOST_METADATA} bytes of metadata, has more")
    documents = {}
    for name in names:
        path = name[len(start) : -len(DOCUMENT)].rstrip("/")
        content = read_json(store / path / DOCUMENT, MOST_METADATA)
        if not isinstance(content, dict):
            raise IntegrityError(f"{name}: must hold keys and values, holds {type(content).__name__}")
        documents[path] = content
    if "" not in documents:
        raise IntegrityError(f"{start}{DOCUMENT}: is missing")
    return documents


def _check_copies(documents: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """Whether the consolidated copies, which readers use instead, are the metadata themselves."""
    for group, content in documents.items():
        copies = content.get("consolidated_metadata")
        if copies is None and group:
            continue
        within = f"{group}/" if group else ""
        known = {path.removeprefix(within): own for path, own in documents.items() if path != group and
                 path.startswith(within)}  # fmt: skip
        found = copies.get("metadata") if isinstance(copies, dict) and copies.get("kind") == "inline" else None
        if not isinstance(found, dict):
            yield f"{COHORT}/{within}{DOCUMENT}: must have consolidated metadata, has none that can be read"
            continue
        for path in sorted(known.keys() ^ found.keys()):
            where = "lacks" if path in known else "invents"
            yield f"{COHORT}/{within}{DOCUMENT}: the consolidated metadata {where} {path}"
        for path in sorted(known.keys() & found.keys()):
            if _own(found[path]) != _own(known[path]):
                how = _unlike(found[path], known[path])
                yield f"{COHORT}/{within}{path}: the consolidated metadata must be its own, {how}"


def _own(content: Any) -> str:
    if isinstance(content, dict):
        nested = content.get("consolidated_metadata")
        if isinstance(nested, dict) and not nested.get("metadata"):  # what zarr writes in a copy of a group
            nested = None
        content = {**content, "consolidated_metadata": nested}
    return json.dumps(content, sort_keys=True)


def _unlike(copy: Any, own: dict[str, Any]) -> str:
    if not isinstance(copy, dict):
        return "holds none"
    differing = [name for name in sorted({*copy, *own}) if copy.get(name) != own.get(name)]
    return f"differs in {', '.join(differing) or 'a type'}"


def _is_array(content: Mapping[str, Any]) -> bool:
    return content.get("node_type") == "array"


def _array(path: str, content: dict[str, Any]) -> ArrayDocument:
    try:
        return ArrayDocument.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise IntegrityError(f"{COHORT}/{path}/{DOCUMENT}: {_first(error)}") from error


def _group(path: str, content: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a group."""
    try:
        return _GroupDocument.model_validate_json(json.dumps(content), strict=True).attributes
    except ValidationError as error:
        raise IntegrityError(f"{COHORT}/{path}/{DOCUMENT}: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}"


def _check_storage(path: str, array: ArrayDocument, manifest: Manifest) -> Iterator[str]:
    """Type, codecs, fill value and chunks of an array, and whether the manifest lists each chunk."""
    name = f"{COHORT}/{path}"
    if array.data_type not in (*NUMBERS, "string"):
        yield f"{name}: must hold numbers, truths or text, holds {array.data_type}"
        return
    if fault := _fault_of_codecs(array):
        yield f"{name}: {fault}"
    fill = FILL.get(array.data_type, 0)
    if array.fill_value != fill or isinstance(array.fill_value, bool) != isinstance(fill, bool):
        yield f"{name}: must have the fill value {fill!r}, has {array.fill_value!r}"
    if len(array.chunks) != len(array.shape) or len(array.dimension_names) != len(array.shape):
        yield f"{name}: must have chunks and names for {len(array.shape)} axes, has others"
    elif any(chunk > size for chunk, size in zip(array.chunks, array.shape, strict=True)):
        yield f"{name}: must have chunks within its shape {array.shape}, has {array.chunks}"
    elif array.data_type != "string" and array.chunk_bytes > LARGEST_CHUNK:
        yield f"{name}: must have chunks of at most {LARGEST_CHUNK} bytes, has {array.chunk_bytes}"
    else:
        yield from _check_chunks(name, array, manifest)


def _fault_of_codecs(array: ArrayDocument) -> str | None:
    if array.data_type == "string":
        wanted = [{"name": "vlen-utf8", "configuration": {}}, {"name": "vlen-utf8"}]
    else:
        wanted = [{"name": "bytes", "configuration": {"endian": "little"}}]
        wanted += [{"name": "bytes"}, {"name": "bytes", "configuration": {}}] if array.dtype.itemsize == 1 else []
    last = array.codecs[-1] if array.codecs else {}
    settings = last.get("configuration")
    if last.get("name") != "zstd" or not isinstance(settings, dict) or settings.get("checksum") is not True:
        return "must be stored as zstd with checksum"
    if not isinstance(settings.get("level"), int) or settings.keys() - {"level", "checksum"}:
        return "must be stored as zstd with level and checksum alone"
    if len(array.codecs) != 2 or array.codecs[0] not in wanted:
        return f"must be stored little-endian and as zstd, by {wanted[0]}"
    return None


def _check_chunks(name: str, array: ArrayDocument, manifest: Manifest) -> Iterator[str]:
    """Each chunk is a file of the manifest; never counts further than that has files."""
    expected = math.prod(array.counts)
    if expected > len(manifest.files):
        yield f"{name}: must have {expected} chunks for its shape {array.shape}, the release has fewer files"
        return
    start = f"{name}/c"
    found = {file for file in manifest.files if file.startswith(start) and not file.endswith(DOCUMENT)}
    wanted = {f"{name}/{array.chunk_name(place)}": place[0] for place in np.ndindex(array.counts)}
    for file in sorted(wanted.keys() - found):
        what = f"volume {wanted[file]}" if len(array.shape) > 1 else "the values"
        yield f"{name}: the chunk of {what} is missing"
    for file in sorted(found - wanted.keys()):
        yield f"{file}: must be a chunk of its array, is none"


def _public(attributes: Mapping[str, Any]) -> _PublicContract:
    try:
        return _PublicContract.model_validate_json(json.dumps(attributes.get("contract")), strict=True)
    except ValidationError as error:
        raise IntegrityError(f"{COHORT}: contract.{_first(error)}") from error


def _contract(public: _PublicContract) -> Contract:
    """The grid, range and labels that the store names, as far as they are public."""
    if list(public.labels.values()) != list(range(1, len(public.labels) + 1)) or len(public.labels) > 255:
        raise IntegrityError(f"{COHORT}: contract.labels must be numbered from 1 to at most 255, are not")
    try:
        contract = Contract(
            spacing_mm=public.spacing_mm,
            size=public.size,
            intensity=IntensityMapping(**public.intensity.model_dump()),
            mask="none",
            labels={name: (value,) for name, value in public.labels.items()},
            conditions=(),
        )
    except ValidationError as error:
        raise IntegrityError(f"{COHORT}: contract.{_first(error)}") from error
    if not all(0 < spacing < 1e4 for spacing in contract.spacing_mm):
        raise IntegrityError(f"{COHORT}: contract.spacing_mm must be > 0 mm, is {contract.spacing_mm}")
    return contract


def _names_of_labels(groups: Mapping[str, dict[str, Any]]) -> list[str]:
    ome = groups.get("labels", {}).get("ome")
    names = ome.get("labels") if isinstance(ome, dict) else None
    if not isinstance(names, list) or len(names) != 1 or f"labels/{names[0]}" not in groups:
        raise IntegrityError(f"{COHORT}/labels: must list one group of label maps, lists {names!r}")
    return names


def _levels(group: str, groups: Mapping[str, dict[str, Any]], contract: Contract) -> Levels:
    """The levels that a group's multiscales name, each where contract and level put it.

    Raises:
        IntegrityError: they are not the levels of one image with the axes of a release, or lie elsewhere.
    """
    where = f"{COHORT}/{group}".rstrip("/")
    try:
        (scale,) = groups[group.rstrip("/")]["ome"]["multiscales"]
        axes = [(axis["name"], axis.get("unit")) for axis in scale["axes"]]
        datasets = [(dataset["path"], dataset["coordinateTransformations"]) for dataset in scale["datasets"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IntegrityError(f"{where}: must be an OME-Zarr with multiscales: {type(error).__name__}") from error
    if axes != [(AXES[0], None), *((axis, "millimeter") for axis in AXES[1:])]:
        raise IntegrityError(f"{where}: must have the axes {AXES} in millimetres, has others")
    if not 1 <= len(datasets) <= 8 or not all(isinstance(path, str) for path, _ in datasets):
        raise IntegrityError(f"{where}: must have 1 to 8 levels, has {len(datasets)}")
    factors = [_factors(contract, level) for level in range(len(datasets))]
    for (path, found), factor in zip(datasets, factors, strict=True):
        if fault := _fault_of_place(found, contract, factor):
            raise IntegrityError(f"{where}: the place of {path} must be that of the contract, {fault}")
    return Levels(tuple(group + path for path, _ in datasets), tuple(factors))


def _factors(contract: Contract, level: int) -> Factors:
    x, y, z = (factor**level for factor in smaller_by(contract))
    return z, y, x


def _fault_of_place(found: Any, contract: Contract, factors: Factors) -> str | None:
    """Of the scale and translation of a level in world coordinates; None if they are right."""
    spacing = np.array(contract.spacing_mm[::-1])
    origin = affine_of(contract)[:3, 3][::-1] + spacing * (np.array(factors) - 1) / 2
    wanted = {"scale": [1.0, *(spacing * factors)], "translation": [0.0, *origin]}
    if not isinstance(found, list) or [type(one) for one in found] != [dict, dict]:
        return "has not two transformations"
    for one, (kind, values) in zip(found, wanted.items(), strict=True):
        if one.keys() != {"type", kind} or one["type"] != kind or not _is_close(one[kind], values):
            return f"the {kind} is {one.get(kind)!r} instead of {[round(float(value), 6) for value in values]}"
    return None


def _is_close(found: Any, wanted: Any) -> bool:
    try:
        numbers = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return False
    return numbers.shape == np.shape(wanted) and bool(np.allclose(numbers, wanted, rtol=1e-9, atol=1e-9))


def _check_affine(attributes: Mapping[str, Any], contract: Contract) -> Iterator[str]:
    if not _is_close(attributes.get("affine"), affine_of(contract)):
        yield f"{COHORT}: the affine must be that of the contract's spacing and size, is another"


def _check_meaning(attributes: Mapping[str, Any], contract: Contract) -> list[str]:
    """Whether label values mean in the label maps what they mean in the contract."""
    try:
        rows = attributes["ome"]["image-label"]["properties"]
        names = {row["name"]: row["label-value"] for row in rows}
    except (KeyError, TypeError) as error:
        return [f"{COHORT}/labels: must say what each value means: {type(error).__name__}"]
    wanted = {name: value for value, name in enumerate(contract.labels, start=1)}
    return [] if names == wanted else [f"{COHORT}/labels: the values must mean what they mean in the contract, do not"]


def _check_levels(layout: Layout, levels: Levels, kind: str, samples: int) -> Iterator[str]:
    full = layout.contract.size[::-1]
    for path, factors in zip(levels.paths, levels.factors, strict=True):
        if (array := layout.arrays.get(path)) is None:
            yield f"{COHORT}/{path}: the array is missing"
            continue
        shape = (samples, *(-(-size // factor) for size, factor in zip(full, factors, strict=True)))
        if array.shape != shape or array.chunks != (1, *shape[1:]):
            found = f"shape {array.shape} in chunks of {array.chunks}"
            yield f"{COHORT}/{path}: must hold {samples} volumes of {shape[1:]}, one chunk each, has {found}"
        if array.data_type != kind or array.dimension_names != AXES:
            yield f"{COHORT}/{path}: must be {kind} along {AXES}, is {array.data_type} along {array.dimension_names}"
