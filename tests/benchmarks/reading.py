"""Random volumes of a release beside the same volumes as .nii.gz read by nibabel, and through plain zarr.

    python tests/benchmarks/reading.py [--size 64 64 64] [--volumes 24] [--release FOLDER]

All contenders give float32 (i, j, k) of the same voxels and take turns in one run, with the files in the
operating system's cache. "First" is the first read of a volume by a process, which hashes it; "again" is any later
one. Batches hold eight volumes. A loader has batches of four and workers that persist, and is timed in its later
epochs; "items" are dictionaries with MONAI's tensors, from the release and by MONAI's LoadImaged. Without --release,
smooth heads of the given size are written first.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import torch
import zarr
from scipy import ndimage
from torch.utils.data import DataLoader, Dataset

from meddiff_core.artefacts import write_json
from meddiff_core.contract import Contract, IntensityMapping
from meddiff_core.parquet import write_parquet
from meddiff_core.release import open_release
from meddiff_core.release.dataset import CohortDataset
from meddiff_core.release.manifest import FORMAT, MANIFEST, Manifest, list_files
from meddiff_core.release.ome import COHORT, write_cohort
from meddiff_core.release.participants_table import TABLE
from meddiff_core.release.reader import Release

Size = tuple[int, int, int]
ROUNDS, BATCH = 3, 8


class Heads:
    """Smooth ellipsoids with grain, background 0; no label maps, as the files beside them have none."""

    def __init__(self, count: int, size: Size) -> None:
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def image(self, index: int) -> Any:
        random = np.random.default_rng(index)
        axes = np.meshgrid(*(np.linspace(-1.2, 1.2, side) for side in self.size), indexing="ij", sparse=True)
        inside = sum(axis**2 for axis in axes) < 1
        tissue = ndimage.zoom(random.random((5, 5, 5)), np.array(self.size) / 5, order=1)
        grain = ndimage.gaussian_filter(random.standard_normal(self.size, dtype=np.float32), 0.8)
        return np.where(inside, np.clip(9000 + 40000 * tissue + 6000 * grain, 0, 65535), 0).astype(np.uint16)

    def label(self, index: int) -> None:
        return None


def write_release(folder: Path, count: int, size: Size) -> Path:
    contract = Contract(
        spacing_mm=1.0, size=size, mask="none", labels={}, conditions=(),
        intensity=IntensityMapping(modality="MR", low=0, high=1000, percentiles=(1, 99)),
    )  # fmt: skip
    table = pd.DataFrame({"participant_id": [f"head-{n:06d}" for n in range(count)], "seed": range(count)})
    for _ in write_cohort(folder / COHORT, Heads(count, size), table, contract, "Heads"):
        pass
    write_parquet(folder / TABLE, table)
    manifest = Manifest(
        format=FORMAT, name="heads", version="1.0.0", title="Heads", licence="CC0", preset="trial", samples=count,
        counts={}, parents={}, study={}, versions={}, files=list_files(folder),
    )  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    return folder


def write_nifti(release: Release, folder: Path) -> list[Path]:
    """The released integers, one file a volume, as nibabel compresses them."""
    folder.mkdir()
    paths = [folder / f"{release.participant_id(index)}.nii.gz" for index in range(len(release))]
    for index, path in enumerate(paths):
        nibabel.save(nibabel.Nifti1Image(release.image(index).astype(np.int16), release.affine), path)
    return paths


def read_nifti(path: Path) -> Any:
    return np.asarray(nibabel.load(path).dataobj, dtype=np.float32)


class Niftis(Dataset[dict[str, Any]]):
    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": torch.from_numpy(read_nifti(self.paths[index]))[None]}


class Images(Dataset[dict[str, Any]]):
    """What the files hold and no more, so that the loaders are compared and not MONAI's tensors."""

    collate = staticmethod(CohortDataset.collate)

    def __init__(self, release: Release) -> None:
        self.release = release

    def __len__(self) -> int:
        return len(self.release)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": torch.from_numpy(self.release.image(index))[None]}


