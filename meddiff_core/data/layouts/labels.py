"""Which label map belongs to which image, found from file names.

A label goes to the image with the longest name that its own begins with, so that `a_1` never takes the map
of `a_12`; what stays open is settled by the subject, and only where that leaves one choice. A map of another
session, contrast or number than an image's is that of an image that is not there.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from meddiff_core.data.layouts.freesurfer import one_parcellation
from meddiff_core.data.layouts.listing import FoundImage, plain
from meddiff_core.data.layouts.names import (
    is_label_name,
    lies_among_labels,
    longest_name_of,
    split_name,
    tells_contrast,
    tells_kind,
    tells_visit,
)
from meddiff_core.data.layouts.walking import relative, summarise, walk
from meddiff_core.data.nifti import is_volume, stem_of
from meddiff_core.errors import ConfigurationError
from meddiff_core.types import Note, Refusal

MOST_NAMED = 3


@dataclass(frozen=True)
class LabelFile:
    """A label map and the names that its place gives it."""

    path: Path
    stem: str
    joined: tuple[str, ...]
    """Its folders, below the folder of label maps, and its name as one text; then without the first folder, ..."""


def label_files(
    folder: Path, images: Sequence[FoundImage], follow_links: bool = False
) -> tuple[list[Path], list[Note]]:
    """Volumes below the labels folder that are not images themselves, of FreeSurfer's one a subject; notes on links.

    Raises:
        ConfigurationError: the folder does not exist.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"data.labels: must exist as a folder, {folder} does not")
    taken = {found.image.resolve() for found in images}
    inside = walk(folder, follow_links=follow_links)
    notes = [Note("data.labels", summarise(inside.unread))] if inside.unread else []
    paths = [path for path in inside.files if is_volume(path) and path.resolve() not in taken]
    if any(found.image.is_relative_to(folder) for found in images):
        paths = [path for path in paths if is_label_map(path, folder)] or paths
    return one_parcellation(paths), notes


def is_label_map(path: Path, root: Path) -> bool:
    """Whether a volume below `root` is a label map by its own name or by that of a folder."""
    return is_label_name(stem_of(path)) or lies_among_labels(relative(path, root))


def give_labels(
    found: Sequence[FoundImage], paths: Sequence[Path], root: Path
) -> tuple[list[FoundImage], list[Refusal], list[Note]]:
    """Images with their label map; images refused for having none or several; label maps without an image."""
    labels = [_label_file(path, root) for path in paths]
    same = _by_exact_name(found, labels)
    taken = set(same.values())
    open_ = [image for image in found if image.case not in same]
    by_case = _by_name(open_, [label for label in labels if label.path not in taken])
    used = taken | {path for own in by_case.values() for path in own}
    for rule in (_by_subject, _by_number):
        by_case |= rule(
            [image for image in open_ if image.case not in by_case],
            [label for label in labels if label.path not in used],
        )
        used |= {path for own in by_case.values() for path in own}
    matched, refused = [], []
    for image in found:
        own = [same[image.case]] if image.case in same else by_case.get(image.case, [])
        if len(own) == 1:
            matched.append(replace(image, label=own[0]))
        else:
            refused.append(Refusal(image.case, _not_one(own) if own else _none(image, labels, used)))
    return matched, refused, [Note(path.name, "is a label map of no image") for path in paths if path not in used]


def _none(image: FoundImage, labels: Sequence[LabelFile], used: set[Path]) -> str:
    """Why an image has no label map: there is none, or one that fits other images as well."""
    fits = [label for label in labels if label.path not in used and image.stem and label.stem.startswith(image.stem)]
    if any(_adds_nothing(label.stem[len(image.stem) :], ()) for label in fits):
        return f"has no label map of its own: {fits[0].path.name} could be that of another image of the same name too"
    return "has no label map"


def _not_one(labels: Sequence[Path]) -> str:
    names = [path.name for path in labels]
    return f"has {len(names)} label maps: {', '.join(names[:MOST_NAMED])}{', ...' if len(names) > MOST_NAMED else ''}"


def _label_file(path: Path, root: Path) -> LabelFile:
    stem = plain(stem_of(path))
    folders = path.parent.relative_to(root).parts if path.is_relative_to(root) else ()
    return LabelFile(path, stem, tuple(plain("_".join([*folders[n:], stem])) for n in range(len(folders) or 1)))


def _by_exact_name(found: Sequence[FoundImage], labels: Sequence[LabelFile]) -> dict[str, Path]:
    """The label of exactly an image's name, by case; the channels of an image share one."""
    stems = Counter(label.stem for label in labels)
    by_stem = {label.stem: label.path for label in labels if stems[label.stem] == 1}
    claims = Counter((image.stem, image.kind) for image in found)
    return {
        image.case: by_stem[image.stem]
        for image in found
        if image.stem in by_stem and claims[image.stem, image.kind] == 1
    }


