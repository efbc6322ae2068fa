"""Folders without a standard: flat, a folder a subject, TotalSegmentator, DICOM as a scanner exports it.

Whatever is neither a scan nor a file that goes with scans is named; label maps are recognised by their names and
folders, so that none is ever taken for a scan.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from meddiff_core.data.dicom import index_dicom, is_dicom
from meddiff_core.data.layouts.labels import is_label_map
from meddiff_core.data.layouts.listing import FoundImage, Listing, plain
from meddiff_core.data.layouts.walking import Walk, counted, relative, without_use
from meddiff_core.data.nifti import is_volume, stem_of
from meddiff_core.types import Note

SIDE_SUFFIXES = (
    ".json", ".bval", ".bvec", ".tsv", ".csv", ".md", ".rst", ".yaml", ".yml", ".license", ".txt", ".cfg", ".ini",
    ".xml", ".html", ".log", ".pdf", ".svg",
)  # fmt: skip
SIDE_NAMES = ("README", "LICENSE", "LICENCE", "CHANGES", "CITATION", "DICOMDIR")


def is_side_file(path: Path) -> bool:
    """Whether a file goes with scans and is none."""
    stem = path.name.split(".")[0].upper()
    return path.suffix.lower() in SIDE_SUFFIXES or any(
        stem == name or stem.startswith(f"{name}-") for name in SIDE_NAMES
    )


def list_files(walk: Walk, labels_are_named: bool) -> Listing:
    """Volumes in single files and DICOM series among the files of a walk."""
    volumes = [path for path in walk.files if is_volume(path)]
    labels = {path for path in volumes if is_label_map(path, walk.root)}
    images = [path for path in volumes if path not in labels]
    others = [path for path in walk.files if not is_volume(path) and not is_side_file(path)]
    slices = [path for path in others if is_dicom(path)]
    foreign = sorted(set(others) - set(slices))
    index = index_dicom(slices, walk.root)
    found = [_volume(path, walk.root) for path in images]
    found += [
        FoundImage(
            case=plain(series.name.replace("/", "_")),
            image=series.slices[0],
            name=series.name,
            subject=series.patient or None,
            rule="DICOM Patient ID" if series.patient else "",
            kind=series.kind,
            slices=series.slices,
        )
        for series in index.series
    ]
    left = [] if labels_are_named else _label_note(sorted(labels), walk.root)
    return Listing(
        found=tuple(found),
        refused=tuple(index.refused),
        unread=(*walk.unread, *without_use(foreign, walk.root)),
        notes=(*index.notes, *left),
        layout=_in_words(images, walk.root, len(index.series)),
    )


def _volume(path: Path, root: Path) -> FoundImage:
    """A file, whose name may contain its subject as in BIDS, in whichever folder it lies."""
    stem = plain(stem_of(path))
    entity = re.match(r"sub-[A-Za-z0-9]+(?=_)", stem)
    named = FoundImage(stem, path, relative(path, root), stem=stem)
    return replace(named, subject=entity[0], rule="`sub-` in the file name") if entity else named


def _label_note(labels: Sequence[Path], root: Path) -> list[Note]:
    if not labels:
        return []
    names = ", ".join(relative(path, root) for path in labels[:3])
    what = counted(len(labels), "file is named as a label map", "files are named as label maps")
    return [Note("data.labels", f"{what} and left out ({names}); data.labels names a folder of label maps to use")]


def _in_words(images: Sequence[Path], root: Path, series: int) -> str:
    folders = {path.parent for path in images}
    flat = "flat folder" if folders == {root} else f"{counted(len(folders), 'folder')} of images"
    parts = [flat] if images else []
    return " and ".join([*parts, f"{counted(series, 'DICOM series', 'DICOM series')}"] if series else parts)
