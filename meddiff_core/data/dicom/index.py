"""Which DICOM files make one scan, from their headers, each read once.

A series may lie in several folders, and one series may hold several volumes: echoes, phases, orientations, time
points. What is no scan (localisers, reports, secondary captures) is left out and said; a copy is dropped and said.
"""

import hashlib
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from meddiff_core.artefacts import digest_of
from meddiff_core.data.dicom.header import IMAGES, Header, read_dataset, read_header
from meddiff_core.data.dicom.kind import clusters, kinds_of, show_of, type_words
from meddiff_core.data.dicom.stack import coincide, normal_of, stack_of
from meddiff_core.types import Note, Refusal

FEWEST_SLICES = 4
MOST_VOLUMES = 8
"""More volumes at one place in one series are a time series, not several contrasts."""
ECHO_RATIO = 1.05
SAME_COSINES = 2e-3
NOT_SCANS = ("LOCALIZER", "SCOUT", "SCREEN SAVE", "SCREENSAVE", "DOSE_INFO", "DOSE INFO", "MOSAIC")
LOCALISER_PLANES = 3
DIRECTORY = "Media Storage Directory Storage"


@dataclass(frozen=True)
class DicomSeries:
    """The slices of one volume, and what distinguishes it from others."""

    slices: tuple[Path, ...]
    patient: str | None
    """Digest of Patient ID and issuer; None where the file has no id."""
    study: str
    """Digest of the Study Instance UID."""
    name: str
    """Where it lies, relative to the folder that was searched; unique among the series of a folder."""
    kind: str
    """What it shows, such as `MR t1 mprage sag; GR/IR; contrast agent`."""


@dataclass(frozen=True)
class DicomIndex:
    """What the headers of a folder gave."""

    series: tuple[DicomSeries, ...] = ()
    refused: tuple[Refusal, ...] = ()
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Part:
    """Slices that are meant as one volume."""

    headers: tuple[Header, ...]
    volume: str = ""
    """What distinguishes it from other volumes of its series: `echo 2`."""


@dataclass
class Findings:
    """Refusals and notes, as they come up."""

    root: Path
    refused: list[Refusal]
    notes: list[Note]

    def refuse(self, headers: Sequence[Header], reason: str) -> None:
        """Name these files' place as not usable."""
        self.refused.append(Refusal(place_of([header.path for header in headers], self.root), reason))

    def note(self, headers: Sequence[Header], reason: str) -> None:
        """Name what was left out or joined."""
        self.notes.append(Note(place_of([header.path for header in headers], self.root), reason))


def index_dicom(files: Sequence[Path], root: Path) -> DicomIndex:
    """The volumes among DICOM files below `root`; every file ends in a series, a refusal or a note."""
    found = Findings(root, [], [])
    read, damaged = _read(files, found)
    headers = _without_copies(_images(read, found), found)
    parts: list[Part] = []
    for series in _joined(_grouped(headers, _series_key), found):
        parts += [part for part in _volumes(series, found) if _is_volume(part, found)]
    parts = _without_gaps(parts, damaged, found)
    parts.sort(key=lambda part: min(header.path for header in part.headers))
    kinds = kinds_of([show_of(part.headers, part.volume) for part in parts])
    names = _names(parts, root)
    series_found = [_series(part, name, kind) for part, name, kind in zip(parts, names, kinds, strict=True)]
    return DicomIndex(tuple(series_found), tuple(found.refused), tuple(found.notes))


def place_of(paths: Sequence[Path], root: Path) -> str:
    """A file by its name, several by the folder that they share, relative to `root`."""
    return _relative(paths[0], root) if len(paths) == 1 else folder_of(paths, root)


def folder_of(paths: Sequence[Path], root: Path) -> str:
    """The folder that files share, relative to `root`, or that folder's own name."""
    shared = Path(os.path.commonpath([path.parent for path in paths]))
    return _relative(shared, root) if shared != root and shared.is_relative_to(root) else root.resolve().name