def _by_name(found: Sequence[FoundImage], labels: Sequence[LabelFile]) -> dict[str, list[Path]]:
    """Labels per case whose own name, or that of their path, begins with the image's."""
    cases = _names(found)
    matches = [(label, case, rest) for label in labels for case, rest in [_longest(cases, label)] if case]
    rests = Counter(rest for _, _, rest in matches)
    by_case: defaultdict[str, list[Path]] = defaultdict(list)
    for label, case, rest in matches:
        if rests[rest] > 1 or _adds_nothing(rest, ()):
            by_case[case].append(label.path)
    return dict(by_case)


def _longest(cases: dict[str, str], label: LabelFile) -> tuple[str, str]:
    """The case that a label's name begins with, and what is left of the name; two empty texts for none."""
    for text in (label.stem, *label.joined):
        if name := longest_name_of(cases, text):
            return cases[name], text[len(name) :]
    return "", ""


def _names(found: Sequence[FoundImage]) -> dict[str, str]:
    """The case by each name that means one only: its id, its file's stem, for BIDS the stem without contrast."""
    claims: defaultdict[str, set[str]] = defaultdict(set)
    for image in found:
        bids = [image.stem.rsplit("_", 1)[0]] if image.stem.startswith("sub-") else []
        for name in (image.case, *([image.stem] if image.stem else []), *bids):
            claims[name].add(image.case)
    return {name: cases.pop() for name, cases in claims.items() if len(cases) == 1}


def _by_subject(found: Sequence[FoundImage], labels: Sequence[LabelFile]) -> dict[str, list[Path]]:
    """Labels that share a subject with one image of each kind that has none, and name no other contrast or session."""
    without: defaultdict[str, list[FoundImage]] = defaultdict(list)
    for image in found:
        for name in {str(image.subject).replace("/", "_"), split_name(image.stem).subject} - {""}:
            without[name].append(image)
    by_case: defaultdict[str, list[Path]] = defaultdict(list)
    for label in labels:
        subject, rest = _subject_in(label, without)
        images = without.get(subject, [])
        if _are_one_visit(images) and all(_adds_nothing(rest, _words(image.name)) for image in images):
            for image in images:
                by_case[image.case].append(label.path)
    return dict(by_case)


def _are_one_visit(images: Sequence[FoundImage]) -> bool:
    """Whether images are of different kinds and of one visit: they share a grid, and so a label map."""
    visits = {
        tuple(word for word in _words(image.name) if tells_visit(word) and not tells_kind(word)) for image in images
    }
    return len(visits) == 1 and len({image.kind for image in images}) == len(images)


def _subject_in(label: LabelFile, names: Collection[str]) -> tuple[str, str]:
    """The subject that a label's name begins with, and what is left of the name; two empty texts for none."""
    for text in (label.stem, *label.joined):
        if (subject := longest_name_of(names, text)) is not None:
            return subject, text[len(subject) :]
    return "", ""


def _by_number(found: Sequence[FoundImage], labels: Sequence[LabelFile]) -> dict[str, list[Path]]:
    """Labels of the image with the same number, where names differ in nothing else: `img0001`, `label0001`."""
    if len({_without_numbers(image.stem) for image in found}) != 1 or (
        len({_without_numbers(label.stem) for label in labels}) != 1
    ):
        return {}
    images, maps = _numbered([image.stem for image in found]), _numbered([label.stem for label in labels])
    return {
        found[place].case: [labels[maps[number]].path] for number, place in images.items() if number and number in maps
    }


def _without_numbers(stem: str) -> str:
    return re.sub(r"\d+", "#", stem)


def _numbered(stems: Sequence[str]) -> dict[tuple[str, ...], int]:
    """Place of each name by its numbers, where no other has the same."""
    numbers = [tuple(re.findall(r"\d+", stem)) for stem in stems]
    count = Counter(numbers)
    return {own: place for place, own in enumerate(numbers) if count[own] == 1}


def _adds_nothing(rest: str, words: Iterable[str]) -> bool:
    """Whether what a label's name has beyond its image's names no other session, contrast or number."""
    known = set(words)
    return not any(_tells_apart(word) for word in _words(rest) if word not in known)


def _tells_apart(word: str) -> bool:
    if is_label_name(word):
        return False
    return tells_visit(word) or tells_contrast(word) or (bool(re.search(r"\d", word)) and not tells_kind(word))


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[_./\s]+", text.lower()) if word]
