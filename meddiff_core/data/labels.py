"""Which label map belongs to which image, told from file names.

A label goes to the image with the longest name that its own begins with, so that `a_1` never takes the map
of `a_12`; what stays open is settled by the subject, and only where that leaves one choice.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from meddiff_core.data.listing import Found, plain, walk
from meddiff_core.data.nifti import is_nifti, stem_of
from meddiff_core.errors import ConfigurationError
from meddiff_core.types import Refusal


def is_name_of(name: str, longer: str) -> bool:
    """Whether `longer` is `name`, or begins with it and goes on with neither letter nor digit."""
    return longer == name or (longer.startswith(name) and not longer[len(name)].isalnum())


def longest_name_of(names: Sequence[str], longer: str) -> str | None:
    """The longest of `names` that `longer` begins with."""
    return max((name for name in names if is_name_of(name, longer)), key=len, default=None)


def label_files(folder: Path, images: Sequence[Found]) -> list[Path]:
    """NIfTI files below the labels folder that are not images themselves."""
    if not folder.is_dir():
        raise ConfigurationError(f"data.labels: must exist as a folder, {folder} does not")
    taken = {found.image.resolve() for found in images}
    return [path for path in walk(folder)[0] if is_nifti(path) and path.resolve() not in taken]


def give_labels(
    found: Sequence[Found], subjects: Sequence[str], labels: Sequence[Path]
) -> tuple[list[Found], list[Refusal], list[Refusal]]:
    """Images with their label map; images refused for having none or several; label maps without an image."""
    by_case, left = _by_name(found, labels)
    by_case = _by_subject(found, subjects, by_case, left)
    matched, refused = [], []
    for image in found:
        paths = _choice(image, by_case.get(image.case, []))
        if len(paths) == 1:
            matched.append(replace(image, label=paths[0]))
        else:
            names = ", ".join(path.name for path in paths)
            refused.append(
                Refusal(image.case, f"has {len(paths)} label maps: {names}" if paths else "has no label map")
            )
    used = {path for paths in by_case.values() for path in paths}
    return matched, refused, [Refusal(path.name, "is a label map of no image") for path in labels if path not in used]


def _choice(image: Found, labels: list[Path]) -> list[Path]:
    """The label of exactly the image's name, if there is one."""
    same = [path for path in labels if plain(stem_of(path)) == plain(stem_of(image.image))]
    return same or labels


def _by_name(found: Sequence[Found], labels: Sequence[Path]) -> tuple[dict[str, list[Path]], list[Path]]:
    """Labels per case by their names, and those that fit none."""
    cases = _names(found)
    by_case: defaultdict[str, list[Path]] = defaultdict(list)
    left: list[Path] = []
    for path in labels:
        name = longest_name_of(list(cases), plain(stem_of(path)))
        (left if name is None else by_case[cases[name]]).append(path)
    return dict(by_case), left


def _names(found: Sequence[Found]) -> dict[str, str]:
    """The case by each name that means one only: its id, its file's stem, for BIDS the stem without contrast."""
    claims: defaultdict[str, set[str]] = defaultdict(set)
    for image in found:
        stem = plain(stem_of(image.image))
        bids = [stem.rsplit("_", 1)[0]] if stem.startswith("sub-") else []
        for name in (image.case, stem, *bids):
            claims[name].add(image.case)
    return {name: cases.pop() for name, cases in claims.items() if len(cases) == 1}


def _by_subject(
    found: Sequence[Found], subjects: Sequence[str], by_case: dict[str, list[Path]], left: Sequence[Path]
) -> dict[str, list[Path]]:
    """Add the labels that share a subject with exactly one image that has none."""
    without: defaultdict[str, list[str]] = defaultdict(list)
    for image, subject in zip(found, subjects, strict=True):
        if image.case not in by_case:
            without[subject].append(image.case)
    result = dict(by_case)
    names = list(without)
    for path in left:
        name = longest_name_of(names, plain(stem_of(path)))
        if name is not None and len(without[name]) == 1:
            case = without[name][0]
            result[case] = [*result.get(case, []), path]
    return result