def _relative(path: Path, root: Path) -> str:
    """In POSIX's way; a name that is no UTF-8 is escaped."""
    return path.relative_to(root).as_posix().encode(errors="backslashreplace").decode()


def _series(part: Part, name: str, kind: str) -> DicomSeries:
    first = part.headers[0]
    return DicomSeries(tuple(sorted(h.path for h in part.headers)), first.patient, first.study, name, kind)


def _read(files: Sequence[Path], found: Findings) -> tuple[list[Header], list[Path]]:
    """Headers, and the files that have none that can be read."""
    headers, damaged = [], []
    for path in sorted(files):
        try:
            header = read_header(path)
            if not (header.instance or header.series or header.sop_class == DIRECTORY):
                raise EOFError("ends before its UIDs")
            headers.append(header)
        except Exception as error:  # pydicom raises many kinds; their texts may hold what the header says of a person
            damaged.append(path)
            found.refused.append(
                Refusal(place_of([path], found.root), f"header cannot be read as DICOM ({type(error).__name__})")
            )
    return headers, damaged


def _without_gaps(parts: Sequence[Part], damaged: Sequence[Path], found: Findings) -> list[Part]:
    """Volumes without those that are alone in a folder with damaged files, which can only be theirs."""
    holes = Counter(path.parent for path in damaged)
    count = Counter(folder for part in parts for folder in {header.path.parent for header in part.headers})
    whole = []
    for part in parts:
        folders = {header.path.parent for header in part.headers}
        if lost := sum(holes[folder] for folder in folders if count[folder] == 1):
            found.refuse(part.headers, f"every slice must be readable, has {len(part.headers)} and {lost} damaged")
        else:
            whole.append(part)
    return whole


def _images(headers: Sequence[Header], found: Findings) -> list[Header]:
    """Those that may be slices of a scan; the others are noted, series by series."""
    aside: defaultdict[tuple[str, str | None, str], list[Header]] = defaultdict(list)
    images = []
    for header in headers:
        if reason := _not_a_scan(header):
            aside[reason, header.patient, header.series].append(header)
        else:
            images.append(header)
    for (reason, _, _), group in aside.items():
        found.note(group, f"{_files(len(group))} left out: {reason}")
    return images


def _files(count: int) -> str:
    return f"{count} file is" if count == 1 else f"{count} files are"


def _not_a_scan(header: Header) -> str | None:
    if header.sop_class not in IMAGES:
        return f"no image of CT, MR or PET, but {header.sop_class or 'of no known class'}"
    if types := [value for value in header.image_type if value in NOT_SCANS]:
        return f"no scan, Image Type says {types[0]}"
    if header.samples != 1:
        return f"no scan, its pixels are in colour ({header.colours})"
    return None


def _without_copies(headers: Sequence[Header], found: Findings) -> list[Header]:
    """One file per SOP Instance UID: another of the same content is dropped, one of other content spoils its series."""
    size = Counter(_series_key(header) for header in headers)
    kept, copies, spoilt = [], [], set()
    for group in _grouped(headers, lambda header: header.instance or str(header.path)):
        group.sort(key=lambda header: (-size[_series_key(header)], *_by_name(header)))
        if len(group) > 1 and len({_content(header) for header in group}) > 1:
            spoilt |= {_series_key(header) for header in group}
        kept.append(group[0])
        copies += [header for header in group[1:] if _series_key(header) not in spoilt]
    for folder in _grouped(copies, lambda header: header.path.parent):
        found.note(folder, f"{_copies(len(folder))} with the same SOP Instance UID and content: dropped")
    for series in _grouped([header for header in headers if _series_key(header) in spoilt], _series_key):
        found.refuse(
            series, "every slice must have one content, some files share a SOP Instance UID and differ in pixels"
        )
    return [header for header in kept if _series_key(header) not in spoilt]


def _by_name(header: Header) -> tuple[Path, int, str]:
    """Of `5.dcm` and `5 (1).dcm` the shorter first."""
    return header.path.parent, len(header.path.name), header.path.name


def _copies(count: int) -> str:
    return "1 file is a copy of another," if count == 1 else f"{count} files are copies of others,"


