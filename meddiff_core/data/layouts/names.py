"""What the name of an image file says: whose it is, what it shows, which visit, and whether it is a label map.

Only words that the field uses for contrasts, processing, sessions, runs and spaces are taken off the end, and
never all of a name. `hippocampus_001` keeps its number: cut at the first `_`, 260 subjects would be one.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import PurePath

CONTRAST = re.compile(
    r"t1|t1w|t1c|t1ce|t1gd|t1post|t1pre|t1n|t2|t2w|t2f|t2flair|flair|flairw|pd|pdw|pdt2|t2star|t2starw|t2s|swi|dwi|adc|"
    r"mprage|mpr(?:-?\d)?|mp2rage|unit1|spgr|bravo|space|tse|fse|mra|mrv|tof|angio|ct|cta|cbct|ncct|cect|pet|suv|mr|mri|"
    r"ce|gd|gad|pre|post|contrast|(?:acq|ce|rec|echo|inv|mt|part|flip)-[a-z0-9]+|echo\d+|e\d"
)
"""Words that say what an image shows."""
PROCESSING = re.compile(
    r"brain|bet|n4|biascorr|corrected|reg|registered|coreg|warped|norm|normali[sz]ed|mni|mni152|native|std|restore|"
    r"stripped|skullstripped|ss|deface|defaced|anon|preproc|preprocessed|reo|crop|cropped|resampled|iso|"
    r"\d+(?:p\d+)?mm|hires|img|image|scan|orig|raw|nu|pp|(?:space|desc|res)-[a-z0-9]+"
)
"""Words that say what was done to it, or in which space it lies."""
VISIT = re.compile(
    r"(?:ses|session|run|visit|tp|timepoint|time|scan|rep|repeat|fu|followup|wave|week|month|year|day|frame)"
    r"[-_ ]?\d+[a-z]?|\d{1,3}[-_ ]?(?:months?|weeks?|years?|days?|mo|yrs?)|"
    r"ses-[a-z0-9]+|v\d{1,2}|m\d{1,3}|mr\d|y\d|bl|baseline|followup|preop|postop|pre-op|post-op|retest|left|right|"
    r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
)
"""Words of a session, run, date or side of the body: another image of the same kind and subject."""
CONVERTED = re.compile(r"_((?:19|20)\d{12}_\d+[a-z]?)$")
"""Time of acquisition and series number, with which the names of dcm2niix end."""
DATE = re.compile(r"[_\-.]((?:19|20)\d\d[-_.](?:0[1-9]|1[0-2])[-_.](?:0[1-9]|[12]\d|3[01]))$")
VISIT_FOLDER = re.compile(
    rf"(?:st|se|study|series|exam|acq)[-_ ]?\d+|(?:19|20)\d\d(?:[-_.]\d\d?){{0,2}}|"
    rf"\d\d?[-_.]\d\d?[-_.](?:19|20)\d\d|[vt]\d{{1,2}}|pre|post|test|train|val|{VISIT.pattern}"
)

LABEL_WORD = re.compile(
    r"d?segs?|segmentations?|labels?|labelmaps?|(?:brain|deface)?masks?|probseg|aseg|aparc|wmparc|synthseg|"
    r"[a-z]+(?:seg|segm|mask|msk)|segm|msk|labels?for[a-z]+|pveseg|(?:seg|label|mask)\d+|parcellations?|parc|dlmuse|annotations?|(?:label|atlas|seg)-[a-z0-9]+"
)
LABEL_LAST = re.compile(r"gt|groundtruth|rois?|lesions?|contours?|ribbon|wmh")
LABEL_PART = re.compile(r"segmentation|aseg|labelmap|pve_\d")
LABEL_FOLDER = re.compile(
    r"(?:.*_)?(?:ground_?truths?|ground|gts?|labels?(?!l?ed).*|masks?|segs?|segm|segmentations?|annotations?)"
)

PREFIX = re.compile(r"(?:(?:m0?w|w|r|s\d?)*[cp][1-6]|m0?w|wm|w|m|r|i?y_)(?=[A-Za-z].*\d)")
"""Letters that SPM and CAT12 write before the name of the scan that an image was made from."""


@dataclass(frozen=True)
class NameParts:
    """The name of an image in its parts."""

    subject: str
    """What is left when all words of the field are taken off; empty for names like `T1`."""
    kind: str
    """What it shows and how it was processed, such as `T1` or `T1 brain`; empty where the name does not say."""


def is_label_name(stem: str) -> bool:
    """Whether a file's name is that of a label map, a mask or a parcellation."""
    text = stem.lower()
    words = re.split(r"[_.\s]+", text)
    words += [word for part in words for word in part.split("-")]
    last = re.split(r"[_\-.\s]+", text)[-1]
    return bool(
        LABEL_PART.search(text) or LABEL_LAST.fullmatch(last) or any(LABEL_WORD.fullmatch(word) for word in words)
    )


def lies_among_labels(name: str) -> bool:
    """Whether a folder on a relative path is one of label maps."""
    return any(LABEL_FOLDER.fullmatch(part.lower()) for part in PurePath(name).parts[:-1])


def tells_visit(folder: str) -> bool:
    """Whether a folder's name is a session, a date or a part of a split, and not a person."""
    return bool(VISIT_FOLDER.fullmatch(folder.lower()))


def is_part(folder: str) -> bool:
    """Whether a folder's name is a part of a split, in which persons may be counted anew."""
    return bool(re.fullmatch(r"train(?:ing)?|val(?:idation)?|test(?:ing)?", folder.lower()))


