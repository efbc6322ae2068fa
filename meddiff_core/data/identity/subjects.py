"""Who each scan is of: by the table, BIDS, DICOM's Patient ID, a pattern of the study, folders or file names.

Everything after this rests on it: a person on two sides of the split makes the audit worthless, and many
persons in one leave no split at all. What would merge more than a few scans is therefore asked, never done unseen.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from meddiff_core.data.identity.person_folders import read_folders
from meddiff_core.data.layouts.listing import Found, plain
from meddiff_core.data.layouts.names import NameParts, is_name_of, split_name, split_names, tells_kind, tells_visit
from meddiff_core.data.layouts.walking import counted
from meddiff_core.data.tables.delimited import read_lists
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import advise
from meddiff_core.types import Question, Refusal

RowFor = Callable[[str, str | None], str | None]
"""Id of the participants table's row for a name and, where it is known, a subject; None where there is none."""
MOST_MERGED = 8
"""Scans of one kind that folders, file names or Patient IDs may give to one subject without being asked about."""
FEW = 3
"""So many are never asked about; above, a third of all scans is."""
PATTERN = "data.subject"
PARTICIPANTS = "participants table"
PATIENT_ID = "DICOM Patient ID"
FOLDER = "folder"
FILE_NAME = "file name"
SURE = ("column", "BIDS")
"""How rules begin that no pattern overrules."""
REPEAT = re.compile(r"(.*\d[^_\-]*)[_\-](\d{1,2})")
"""Names that end in a short number behind another number."""
GUESSED = (PATIENT_ID, FOLDER, FILE_NAME)


@dataclass(frozen=True)
class SubjectRule:
    """How many scans a rule gave their subjects."""

    rule: str
    scans: int
    subjects: int
    examples: tuple[tuple[str, str], ...]
    """Up to three scans and their subjects."""


@dataclass(frozen=True)
class Assigned:
    """Scans with their subjects."""

    found: tuple[Found, ...]
    refused: tuple[Refusal, ...] = ()
    notes: tuple[Refusal, ...] = ()
    questions: tuple[Question, ...] = ()


def assign_subjects(found: Sequence[Found], pattern: str | None, row_for: RowFor) -> Assigned:
    """Give every scan its subject, by `data.subject` too, and, where its name says, its kind."""
    images, notes = _without_shared_patient(found)
    images, refused = _by_pattern(images, pattern)
    notes += _pattern_unused(images, pattern)
    images = [_by_participant(image, row_for) for image in images]
    images, questions = _by_names(images)
    images = [replace(image, participant=_participant(image, row_for)) for image in images]
    return Assigned(tuple(images), tuple(refused), tuple(notes), (*_ask_about_pattern(images), *questions))


def _without_shared_patient(found: Sequence[Found]) -> tuple[list[Found], list[Refusal]]:
    """Pass over a Patient ID that all series have: an anonymiser wrote it."""
    patients = [image.subject for image in found if image.rule == PATIENT_ID]
    if len(patients) < 2 or len(patients) < sum(bool(image.slices) for image in found) or len(set(patients)) > 1:
        return list(found), []
    note = Refusal("data.subject", f"all {len(patients)} series carry one Patient ID; it is not used to tell subjects")
    cleared = [replace(image, subject=None, rule="") if image.rule == PATIENT_ID else image for image in found]
    return cleared, [note]


def _by_pattern(found: Sequence[Found], pattern: str | None) -> tuple[list[Found], list[Refusal]]:
    """Subjects by `data.subject`, searched in each path; a scan that it does not fit is refused."""
    if pattern is None:
        return list(found), []
    kept, refused = [], []
    for image in found:
        match = re.search(pattern, plain(image.name))
        if image.rule.startswith(SURE):
            kept.append(image)
        elif match and match["subject"]:
            kept.append(replace(image, subject=match["subject"], rule=PATTERN))
        else:
            refused.append(
                Refusal(image.name, f"subject must be told by data.subject, {pattern!r} does not fit the path")
            )
    return kept, refused