def _content(header: Header) -> str:
    """Digest of what a slice shows and where; read only where two files claim to be one."""
    try:
        data = read_dataset(header.path, pixels=True)
        place = None if header.positions is None else header.positions.tolist()
        pixels = hashlib.sha256(bytes(data.get("PixelData") or b"")).hexdigest()
        return digest_of([pixels, place, header.rescale.tolist(), str(header.syntax)])
    except Exception as error:  # damaged: its own content, so that it is refused
        return f"{type(error).__name__} {header.path}"


def _series_key(header: Header) -> tuple[str | None, str]:
    """Patient and Series Instance UID, across folders; the folder where there is no UID."""
    return header.patient, header.series or str(header.path.parent)


def _joined(groups: Sequence[list[Header]], found: Findings) -> list[list[Header]]:
    """Series as they are, and one for slices that each have a series UID of their own, as some exports write them."""
    alone: defaultdict[tuple[object, ...], list[Header]] = defaultdict(list)
    series = []
    for group in groups:
        if len(group) == 1 and group[0].frames == 1 and not group[0].lacking:
            alone[_likeness(group[0])].append(group[0])
        else:
            series.append(group)
    for slices in alone.values():
        for planes in _by_plane(slices):
            series += _one_series(planes, found)
    return series


def _likeness(header: Header) -> tuple[object, ...]:
    """What slices of one series share, whatever their UIDs say."""
    spacing = tuple(round(value, 4) for value in header.spacing_mm or ())
    size = (header.rows, header.columns, *spacing)
    shown = (header.text.get("Modality"), header.words, type_words(header), header.figures.get("EchoNumbers"))
    return (header.patient, header.study, size, shown)


def _one_series(slices: list[Header], found: Findings) -> list[list[Header]]:
    """Lone slices of one plane as one series, or by their series numbers where they lie at one place."""
    parts = [slices] if not coincide(slices) else _grouped(slices, lambda header: header.text.get("SeriesNumber", ""))
    series = []
    for part in parts:
        if len(part) < FEWEST_SLICES:
            series += [[header] for header in part]
        elif faults := stack_of(part).faults:
            found.refuse(part, f"{len(part)} slices, each a series of its own, make no volume: {'; '.join(faults)}")
        else:
            found.note(
                part, f"{len(part)} slices, each with a Series Instance UID of its own, are one series by position"
            )
            series.append(part)
    return series


def _grouped(headers: Sequence[Header], key: Callable[[Header], object]) -> list[list[Header]]:
    groups: defaultdict[object, list[Header]] = defaultdict(list)
    for header in headers:
        groups[key(header)].append(header)
    return list(groups.values())


def _by_plane(headers: Sequence[Header]) -> list[list[Header]]:
    """By orientation, within the rounding of its cosines."""
    planes: list[tuple[np.ndarray, list[Header]]] = []
    for header in headers:
        assert header.orientations is not None
        turn = header.orientations[0]
        near = next((members for first, members in planes if np.abs(first - turn).max() < SAME_COSINES), None)
        if near is None:
            planes.append((turn, [header]))
        else:
            near.append(header)
    return [members for _, members in planes]


def _volumes(series: Sequence[Header], found: Findings) -> list[Part]:
    """A series by size, orientation, image type, echo, and whatever else sets volumes at one place apart."""
    if lacking := sorted({name for header in series for name in header.lacking}):
        count = sum(bool(header.lacking) for header in series)
        found.refuse(series, f"every slice must have {', '.join(lacking)}; {count} of {len(series)} lack it")
        return []
    alike = _grouped(series, lambda header: (header.rows, header.columns, type_words(header)))
    planes = [plane for group in alike for plane in _by_plane(group)]
    if len(planes) >= LOCALISER_PLANES and len({_turned(plane[0]) for plane in planes}) >= LOCALISER_PLANES:
        found.note(series, f"{_files(len(series))} left out: {len(planes)} orientations, as of a localiser")
        return []
    return [part for plane in planes for echo in _by_echo(plane) for part in _apart(echo, found)]