def monai_items(paths: Sequence[Path]) -> Dataset[Any]:
    from monai.data import Dataset as MonaiDataset
    from monai.transforms import LoadImaged

    return MonaiDataset([{"image": str(path)} for path in paths], LoadImaged("image", ensure_channel_first=True))


def epochs(data: Dataset[Any], workers: int) -> Iterator[None]:
    """An epoch per step; the workers stay."""
    collate = getattr(data, "collate", None)
    loader = DataLoader(
        data, batch_size=4, num_workers=workers, persistent_workers=True, shuffle=True, collate_fn=collate
    )
    while True:
        for _ in loader:
            pass
        yield


def contenders(release: Release, paths: Sequence[Path], order: Sequence[int]) -> dict[str, Callable[[], object]]:
    """What is timed, by name; each reads every volume once, in a random order."""
    array = zarr.open_group(release.path / COHORT, mode="r")["image"]
    assert isinstance(array, zarr.Array)
    batches = [list(order[start : start + BATCH]) for start in range(0, len(order), BATCH)]

    def first() -> None:
        fresh = Release(release.path)
        fresh.__dict__ |= {"manifest": release.manifest}  # read once, when a release is opened
        [fresh.image(index) for index in order]

    one_by_one: dict[str, Callable[[], object]] = {
        "nibabel": lambda: [read_nifti(paths[index]) for index in order],
        "zarr": lambda: [np.ascontiguousarray(array[index].T, dtype=np.float32) for index in order],
        "meddiff: first": first,
        "meddiff: again": lambda: [release.image(index) for index in order],
        "nibabel: batches": lambda: [np.stack([read_nifti(paths[index]) for index in batch]) for batch in batches],
        "meddiff: batches": lambda: [release.images(batch) for batch in batches],
    }
    loaders: dict[str, Dataset[Any]] = {
        "nibabel": Niftis(paths),
        "meddiff": Images(release),
        "MONAI, items": monai_items(paths),
        "meddiff, items": release.dataset(),
    }
    for workers in (1, 2):
        for name, data in loaders.items():
            one_by_one[f"{name}: {workers} workers"] = partial(next, epochs(data, workers))
    return one_by_one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs=3, type=int, default=(64, 64, 64), metavar="VOXELS")
    parser.add_argument("--volumes", type=int, default=24)
    parser.add_argument("--release", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory(prefix="meddiff-reading-") as scratch:
        i, j, k = options.size
        folder = options.release or write_release(Path(scratch) / "heads", options.volumes, (i, j, k))
        compare(open_release(folder), Path(scratch) / "nifti")


def compare(release: Release, scratch: Path) -> None:
    paths = write_nifti(release, scratch)
    order = np.random.default_rng(0).permutation(len(release)).tolist()
    assert all(np.array_equal(read_nifti(path), release.image(index)) for index, path in enumerate(paths))
    timed = contenders(release, paths, order)
    taken: dict[str, list[float]] = {name: [] for name in timed}
    for work in timed.values():
        work()
    for _ in range(ROUNDS):
        for name, work in timed.items():
            started = time.perf_counter()
            work()
            taken[name].append((time.perf_counter() - started) * 1000 / len(order))
    stored = sum(entry.bytes for name, entry in release.manifest.files.items() if "/image/c" in name)
    gzipped = sum(path.stat().st_size for path in paths)
    print(f"{release.contract['size']}, {len(release)} volumes, {stored / gzipped:.2f} of the bytes of .nii.gz")
    for name, times in taken.items():
        way = name.partition(": ")[2]
        beside = taken["nibabel" + (f": {way}" if way not in ("first", "again") else "")] if way else taken["nibabel"]
        print(f"{name:<28} {median(times):8.2f} ms a volume, {median(beside) / median(times):5.1f} x nibabel")


if __name__ == "__main__":
    main()
