"""Writing and verifying a release beside the disk and the hash, and their memory as the cohort grows.

    python tests/benchmarks/releasing.py [--spacing-mm 2] [--volumes 60]
    python tests/benchmarks/releasing.py --memory [--samples 100 1000 10000] [--size 12]

Volumes are phantoms with label maps, a few of them over and over. "The disk" writes the very files of a finished store
again, from memory, by a plain write of each; "durable" also waits until each file and folder is on the disk, which
publishing a release does. "The hash" is SHA-256 of every file of the release, one after the other. Contenders take
turns in one run; beside the time stands the processor's, which other programs disturb less. With --memory each size is
built and verified in processes of their own, and their largest memory counts; volumes are cubes then, so that their
number is what grows.
"""

import argparse
import hashlib
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Generator
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from meddiff_core.contract import Contract, IntensityMapping
from meddiff_core.evidence.gates import GateResult
from meddiff_core.phantoms.scan import make_phantom
from meddiff_core.release.build import build_release
from meddiff_core.release.content import Counts, ReleaseContent
from meddiff_core.release.ome import COHORT, write_cohort
from meddiff_core.release.participants_table import public_table
from meddiff_core.release.verify import Depth, check_release

ROUNDS, DIFFERENT = 3, 4
Taken = tuple[float, float]
"""Seconds by the clock and of the processor."""
LABELS = ("ventricles", "cortex", "white_matter", "deep_grey", "cerebellum_brainstem")
IDENTIFIERS = [f"ID-{number:05d}_scan" for number in range(1000)]
"""Names that the finished release is searched for, as many as a study of a thousand scans has."""


class Repeated:
    """A few stored volumes, each many times."""

    def __init__(self, images: list[NDArray[np.uint8]], labels: list[NDArray[np.uint8]], count: int) -> None:
        self.images, self.labels, self.count = images, labels, count

    def __len__(self) -> int:
        return self.count

    def image(self, index: int) -> NDArray[np.uint8]:
        return self.images[index % len(self.images)]

    def label(self, index: int) -> NDArray[np.uint8]:
        return self.labels[index % len(self.labels)]


def phantoms(count: int, spacing_mm: float) -> Repeated:
    made = [make_phantom(seed, 30 + 10 * seed, "M", spacing_mm) for seed in range(DIFFERENT)]
    images = [np.clip(one.image / np.percentile(one.image, 99.9) * 255, 0, 255).astype(np.uint8) for one in made]
    return Repeated(images, [one.label for one in made], count)


