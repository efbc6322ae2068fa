"""What the metadata of a store promise, read without zarr and held against each other and the contract.

Every reader trusts the consolidated copy in the root, so an array can be right in its own `zarr.json` and wrong for all
of them: another byte order there gives other voxels without a word. Here both must agree, each array must be what
contract and manifest make it, and its chunks must be of a size that can be decoded, before one of them is read.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from meddiff_core.contract import Contract
from meddiff_core.data.frames import decompress
from meddiff_core.errors import IntegrityError
from meddiff_core.objects.location import Location
from meddiff_core.release.bounded import first_fault, read_bounded, read_json
from meddiff_core.release.checks.array_document import DOCUMENT, LARGEST_CHUNK, ArrayDocument, check_storage
from meddiff_core.release.checks.multiscales import Levels, labels_of, levels_of
from meddiff_core.release.manifest import Manifest
from meddiff_core.release.ome import AXES, COHORT
from meddiff_core.release.public_contract import PublicCondition, check_affine, read_public_contract

MOST_METADATA = 64 << 20
"""Bytes of all metadata of a store together."""


class _GroupDocument(BaseModel):
    model_config = ConfigDict(extra="forbid")

    zarr_format: Literal[3]
    node_type: Literal["group"]
    attributes: dict[str, Any] = {}
    consolidated_metadata: Any = None


@dataclass(frozen=True)
class Layout:
    """What a store holds."""

    store: Location
    contract: Contract
    conditions: tuple[PublicCondition, ...]
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


def read_layout(store: Location, manifest: Manifest) -> tuple[Layout | None, list[str]]:
    """What a store holds, or None and what is wrong with its metadata."""
    documents = _read_documents(store, manifest)
    faults = [*_check_copies(documents)]
    arrays = {path: parse_array(path, content) for path, content in documents.items() if _is_array(content)}
    groups = {path: _group(path, content) for path, content in documents.items() if not _is_array(content)}
    for path, array in arrays.items():
        faults += check_storage(path, array, manifest)
    if faults:
        return None, faults
    if "" not in groups:
        raise IntegrityError(f"{COHORT}: must be a group, is an array")
    contract, conditions = read_public_contract(groups[""])
    check_affine(groups[""], contract)
    image, (labels, faults) = levels_of("", groups, contract), labels_of(groups, contract)
    layout = Layout(store, contract, conditions, arrays, image, labels)
    for levels, kind in ((image, "int16"), (labels, "uint8")):
        faults += _check_levels(layout, levels, kind, manifest.samples) if levels else []
    return layout, faults


def _read_documents(store: Location, manifest: Manifest) -> dict[str, dict[str, Any]]:
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


def parse_array(path: str, content: dict[str, Any]) -> ArrayDocument:
    """zarr.json of an array; an IntegrityError if it is none of a release."""
    try:
        return ArrayDocument.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise IntegrityError(f"{COHORT}/{path}/{DOCUMENT}: {first_fault(error)}") from error


def _group(path: str, content: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a group."""
    try:
        return _GroupDocument.model_validate_json(json.dumps(content), strict=True).attributes
    except ValidationError as error:
        raise IntegrityError(f"{COHORT}/{path}/{DOCUMENT}: {first_fault(error)}") from error


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
        if array.attributes:  # xarray scales, shifts and masks by some
            yield f"{COHORT}/{path}: must have no attributes, has {', '.join(array.attributes)}"