def _turned(header: Header) -> tuple[float, ...]:
    return tuple(np.round(np.abs(normal_of(header)), 1).tolist())


def _by_echo(plane: Sequence[Header]) -> list[Part]:
    """By echo number; where that is one for all, by echo times that differ more than by jitter."""
    numbered = _grouped(plane, lambda header: header.figures.get("EchoNumbers"))
    if len(numbered) > 1 or len(plane) < 2 or any("EchoTime" not in header.figures for header in plane):
        return [_echo(group, int(group[0].figures.get("EchoNumbers", 1))) for group in numbered]
    groups = clusters([header.figures["EchoTime"] for header in plane], ECHO_RATIO)
    first = int(plane[0].figures.get("EchoNumbers", 1))
    return [_echo([plane[n] for n in group], first + rank) for rank, group in enumerate(groups)]


def _echo(headers: Sequence[Header], number: int) -> Part:
    return Part(tuple(headers), f"echo {number}" if number > 1 else "")


def _apart(part: Part, found: Findings) -> list[Part]:
    """Volumes that lie at one place, by the first of folder, acquisition, time point or b-value that parts them."""
    if not coincide(part.headers):
        return [part]
    for word, key in _discriminators():
        groups = sorted(_grouped(part.headers, key), key=lambda group: _by_value(key(group[0])))
        if len(groups) < 2 or any(len(group) < FEWEST_SLICES or coincide(group) for group in groups):
            continue
        if len(groups) > MOST_VOLUMES:
            found.note(part.headers, f"{_files(len(part.headers))} left out: a time series of {len(groups)} volumes")
            return []
        return [_named(part, group, word, rank) for rank, group in enumerate(groups, start=1)]
    return [part]


def _discriminators() -> list[tuple[str, Callable[[Header], object]]]:
    return [
        ("", lambda header: header.path.parent),
        ("", lambda header: header.text.get("ConvolutionKernel")),
        ("time point", lambda header: header.text.get("TemporalPositionIdentifier")),
        ("acquisition", lambda header: header.text.get("AcquisitionNumber")),
        ("b-value", lambda header: header.text.get("DiffusionBValue")),
    ]


def _by_value(value: object) -> tuple[float, str]:
    """Numbers by their size, then the rest by its text."""
    text = "" if value is None else str(value)
    return (float(text), "") if re.fullmatch(r"-?\d+(\.\d+)?", text) else (math.inf, text)


def _named(part: Part, headers: Sequence[Header], word: str, rank: int) -> Part:
    volume = "; ".join(text for text in (part.volume, f"{word} {rank}" if word else "") if text)
    return replace(part, headers=tuple(headers), volume=volume)


def _is_volume(part: Part, found: Findings) -> bool:
    count = sum(header.frames for header in part.headers)
    if count < FEWEST_SLICES:
        slices = "1 slice" if count == 1 else f"{count} slices"
        found.note(part.headers, f"left out: {slices}, a volume has at least {FEWEST_SLICES}")
    return count >= FEWEST_SLICES


def _names(parts: Sequence[Part], root: Path) -> list[str]:
    """A folder for its only series; else with the series number, and a digest where that is not enough."""
    places = [folder_of([header.path for header in part.headers], root) for part in parts]
    numbers = [f"{place}/series-{_number(part)}" for place, part in zip(places, parts, strict=True)]
    digests = [
        digest_of(min(header.instance or _relative(header.path, root) for header in part.headers))[:8] for part in parts
    ]
    names = _told_apart(places, numbers)
    return _told_apart(names, [f"{name}-{digest}" for name, digest in zip(names, digests, strict=True)])


def _told_apart(names: Sequence[str], longer: Sequence[str]) -> list[str]:
    """Each name that is the only one of its kind, the longer one for the others."""
    count = Counter(names)
    return [name if count[name] == 1 else other for name, other in zip(names, longer, strict=True)]


def _number(part: Part) -> str:
    return "-".join([part.headers[0].text.get("SeriesNumber", "0"), *part.volume.replace(";", "").split()])
