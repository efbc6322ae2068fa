"""Who each scan is of: by the table, BIDS, DICOM's Patient ID, a pattern of the study, folders or file names.

Everything after this rests on it: a person on two sides of the split makes the audit worthless, and many
persons in one leave no split at all. What would merge more than a few scans is therefore asked, never done unseen.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from statistics import mean

from meddiff_core.data.identity.person_folders import read_folders
from meddiff_core.data.layouts.listing import FoundImage, plain
from meddiff_core.data.layouts.names import (
    NameParts,
    is_name_of,
    is_part,
    split_name,
    split_names,
    tells_kind,
    tells_visit,
)
from meddiff_core.data.layouts.walking import counted
from meddiff_core.data.nifti import stem_of
from meddiff_core.data.tables.delimited import read_lists
from meddiff_core.data.tables.participants import spelling_of
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import advise
from meddiff_core.types import Note, Question, Refusal

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
ENTITY = "`sub-` in the file name"
SURE = ("column", "BIDS")
"""How rules begin that no pattern overrules."""
REPEAT = re.compile(r"(.*?\d[^_\-]*?)((?:[_\-]\d{1,3})+|(?<=\d)[a-d])")
"""Names that end in short numbers or in a letter behind another number."""
MOST_REPEATS = 4
"""Scans that one person usually has at most; where heads of names have more, they are sites or batches."""
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

    found: tuple[FoundImage, ...]
    refused: tuple[Refusal, ...] = ()
    notes: tuple[Note, ...] = ()
    questions: tuple[Question, ...] = ()


def assign_subjects(found: Sequence[FoundImage], pattern: str | None, row_for: RowFor) -> Assigned:
    """Give every scan its subject, by `data.subject` too, and, where its name says, its kind."""
    images, notes = _without_shared_patient(found)
    images, refused = _by_pattern(images, pattern)
    notes += _pattern_unused(images, pattern)
    images = _by_participants(images, row_for)
    images, questions = _by_names(images)
    images = [replace(image, participant=_participant(image, row_for)) for image in images]
    return Assigned(tuple(images), tuple(refused), tuple(notes), (*_ask_about_pattern(images), *questions))


def _without_shared_patient(found: Sequence[FoundImage]) -> tuple[list[FoundImage], list[Note]]:
    """Pass over a Patient ID that all series have: an anonymiser wrote it."""
    patients = [image.subject for image in found if image.rule == PATIENT_ID]
    if len(patients) < 2 or len(patients) < sum(bool(image.slices) for image in found) or len(set(patients)) > 1:
        return list(found), []
    note = Note("data.subject", f"all {len(patients)} series carry one Patient ID; it is not used to identify subjects")
    cleared = [replace(image, subject=None, rule="") if image.rule == PATIENT_ID else image for image in found]
    return cleared, [note]


def _by_pattern(found: Sequence[FoundImage], pattern: str | None) -> tuple[list[FoundImage], list[Refusal]]:
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
                Refusal(image.name, f"subject must be found by data.subject, {pattern!r} does not fit the path")
            )
    return kept, refused


def _pattern_unused(found: Sequence[FoundImage], pattern: str | None) -> list[Note]:
    """A note where another rule comes before the pattern."""
    rules = Counter(image.rule for image in found if pattern is not None and image.rule.startswith(SURE))
    return [
        Note(PATTERN, f"not used for {counted(n, 'scan')}: the {rule} identifies subjects") for rule, n in rules.items()
    ]


def _ask_about_pattern(found: Sequence[FoundImage]) -> list[Question]:
    """A question where the pattern makes one subject of all that it fits."""
    subjects = [str(image.subject) for image in found if image.rule == PATTERN]
    if len(subjects) <= MOST_MERGED or len(set(subjects)) > 1:
        return []
    text = f"the pattern makes one subject, {subjects[0]!r}, of {len(subjects)} scans; give one that distinguishes them"
    return [Question(PATTERN, text)]


def _by_participants(found: Sequence[FoundImage], row_for: RowFor) -> list[FoundImage]:
    """Subjects by the id that a file's name, its path or one of its folders begins with.

    Where `1_T1` and `01_T1` both resemble the row `1`, only the one that is written like it is its subject's.
    """
    rows = {image.name: row for image in found if image.subject is None and (row := _row_of_path(image, row_for))}
    written = {name: spelling_of(row, part) for name, (row, part) in rows.items()}
    spellings: defaultdict[str, set[str]] = defaultdict(set)
    for name, (known, _) in rows.items():
        spellings[known].add(written[name])
    sure = {name: known for name, (known, _) in rows.items() if len(spellings[known]) == 1 or written[name] == known}
    return [_by_participant(image, sure[image.name]) if image.name in sure else image for image in found]


def _by_participant(image: FoundImage, row: str) -> FoundImage:
    """A subject by an id of the table, which may be that of a visit or an image: `OAS1_0001_MR2`, `P01_T1.nii.gz`."""
    subject = split_name(stem_of(Path(row))).subject
    return replace(image, subject=subject if re.search(r"\d", subject) else row, participant=row, rule=PARTICIPANTS)


def _row_of_path(image: FoundImage, row_for: RowFor) -> tuple[str, str] | None:
    """An id of the table, and the part of the path that begins with it."""
    path = PurePosixPath(plain(image.name))
    folders = [part for part in path.parts[1:-1] if not tells_visit(part) and not re.fullmatch(r"\d\d?", part)]
    names = (_last(image), "_".join(path.parts), *path.parts[:-1][:1], *folders)
    return next(((known, name) for name in names if (known := row_for(name, None)) is not None), None)


def _participant(image: FoundImage, row_for: RowFor) -> str | None:
    """Whom the table may know the subject as: under its own name, or, for a digest, under that of a folder."""
    row = _row_of_path(image, row_for) if image.rule == PATIENT_ID else None
    return image.participant or (row[0] if row else image.subject)


def _by_names(found: Sequence[FoundImage]) -> tuple[list[FoundImage], list[Question]]:
    """Subjects of what is left: by the folder where each holds the same names, else by the name of each file.

    The folder of a DICOM series names the series where it lies in another.
    """
    open_ = [image for image in found if image.subject is None]
    parts = dict(zip([image.name for image in open_], split_names([_last(image) for image in open_]), strict=True))
    parts |= {image.name: NameParts("", "") for image in open_ if image.slices and "/" in image.name}
    reading = read_folders(parts)
    bases = Counter(base for base, _ in {(parts[name].subject, own.subject) for name, own in reading.persons.items()})
    named = [_named(image, parts, reading.persons, bases) if image.subject is None else image for image in found]
    named = _with_kinds(named)
    questions = reading.questions or _ask_about_merging(named) or _ask_about_repeats(named) or _ask_about_folders(named)
    return named, list(questions)


def _with_kinds(found: Sequence[FoundImage]) -> list[FoundImage]:
    """Kinds of scans whose subject is known without their names: by words that the names of several subjects share."""
    open_ = [image for image in found if image.kind is None]
    parts = dict(zip([image.name for image in open_], split_names([image.stem for image in open_]), strict=True))
    subjects: defaultdict[str, set[str]] = defaultdict(set)
    for image in open_:
        subjects[parts[image.name].subject].add(str(image.subject))
    return [
        replace(image, kind=_kind(image, _words(parts[image.name], subjects, image))) if image.kind is None else image
        for image in found
    ]


def _words(part: NameParts, subjects: Mapping[str, set[str]], image: FoundImage) -> str:
    shared = len(subjects[part.subject]) > 1 and part.subject not in str(image.subject)
    return _joined(part.subject if shared else "", part.kind)


def _last(image: FoundImage) -> str:
    """The last name on a path: of the file, or of a DICOM series."""
    return image.stem or PurePosixPath(image.name).name


def _named(
    image: FoundImage, parts: dict[str, NameParts], persons: dict[str, NameParts], bases: Counter[str]
) -> FoundImage:
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


def _kind(image: FoundImage, own: str) -> str:
    """What the folders above a file and its own name say that it shows."""
    return _joined(*(part for part in PurePosixPath(image.name).parts[:-1] if tells_kind(part)), own)


def _joined(*texts: str) -> str:
    """Words of several texts, each once."""
    words = [word for text in texts for word in text.split()]
    return " ".join({word.casefold(): word for word in reversed(words)}[own] for own in dict.fromkeys(
        word.casefold() for word in words))  # fmt: skip


def _ask_about_merging(found: Sequence[FoundImage]) -> list[Question]:
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


def _ask_about_repeats(found: Sequence[FoundImage]) -> list[Question]:
    """A question where names end in short numbers behind one: `P01_1, P01_2` may be one person twice."""
    repeats: defaultdict[str, set[str]] = defaultdict(set)
    for image in found:
        if image.rule in (FILE_NAME, FOLDER) and (match := REPEAT.fullmatch(str(image.subject))):
            repeats[match[1]].add(match[2])
    several = [head for head, ends in repeats.items() if len(ends) > 1]
    if len(repeats) < 2 or not several or mean(len(repeats[head]) for head in several) > MOST_REPEATS:
        return []
    first, second = (several[0] + end for end in sorted(repeats[several[0]])[:2])
    rule = next(image.rule for image in found if image.subject == first)
    return [
        Question(
            "data.subject",
            f"{first} and {second} may be scans of one subject or of two, and so may those of "
            f"{counted(len(several), 'such name')} in all. Give the pattern of a subject: "
            f"{_pattern_of_repeats(first, rule, one=True)} for one, {_pattern_of_repeats(first, rule, one=False)} for "
            "two",
        )
    ]


def _pattern_of_repeats(example: str, rule: str, one: bool) -> str:
    """The pattern of names as `example` without the number or letter at their end, or with it."""
    end = "[a-d]" if example[-1].isalpha() else r"(?:[_-]\d{1,3})+"
    name = r"[^/]*?\d[^/_-]*?"
    after = "(?![0-9A-Za-z])[^/]*" + ("/" if rule == FOLDER else "$")
    return f"'(?P<subject>{name}){end}{after}'" if one else f"'(?P<subject>{name}{end}){after}'"


def _ask_about_folders(found: Sequence[FoundImage]) -> list[Question]:
    """A question where one file name lies in several folders that are no visits: `siteA/001.nii`, `siteB/001.nii`."""
    named = [image for image in found if image.rule in (FILE_NAME, ENTITY) and "derivatives" not in image.image.parts]
    places: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for image in named:
        places[str(image.subject), str(image.kind)].setdefault(_place(image), image.name)
    shared = [list(folders.values()) for folders in places.values() if len(folders) > 1]
    if not shared:
        return []
    ends = sorted({re.escape(image.stem.removeprefix(str(image.subject))) for image in named} - {""})
    end = f"(?:{'|'.join(ends) if len(ends) <= FEW else '_[^/]*'})?" if ends else ""
    return [
        Question(
            "data.subject",
            f"{' and '.join(shared[0][:2])} may be scans of one subject or of two, and so may those of "
            f"{counted(len(shared), 'such name')} in all. Give the pattern of a subject: "
            f"'(?P<subject>[^/]+?){end}[.][^/]*$' for one, '^(?P<subject>.+?){end}[.][^/]*$' for two",
        )
    ]


def _place(image: FoundImage) -> str:
    """The folders above a scan that are neither a visit, a kind nor the subject's own, parts of a split included."""
    own = str(image.subject).removeprefix("sub-")
    folders = [part for part in PurePosixPath(plain(image.name)).parts[:-1] if own not in part]
    return "/".join(part for part in folders if is_part(part) or not (tells_visit(part) or tells_kind(part)))


def _too_many(scans: int, of_all: int) -> bool:
    return scans > MOST_MERGED or (scans > FEW and scans > of_all / 3)


def rules_used(found: Sequence[FoundImage]) -> tuple[SubjectRule, ...]:
    """How many scans fell to which rule, the most first, with examples."""
    by_rule: defaultdict[str, list[FoundImage]] = defaultdict(list)
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


def join_subjects(found: Sequence[FoundImage], same: list[list[str]] | str | None, base: Path) -> list[FoundImage]:
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


def exclude_subjects(found: Sequence[FoundImage], names: Sequence[str]) -> tuple[list[FoundImage], list[Refusal]]:
    """Scans without those of some subjects, and a refusal of each of theirs. A name may be of nobody: who withdrew
    is often gone from the folder.
    """
    left_out = {plain(name) for name in names}
    kept = [image for image in found if plain(str(image.subject)) not in left_out]
    reason = "its subject is excluded, by data.exclude or since it was recalled"
    return kept, [Refusal(image.case, reason) for image in found if plain(str(image.subject)) in left_out]


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
