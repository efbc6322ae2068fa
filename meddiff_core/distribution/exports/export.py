"""A release written in another format: chosen volumes, one at a time, in steps that a restart continues.

The next volume is read while the last one is written, so memory holds two of them however large the release is.
"""

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

from meddiff_core.distribution.exports.cohort import Cohort, Selection
from meddiff_core.distribution.exports.destination import writing_export
from meddiff_core.distribution.exports.format import ExportFormat
from meddiff_core.errors import ConfigurationError, MeddiffError
from meddiff_core.release.reader import Release
from meddiff_core.types import Progress

FormatName = Literal["nifti", "bids", "nnunet", "dicom", "webdataset", "ome-zarr"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)
EXTRAS = {"highdicom": "pip install 'meddiff[dicom-export]'"}
"""How to install what an export needs, where it is no package of that name."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    volumes: int
    of: int
    title: str


def check_format(text: str) -> FormatName:
    """The name of a format.

    Raises:
        ConfigurationError: there is no such format.
    """
    for name in FORMATS:
        if text == name:
            return name
    raise ConfigurationError(f"--format: must be one of {', '.join(FORMATS)}, got {text[:40]!r}")


def export_release(
    release: Release,
    destination: Path,
    name: FormatName,
    selection: Selection | None = None,
    suffix: str | None = None,
) -> Generator[Progress, None, Exported]:
    """Write volumes of a release as `destination`; yields after each.

    Args:
        release: The release, in a folder or behind a URL.
        destination: A new or empty folder. It appears when all is written.
        name: One of `FORMATS`.
        selection: Which volumes, and how they are split; all by default.
        suffix: The contrast of MR images, for BIDS alone.

    Raises:
        ConfigurationError: the format cannot hold this release, or the destination is not free.
        IntegrityError: a volume is missing or altered; the message names it.
        MeddiffError: the disk is full, or a library is missing.
    """
    cohort = Cohort(release, selection or Selection())
    chosen = _format(name, cohort, destination.absolute(), suffix)
    request: dict[str, Any] = {"format": name, "suffix": suffix, "provenance": cohort.provenance}
    request |= {"volumes": [[volume.row, volume.side] for volume in cohort.volumes]}
    with writing_export(destination, release.path, request) as writing:
        steps = chosen.steps()
        first = writing.done
        done, total = sum(map(len, steps[:first])), len(cohort.volumes)
        yield Progress(f"writing {chosen.title}", done, total)
        contents = _ahead(chosen, chain.from_iterable(steps[first:]))
        for step in steps[first:]:
            work = chosen.write_step(writing.folder, step, contents)
            while True:
                try:
                    next(work)
                except StopIteration as end:
                    writing.step_done(end.value)
                    break
                done += 1
                yield Progress(f"writing {chosen.title}", done, total)
        chosen.finish(writing.folder)
    return Exported(total, len(release), chosen.title)


def _ahead(chosen: ExportFormat, volumes: Iterable[Any]) -> Iterator[Any]:
    """What each volume is read as; the next one is read meanwhile."""
    with ThreadPoolExecutor(1) as reader:
        pending = None
        for volume in volumes:
            following = reader.submit(chosen.read, volume)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()


def _format(name: FormatName, cohort: Cohort, destination: Path, suffix: str | None) -> ExportFormat:
    """The format, loaded with the libraries that it needs."""
    if suffix is not None and name != "bids":
        raise ConfigurationError(f"--suffix: is for --format bids, got {name}")
    try:
        return _load(name, cohort, destination, suffix)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        how = EXTRAS.get(missing, f"pip install {missing}")
        raise MeddiffError(f"--format {name}: needs {missing}, which is not installed: {how}") from error


def _load(name: FormatName, cohort: Cohort, destination: Path, suffix: str | None) -> ExportFormat:
    match name:
        case "nifti":
            from meddiff_core.distribution.exports.nifti import NiftiExport

            return NiftiExport(cohort)
        case "bids":
            from meddiff_core.distribution.exports.bids import BidsExport, check_bids

            check_bids(cohort, suffix)
            return BidsExport(cohort, suffix)
        case "nnunet":
            from meddiff_core.distribution.exports.nnunet import NnunetExport, check_nnunet

            check_nnunet(cohort, destination)
            return NnunetExport(cohort)
        case "dicom":
            from meddiff_core.distribution.exports.dicom import DicomExport

            return DicomExport(cohort)
        case "webdataset":
            from meddiff_core.distribution.exports.webdataset import WebdatasetExport

            return WebdatasetExport(cohort)
        case "ome-zarr":
            from meddiff_core.distribution.exports.ome_zarr import OmeZarrExport

            return OmeZarrExport(cohort)