def tells_kind(folder: str) -> bool:
    """Whether a folder's name says what its images show."""
    return bool(CONTRAST.fullmatch(folder.lower()) or PROCESSING.fullmatch(folder.lower()))


def tells_contrast(word: str) -> bool:
    """Whether a word says what an image shows, apart from how it was processed."""
    return bool(CONTRAST.fullmatch(word.lower()))


def is_name_of(name: str, longer: str) -> bool:
    """Whether `longer` is `name`, or begins with it and goes on with neither letter nor digit."""
    return longer == name or (longer.startswith(name) and not longer[len(name)].isalnum())


def longest_name_of(names: Collection[str], longer: str) -> str | None:
    """The longest of `names` that `longer` begins with; quick where they are a set or the keys of a mapping."""
    known = names if isinstance(names, Set | Mapping) else frozenset(names)
    ends = (end for end in range(len(longer), 0, -1) if end == len(longer) or not longer[end].isalnum())
    return next((longer[:end] for end in ends if longer[:end] in known), None)


def split_name(stem: str) -> NameParts:
    """Take the words of the field off the end of a name; a lone session or date stays, for it may be all there is."""
    rest, kinds = stem, list[str]()
    while rest:
        head, word = _last_word(rest)
        shows = tells_kind(word)
        if not shows and (not head or not _is_visit(word)):
            break
        kinds = [word, *kinds] if shows else kinds
        rest = head
    return NameParts(rest, " ".join(kinds))


def _last_word(text: str) -> tuple[str, str]:
    """A name before and after its last separator; a date and an entity such as `ses-01` are one word."""
    if dated := CONVERTED.search(text) or DATE.search(text):
        return text[: dated.start()], dated.group(1)
    head, _, word = text.rpartition("_")
    if tells_kind(word) or _is_visit(word):
        return head, word
    found = re.search(r"[_\-.\s](?=[^_\-.\s]*$)", text)
    return (text[: found.start()], text[found.end() :]) if found else ("", text)


def _is_visit(word: str) -> bool:
    return bool(VISIT.fullmatch(word.lower()) or DATE.search(f"_{word}") or CONVERTED.search(f"_{word}"))


def split_names(stems: Sequence[str]) -> list[NameParts]:
    """The parts of many names, where words that several subjects share also distinguish kinds.

    `P01_axial, P01_sagittal, P02_axial, P02_sagittal` are two subjects with two kinds each, and so are
    `T1_001, T2_001, T1_002, T2_002`; `anna_smith, bert_smith` are two subjects.
    """
    parts = _without_common_end([split_name(stem) for stem in stems])
    for split in (_end_of, _end_of, _middle_of, _start_of, _processed):
        parts = _take_shared(parts, split)
    return parts


def _without_common_end(parts: list[NameParts]) -> list[NameParts]:
    """Take off a last word that all names have, which may hide a visit: `P01_left_knee, P01_right_knee`."""
    ends = {_end_of(part.subject) for part in parts}
    if len({word for _, word in ends}) != 1 or len(parts) < 2 or not all(re.search(r"\d", head) for head, _ in ends):
        return parts
    bare = [split_name(_end_of(part.subject)[0]) for part in parts]
    return [NameParts(rest.subject, f"{rest.kind} {part.kind}".strip()) for rest, part in zip(bare, parts, strict=True)]


def _end_of(subject: str) -> tuple[str, str]:
    head, _, word = subject.rpartition("_")
    return (head, word) if any(sign.isalpha() for sign in word) else ("", "")


def _middle_of(subject: str) -> tuple[str, str]:
    words = subject.split("_")
    place = next((place for place, word in enumerate(words[1:-1], start=1) if tells_contrast(word)), None)
    return ("_".join([*words[:place], *words[place + 1 :]]), words[place]) if place else ("", "")


def _start_of(subject: str) -> tuple[str, str]:
    word, _, tail = subject.partition("_")
    return (tail, word) if tells_contrast(word) or _is_visit(word) else ("", "")


def _processed(subject: str) -> tuple[str, str]:
    """What SPM and CAT12 write before the name of the scan: `c1` and `mwp1` for grey matter, `wm`, `y_`."""
    match = PREFIX.match(subject)
    tail = subject[match.end() :] if match else ""
    return (tail, match[0]) if match and not tells_kind(tail) else ("", "")


def _take_shared(parts: list[NameParts], split: Callable[[str], tuple[str, str]]) -> list[NameParts]:
    """Take a word off all names that have one there, if only that brings several images of a subject together."""
    words: defaultdict[str, set[str]] = defaultdict(set)
    subjects: defaultdict[str, set[str]] = defaultdict(set)
    for subject, word in (split(part.subject) for part in parts):
        if subject:
            words[subject].add(word)
            subjects[word].add(subject)
    for part in parts:
        if part.subject in words:
            words[part.subject].add("")
    several = [subject for subject, own in words.items() if len(own) > 1 and any(map(str.isdigit, subject))]
    shared = {word for subject in several for word in words[subject] if len(subjects[word]) > 1 or _is_visit(word)}
    shared.discard("")
    return [_without(part, *split(part.subject), shared) for part in parts]


def _without(part: NameParts, subject: str, word: str, shared: set[str]) -> NameParts:
    if not subject or word not in shared:
        return part
    return NameParts(subject, part.kind if _is_visit(word) else f"{word} {part.kind}".strip())