def cubes(count: int, side: int) -> Repeated:
    random = np.random.default_rng(0)
    images = [random.integers(0, 255, (side,) * 3, np.uint8) for _ in range(DIFFERENT)]
    return Repeated(images, [(image // 43).astype(np.uint8) for image in images], count)


def content_of(volumes: Repeated) -> ReleaseContent:
    """As little as a release may hold beside its volumes: a table, and one gate that passed."""
    count, size = len(volumes), volumes.image(0).shape
    contract = Contract(
        spacing_mm=1.0, size=size, mask="label", labels={name: (n,) for n, name in enumerate(LABELS, start=1)},
        intensity=IntensityMapping(modality="MR", low=0, high=1000, percentiles=(0.5, 99.5)), conditions=(),
    )  # type: ignore[arg-type]  # fmt: skip
    table = pd.DataFrame({"sample_id": [f"head-{n:06d}" for n in range(count)], "seed": range(count)})
    for value, name in enumerate(LABELS, start=1):
        counts = [float((label == value).sum()) for label in volumes.labels]
        table[f"{name}_mm3"] = [counts[n % len(counts)] for n in range(count)]
    gate = GateResult(
        metric="copies_excess", value=0.0, bound=0.01, threshold=0.05, direction="max", passed=True, verdict="pass", n=9
    )
    return ReleaseContent(
        title="Heads", name="heads", version="1.0.0", licence="CC0", contact="nobody", source="Formulas.",
        contract=contract, volumes=volumes, table=table, gates=(gate,), metrics=(), histograms=(), methods=(),
        parents={}, study={}, versions={}, preset="trial", counts=Counts(candidates=count, accepted=count),
    )  # fmt: skip


def run(work: Generator[Any, None, Any]) -> Any:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def write_plainly(files: dict[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def make_durable(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def verify(release: Path, share: float = 0) -> None:
    found = run(check_release(release, Depth(volumes=share)))
    assert not found.faults, found.faults[:3]


def hash_files(paths: list[str]) -> None:
    for path in paths:
        with open(path, "rb") as file:
            hashlib.file_digest(file, "sha256").hexdigest()


def compare(volumes: Repeated, scratch: Path) -> None:
    content = content_of(volumes)
    release = run(build_release(content, scratch / "releases", IDENTIFIERS))
    store = release / COHORT
    files = {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    paths = [str(path) for path in release.rglob("*") if path.is_file()]
    table = public_table(content.table)

    def ours(folder: Path) -> None:
        run(write_cohort(folder, volumes, table, content.contract, "Heads"))

    writing: dict[str, Callable[[Path], None]] = {
        "the disk": lambda folder: write_plainly(files, folder),
        "the arrays of a release": ours,
        "the disk, durable": lambda folder: (write_plainly(files, folder), make_durable(folder))[0],
        "the arrays, durable": lambda folder: (ours(folder), make_durable(folder))[0],
    }
    reading: dict[str, Callable[[Path], None]] = {
        "the hash": lambda _: hash_files(paths),
        "verify": lambda _: verify(release),
        "verify --deep": lambda _: verify(release, 1.0),
    }
    total = sum(map(len, files.values()))
    print(f"{len(volumes)} volumes of {content.contract.size}: {len(files)} files, {total / 1e6:.1f} MB")
    for group in (writing, reading):
        show(take_turns(group, scratch), len(volumes), total)


def take_turns(group: dict[str, Callable[[Path], None]], scratch: Path) -> dict[str, list[Taken]]:
    taken: dict[str, list[Taken]] = {name: [] for name in group}
    for _ in range(ROUNDS):
        for name, work in group.items():
            folder = scratch / "written"
            started = time.perf_counter(), time.process_time()
            work(folder)
            taken[name].append((time.perf_counter() - started[0], time.process_time() - started[1]))
            shutil.rmtree(folder, ignore_errors=True)
    return taken


def show(taken: dict[str, list[Taken]], volumes: int, total: int) -> None:
    """Each beside the one above it that starts with "the"."""
    beside = 1.0, 1.0
    for name, times in taken.items():
        clock, processor = (median(kind) for kind in zip(*times, strict=True))
        if name.startswith(("the disk", "the hash")):
            beside = clock, processor
        print(f"  {name:<26} {clock / volumes * 1000:8.2f} ms a volume, {clock / beside[0]:6.2f} times;"
              f" processor {processor / volumes * 1000:8.2f} ms, {processor / beside[1]:6.2f} times;"
              f" {total / clock / 1e6:8.1f} MB/s")  # fmt: skip


def memory(counts: list[int], side: int) -> None:
    """Largest memory of each process, which imported the same modules as the one of no volume."""
    with TemporaryDirectory(prefix="meddiff-releasing-") as scratch:
        for count in counts:
            folder = Path(scratch) / str(count)
            shown = [f"{count} volumes"]
            for name, work in (("build", _build), ("verify", _verify), ("verify --deep", _verify_deep)):
                with get_context("spawn").Pool(1) as pool:
                    megabytes, seconds = pool.apply(_measured, (work, folder, count, side))
                shown.append(f"{name} {megabytes:.0f} MB, {seconds:.1f} s")
            bytes_of = (folder / "heads-1.0.0/manifest.json").stat().st_size
            print(f"{'; '.join(shown)}; manifest {bytes_of / 1e6:.2f} MB", flush=True)
            shutil.rmtree(folder)


def _measured(work: Callable[[Path, int, int], None], folder: Path, count: int, side: int) -> tuple[float, float]:
    started = time.perf_counter()
    work(folder, count, side)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000, time.perf_counter() - started


def _build(folder: Path, count: int, side: int) -> None:
    run(build_release(content_of(cubes(count, side)), folder, IDENTIFIERS))


def _verify(folder: Path, count: int, side: int) -> None:
    verify(folder / "heads-1.0.0")


def _verify_deep(folder: Path, count: int, side: int) -> None:
    verify(folder / "heads-1.0.0", 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spacing-mm", type=float, default=2.0)
    parser.add_argument("--volumes", type=int, default=60)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--samples", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--size", type=int, default=12)
    options = parser.parse_args()
    if options.memory:
        memory(options.samples, options.size)
        return
    with TemporaryDirectory(prefix="meddiff-releasing-") as scratch:
        compare(phantoms(options.volumes, options.spacing_mm), Path(scratch))


if __name__ == "__main__":
    sys.exit(main())
