"""One OME-Zarr 0.5 for each volume, for viewers that know no axis of samples.

A volume of a release is one compressed chunk, and its checksum is inside. It is moved as it lies, so voxels cannot
change on the way; what is written anew is the metadata around it, the same for each volume but for its name.
"""

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from meddiff_core.distribution.exports.cohort import ExportedVolume
from meddiff_core.distribution.exports.format import ExportFormat
from meddiff_core.distribution.exports.papers import write_papers, write_table
from meddiff_core.errors import IntegrityError
from meddiff_core.release.colours import label_colours
from meddiff_core.release.ome import COHORT, LABELS, LEVEL, SEPARATOR, SMALLER, factors_of
from meddiff_core.release.reader import IMAGE, LABEL

AXES = ("z", "y", "x")
VERSION = "0.5"
CHUNK = SEPARATOR.join("c000")
"""Name of the only chunk of a volume."""
OF_LABELS = f"labels/{LABELS}"


@dataclass(frozen=True)
class Chunks:
    """A volume as it lies in the release: the only chunk of each array, by the array's place in the export."""

    by_path: dict[str, bytes]


class OmeZarrExport(ExportFormat):
    """`LABEL.ome.zarr` for each volume."""

    title = "OME-Zarr"

    @cached_property
    def places(self) -> dict[str, str]:
        """Where each array of the release goes. A release may lack smaller copies, or have them elsewhere."""
        known = {IMAGE: "0", SMALLER: "1"}
        if self.cohort.names:
            known |= {LABEL: f"{OF_LABELS}/0"}
            known |= dict.fromkeys((f"{OF_LABELS}/{SMALLER}", f"{OF_LABELS}/1"), f"{OF_LABELS}/1")
        files = self.cohort.release.manifest.files
        return {name: place for name, place in known.items() if f"{COHORT}/{name}/zarr.json" in files}

    def read(self, volume: ExportedVolume) -> Chunks:
        """The chunks of a volume, held against the manifest and not decoded."""
        release = self.cohort.release
        return Chunks({place: release.chunk(name, volume.row) for name, place in self.places.items()})

    def write_volume(self, folder: Path, volume: ExportedVolume, content: Any) -> list[Path]:
        """The store of a volume; its root comes last."""
        store = folder / f"{volume.label}.ome.zarr"
        shutil.rmtree(store, ignore_errors=True)
        files = {f"{place}/{CHUNK}": chunk for place, chunk in content.by_path.items()}
        files |= self._documents | {"zarr.json": self._root(volume)}
        for name, data in files.items():
            path = store / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return [store / name for name in files]

    def _root(self, volume: ExportedVolume) -> bytes:
        covariates = self.cohort.release.covariates(volume.row)
        known = {name: None if value != value or value == "n/a" else value for name, value in covariates.items()}
        low, high = self.cohort.range
        window = {"min": low, "max": high, "start": low, "end": high}
        ome = {
            "version": VERSION,
            "multiscales": [self._multiscale(volume.label, "")],
            "omero": {
                "channels": [{"label": self.cohort.modality, "color": "FFFFFF", "active": True, "window": window}],
                "rdefs": {"model": "greyscale", "defaultZ": self._shape(IMAGE)[0] // 2},
            },
        }
        attributes = {
            "ome": ome,
            "sample_id": volume.sample,
            "affine": self.cohort.affine.tolist(),
            "labels": self.cohort.names,
            "covariates": known,
            "provenance": self.cohort.provenance,
        }
        group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        return json.dumps(group, ensure_ascii=False, indent=1, allow_nan=False).encode()

    @cached_property
    def _documents(self) -> dict[str, bytes]:
        """Metadata of everything below the root."""
        memory: dict[str, Any] = {}
        root = zarr.create_group(MemoryStore(memory))
        if self.cohort.names:
            root.create_group("labels", attributes={"ome": {"version": VERSION, "labels": [LABELS]}})
            root.create_group(f"labels/{LABELS}", attributes={"ome": self._label_metadata()})
        for name, place in self.places.items():
            array, shape = self.cohort.release.array(name), self._shape(name)
            if array.dtype != (np.int16 if name in (IMAGE, SMALLER) else np.uint8):
                raise IntegrityError(f"{COHORT}/{name} must hold int16 or, for label maps, uint8; holds {array.dtype}")
            root.create_array(
                place,
                shape=shape,
                chunks=shape,
                dtype=array.dtype,
                compressors=ZstdCodec(level=LEVEL, checksum=True),
                chunk_key_encoding={"name": "default", "separator": SEPARATOR},
                dimension_names=AXES,
            )
        return {name: buffer.to_bytes() for name, buffer in memory.items() if name != "zarr.json"}

    def _shape(self, name: str) -> tuple[int, ...]:
        array = self.cohort.release.array(name)
        if array.chunks != (1, *array.shape[1:]):
            raise IntegrityError(f"{COHORT}/{name} must hold one chunk a volume, has chunks of {array.chunks}")
        return tuple(array.shape[1:])

    def _label_metadata(self) -> dict[str, Any]:
        names = self.cohort.names
        colours = zip(names.values(), label_colours(len(names)), strict=True)
        return {
            "version": VERSION,
            "multiscales": [self._multiscale(LABELS, f"{OF_LABELS}/")],
            "image-label": {
                "colors": [{"label-value": value, "rgba": [*colour, 255]} for value, colour in colours],
                "properties": [{"label-value": value, "name": name} for name, value in names.items()],
                "source": {"image": "../../"},
            },
        }

    def _multiscale(self, name: str, within: str) -> dict[str, Any]:
        spacing = np.diag(self.cohort.affine)[:3]
        if not np.allclose(self.cohort.affine[:3, :3], np.diag(spacing), atol=1e-9) or min(spacing) <= 0:
            raise IntegrityError("the affine must have its axes along right, anterior and superior for OME-Zarr")
        x, y, z = (float(step) for step in spacing)
        datasets = []
        levels = {"0": (1, 1, 1), "1": factors_of((x, y, z))}
        for path in [path for path in levels if f"{within}{path}" in self.places.values()]:
            factors = levels[path]
            scale = spacing * factors
            origin = self.cohort.affine[:3, 3] + (scale - spacing) / 2
            place = [
                {"type": "scale", "scale": scale[::-1].tolist()},
                {"type": "translation", "translation": origin[::-1].tolist()},
            ]
            datasets.append({"path": path, "coordinateTransformations": place})
        axes = [{"name": axis, "type": "space", "unit": "millimeter"} for axis in AXES]
        return {"name": name, "axes": axes, "datasets": datasets}

    def finish(self, folder: Path) -> None:
        """The table and the page."""
        write_table(folder, self.cohort.table(), self.cohort.describe_columns())
        files = {
            "`*.ome.zarr`": f"OME-Zarr {VERSION}, axes z, y, x (RAS+, mm): int16, {self.cohort.unit}"
            + ("; label maps in `labels/`" if self.cohort.names else "")
        }
        write_papers(folder, self.cohort, self.title, files)