def _pattern_unused(found: Sequence[Found], pattern: str | None) -> list[Refusal]:
    """A note where another rule comes before the pattern."""
    rules = Counter(image.rule for image in found if pattern is not None and image.rule.startswith(SURE))
    return [
        Refusal(PATTERN, f"not used for {counted(n, 'scan')}: the {rule} tells subjects") for rule, n in rules.items()
    ]


def _ask_about_pattern(found: Sequence[Found]) -> list[Question]:
    """A question where the pattern makes one subject of all that it fits."""
    subjects = [str(image.subject) for image in found if image.rule == PATTERN]
    if len(subjects) <= MOST_MERGED or len(set(subjects)) > 1:
        return []
    text = f"the pattern makes one subject, {subjects[0]!r}, of {len(subjects)} scans; give one that tells them apart"
    return [Question(PATTERN, text)]


def _by_participant(image: Found, row_for: RowFor) -> Found:
    """The id of the table that the file's name, its path or one of its folders begins with."""
    if image.subject is not None:
        return image
    known = _row_of_path(image, row_for)
    return image if known is None else replace(image, subject=known, rule=PARTICIPANTS)


def _row_of_path(image: Found, row_for: RowFor) -> str | None:
    path = PurePosixPath(plain(image.name))
    folders = [part for part in path.parts[1:-1] if not tells_visit(part) and not re.fullmatch(r"\d\d?", part)]
    names = (_last(image), "_".join(path.parts), *path.parts[:-1][:1], *folders)
    return next((known for name in names if (known := row_for(name, None)) is not None), None)


def _participant(image: Found, row_for: RowFor) -> str | None:
    """Whom the table may know the subject as: under its own name, or, for a digest, under that of a folder."""
    return (_row_of_path(image, row_for) if image.rule == PATIENT_ID else None) or image.subject


def _by_names(found: Sequence[Found]) -> tuple[list[Found], list[Question]]:
    """Subjects of what is left: by the folder where each holds the same names, else by the name of each file.

    The folder of a DICOM series names the series where it lies in another.
    """
    open_ = [image for image in found if image.subject is None]
    parts = dict(zip([image.name for image in open_], split_names([_last(image) for image in open_]), strict=True))
    parts |= {image.name: NameParts("", "") for image in open_ if image.slices and "/" in image.name}
    reading = read_folders(parts)
    bases = Counter(part.subject for part in parts.values())
    named = [_named(image, parts, reading.persons, bases) if image.subject is None else image for image in found]
    named = [
        image if image.kind is not None else replace(image, kind=_kind(image, split_name(image.stem).kind))
        for image in named
    ]
    questions = reading.questions or _ask_about_merging(named) or _ask_about_repeats(named)
    return named, list(questions)


def _last(image: Found) -> str:
    """The last name on a path: of the file, or of a DICOM series."""
    return image.stem or PurePosixPath(image.name).name


def _named(image: Found, parts: dict[str, NameParts], persons: dict[str, NameParts], bases: Counter[str]) -> Found:
    """Subject and kind of a scan by the folder that is a person's, or else by its own name."""
    own, person = parts[image.name], persons.get(image.name)
    if person is None:
        subject, rule, words = own.subject or _last(image), FILE_NAME, own.kind
    elif is_name_of(own.subject, person.subject) and any(map(str.isdigit, own.subject)):
        subject, rule, words = own.subject, FOLDER, own.kind  # the folder goes on with a visit: `S1_MR_d01/S1_T1.nii`
    else:
        shared = bases[own.subject] > 1 and not is_name_of(person.subject, own.subject)
        subject, rule = person.subject, FOLDER
        words = _joined(person.kind, own.subject if shared else "", own.kind)
    return replace(
        image, subject=plain(subject), rule=rule, kind=_kind(image, words) if image.kind is None else image.kind
    )


def _kind(image: Found, own: str) -> str:
    """What the folders above a file and its own name say that it shows."""
    return _joined(*(part for part in PurePosixPath(image.name).parts[:-1] if tells_kind(part)), own)


def _joined(*words: str) -> str:
    return " ".join(word for word in words if word)


