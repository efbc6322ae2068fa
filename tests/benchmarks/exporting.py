"""Each export beside the format's own library alone, writing the same bytes.

    python tests/benchmarks/exporting.py [--size 128 144 128] [--volumes 4] [--only dicom]

The library gets voxels in memory and writes files of the same content one after another. The export also opens the
release, decompresses and hashes every chunk, and writes tables and papers. The files of both are brought to the disk.
Both take turns in one run. For DICOM the library is pydicom, which writes data sets that lie in memory; the export
makes them first, the segmentation by highdicom.
"""

import argparse
import hashlib
import io
import os
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pydicom
import zarr
from zarr.codecs import ZstdCodec

from meddiff_core.artefacts import write_json
from meddiff_core.contract import Contract, IntensityMapping
from meddiff_core.distribution.exports.export import export_release
from meddiff_core.parquet import write_parquet
from meddiff_core.release import open_release
from meddiff_core.release.manifest import FORMAT, MANIFEST, Manifest, list_files
from meddiff_core.release.ome import COHORT, write_cohort
from meddiff_core.release.participants_table import TABLE
from meddiff_core.release.reader import Release

Size = tuple[int, int, int]
ROUNDS = 3


class Heads:
    """Noise in an ellipsoid, background 0, with a label map of two structures."""

    def __init__(self, count: int, size: Size) -> None:
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def label(self, index: int) -> Any:
        axes = np.meshgrid(*(np.linspace(-1.2, 1.2, side) for side in self.size), indexing="ij", sparse=True)
        radius = sum(axis**2 for axis in axes)
        return np.where(radius < 0.3, 2, np.where(radius < 1, 1, 0)).astype(np.uint8)

    def image(self, index: int) -> Any:
        grain = np.random.default_rng(index).integers(0, 40, self.size)
        return np.where(self.label(index), 80 * self.label(index) + grain, 0).astype(np.uint8)


def write_release(folder: Path, count: int, size: Size) -> Release:
    contract = Contract(
        spacing_mm=1.0, size=size, mask="none", labels={"outer": (1,), "inner": (2,)}, conditions=(),
        intensity=IntensityMapping(modality="MR", low=0, high=1000, percentiles=(1, 99)),
    )  # fmt: skip
    table = pd.DataFrame({"participant_id": [f"head-{n:06d}" for n in range(count)]})
    for _ in write_cohort(folder / COHORT, Heads(count, size), table, contract, "Heads"):
        pass
    write_parquet(folder / TABLE, table)
    write_json(folder / "participants.json", {"participant_id": {"Description": "The volume."}})
    (folder / "README.md").write_text("# Heads\n")
    manifest = Manifest(
        format=FORMAT, name="heads", version="1.0.0", title="Heads", licence="CC0", preset="trial", samples=count,
        counts={}, parents={}, study={}, versions={}, files=list_files(folder),
    )  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    return open_release(folder)


def export(release: Release, folder: Path, name: Any) -> None:
    fresh = Release(release.source)
    for _ in export_release(fresh, folder, name):
        pass


def bring_to_disk(folder: Path) -> None:
    for path in folder.rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def by_nibabel(release: Release) -> Callable[[Path], None]:
    pairs = [(release.integers(n), release.label(n)) for n in range(len(release))]

    def write(folder: Path) -> None:
        for number, pair in enumerate(pairs):
            for name, voxels in zip(("image", "label"), pair, strict=True):
                nibabel.save(nibabel.Nifti1Image(voxels, release.affine), folder / f"{name}{number}.nii.gz")

    return write


def by_pydicom(release: Release, scratch: Path) -> Callable[[Path], None]:
    export(release, scratch / "dicom", "dicom")
    images = [pydicom.dcmread(path) for path in sorted((scratch / "dicom").rglob("*.dcm"))]
    for image in images:
        _ = list(image.iterall())  # decoded, as data sets are that a program made

    def write(folder: Path) -> None:
        for number, image in enumerate(images):
            pydicom.dcmwrite(folder / f"{number}.dcm", image, enforce_file_format=True)

    return write


def by_tar(release: Release) -> Callable[[Path], None]:
    volumes = [(release.integers(n), release.label(n)) for n in range(len(release))]

    def write(folder: Path) -> None:
        with tarfile.open(folder / "volumes.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, pair in enumerate(volumes):
                for name, voxels in zip(("image", "label"), pair, strict=True):
                    buffer = io.BytesIO()
                    np.save(buffer, voxels)
                    info = tarfile.TarInfo(f"{number}.{name}.npy")
                    info.size = buffer.tell()
                    buffer.seek(0)
                    tar.addfile(info, buffer)
        with (folder / "volumes.tar").open("rb") as file:
            hashlib.file_digest(file, "sha256")

    return write


def by_zarr(release: Release) -> Callable[[Path], None]:
    pairs = [(release.integers(n).T, release.label(n).T) for n in range(len(release))]  # type: ignore[union-attr]

    def write(folder: Path) -> None:
        for number, pair in enumerate(pairs):
            group = zarr.create_group(folder / f"{number}.ome.zarr")
            for name, voxels in zip(("0", "labels/structures/0"), pair, strict=True):
                codec = ZstdCodec(level=5, checksum=True)
                group.create_array(name, data=voxels, chunks=voxels.shape, compressors=codec)

    return write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs=3, type=int, default=(128, 144, 128), metavar="VOXELS")
    parser.add_argument("--volumes", type=int, default=4)
    parser.add_argument("--only", help="one format")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="meddiff-exporting-") as name:
        scratch = Path(name)
        release = write_release(scratch / "release", options.volumes, tuple(options.size))
        alone: dict[str, Callable[[], Callable[[Path], None]]] = {
            "nifti": lambda: by_nibabel(release),
            "webdataset": lambda: by_tar(release),
            "ome-zarr": lambda: by_zarr(release),
            "dicom": lambda: by_pydicom(release, scratch),
        }
        for name, make in alone.items():
            if options.only in (None, name):
                compare(name, release, make(), scratch)


def compare(name: str, release: Release, alone: Callable[[Path], None], scratch: Path) -> None:
    taken: dict[str, list[float]] = {"alone": [], "export": []}
    for _ in range(ROUNDS + 1):
        for way, times in taken.items():
            folder = scratch / "out"
            started = time.perf_counter()
            if way == "export":
                export(release, folder, name)
            else:
                folder.mkdir()
                alone(folder)
                bring_to_disk(folder)
            times.append((time.perf_counter() - started) * 1000 / len(release))
            shutil.rmtree(folder)
    library, ours = (median(times[1:]) for times in taken.values())
    print(
        f"{name:<12} {library:8.1f} ms a volume alone, {ours:8.1f} ms exported, {ours / library:5.2f} times", flush=True
    )


if __name__ == "__main__":
    main()