def _ask_about_merging(found: Sequence[Found]) -> list[Question]:
    """A question where a guess gives one subject more scans of a kind than a person usually has."""
    groups: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
    for image in found:
        if image.rule in GUESSED:
            groups[str(image.subject), image.rule, str(image.kind)].append(image.name)
    of_kind = Counter(image.kind for image in found)
    large = {key: names for key, names in groups.items() if _too_many(len(names), of_kind[key[2]])}
    if not large:
        return []
    (subject, rule, _), names = max(large.items(), key=lambda item: len(item[1]))
    more = f" ({len(large)} subjects are so large)" if len(large) > 1 else ""
    return [
        Question(
            "data.subject",
            f"{counted(len(names), 'scan')} would be of one subject, {subject!r}, by the {rule}: "
            f"{', '.join(sorted(names)[:3])}{more}. Give a regular expression with a group `subject`, which is "
            "searched in each path, such as '^(?P<subject>[^/]+)/' for the first folder or "
            "'(?P<subject>[^/.]+)[^/]*$' for the file",
        )
    ]


def _ask_about_repeats(found: Sequence[Found]) -> list[Question]:
    """A question where names end in a short number behind one: `P01_1, P01_2` may be one person twice."""
    repeats: defaultdict[str, set[str]] = defaultdict(set)
    for image in found:
        if image.rule == FILE_NAME and (match := REPEAT.fullmatch(str(image.subject))):
            repeats[match[1]].add(match[2])
    several = [head for head, numbers in repeats.items() if len(numbers) > 1]
    if len(repeats) < 2 or not several:
        return []
    head = several[0]
    names = " and ".join(f"{head}_{number}" for number in sorted(repeats[head])[:2])
    return [
        Question(
            "data.subject",
            f"{names} may be scans of one subject or two subjects, and so may {counted(len(several), 'name')} in all. "
            r"Give the pattern of a subject: '(?P<subject>[^/]+)[_-]\d+[^/]*$' for one, "
            "'(?P<subject>[^/.]+)[^/]*$' for two",
        )
    ]


def _too_many(scans: int, of_all: int) -> bool:
    return scans > MOST_MERGED or (scans > FEW and scans > of_all / 3)


def rules_used(found: Sequence[Found]) -> tuple[SubjectRule, ...]:
    """How many scans fell to which rule, the most first, with examples."""
    by_rule: defaultdict[str, list[Found]] = defaultdict(list)
    for image in found:
        by_rule[image.rule].append(image)
    rules = [
        SubjectRule(
            rule,
            len(images),
            len({image.subject for image in images}),
            tuple((image.name, str(image.subject)) for image in images[:3]),
        )
        for rule, images in by_rule.items()
    ]
    return tuple(sorted(rules, key=lambda rule: (-rule.scans, rule.rule)))


def join_subjects(found: Sequence[Found], same: list[list[str]] | str | None, base: Path) -> list[Found]:
    """Make one subject of those that `data.same_subject` names as one person; it is called by the first name given.

    Raises:
        ConfigurationError: a name is no subject of the study, or the table cannot be read.
    """
    known = {str(image.subject) for image in found}
    persons: dict[str, str] = {}
    for names in names_of_one_person(same, base, known):
        for name in names:
            if name not in known:
                advice = advise(name, sorted(known), "subjects")
                raise ConfigurationError(
                    f"data.same_subject: must name subjects of the study, {name!r} is none; {advice}"
                )
        _join(persons, names)
    return [replace(image, subject=persons.get(str(image.subject), image.subject)) for image in found]


def _join(persons: dict[str, str], names: Sequence[str]) -> None:
    """Give all names, and those joined to them before, the person of the first."""
    joined = {persons.get(name, name) for name in names}
    first = persons.get(names[0], names[0])
    for name in [*names, *(name for name, person in persons.items() if person in joined)]:
        persons[name] = first


def names_of_one_person(same: list[list[str]] | str | None, base: Path, known: set[str]) -> list[list[str]]:
    """The lists of `data.same_subject`; the head of a table is a list only if it holds a known subject."""
    if not isinstance(same, str):
        return [[plain(name) for name in names] for names in same or [] if names]
    path = base / same
    try:
        lists = [[plain(cell) for cell in row] for row in read_lists(path)]
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"data.same_subject: {path.name} must be a table of names: {error}") from error
    return [names for number, names in enumerate(lists) if names and (number or set(names) & known)]
