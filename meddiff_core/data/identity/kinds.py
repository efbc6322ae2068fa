"""Which kinds of image a study uses: contrasts, channels, stages of processing, fields of view.

Pooled, they would teach a model that one anatomy looks several ways at random; so several kinds are asked
about, and several that a person chooses become a condition.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from meddiff_core.data.layouts.listing import FoundImage
from meddiff_core.data.layouts.walking import counted
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import advise
from meddiff_core.types import Note, Question

CONDITION = "kind"
"""Name of the covariate that several chosen kinds become."""
UNNAMED = "(no suffix)"
"""Name of the kind of images whose file names do not contain one."""
MOST_LISTED = 12


@dataclass(frozen=True)
class KindOfImage:
    """One kind and how much there is of it."""

    kind: str
    scans: int
    subjects: int
    used: bool
    """False for what was left out, by the study or by the layout."""


@dataclass(frozen=True)
class Chosen:
    """The scans that the study uses."""

    found: tuple[FoundImage, ...]
    kinds: tuple[KindOfImage, ...]
    """All that were found, the most frequent first."""
    notes: tuple[Note, ...] = ()
    questions: tuple[Question, ...] = ()
    several: bool = False
    """Whether a person chose more than one kind, so that the kind is a condition."""


def choose_kinds(found: Sequence[FoundImage], wanted: Sequence[str] | None, key: str) -> Chosen:
    """Scans of the kinds wanted, or of the only kind; all and a question where several are open.

    Raises:
        ConfigurationError: a kind is wanted that no scan has.
    """
    images = _one_spelling(found)
    known = list(dict.fromkeys(name_of(image) for image in images))
    if wanted is None:
        used = {name_of(image) for image in images if not image.reserve}
    else:
        used = {_known(kind, known, key) for kind in wanted}
    counts = tuple(_counts(images, used))
    return Chosen(
        found=tuple(image for image in images if name_of(image) in used),
        kinds=counts,
        notes=tuple(_left_out(count, key) for count in counts if not count.used),
        questions=(_question(counts, key),) if wanted is None and images and len(used) != 1 else (),
        several=wanted is not None and len(used) > 1,
    )


def name_of(image: FoundImage) -> str:
    """The kind of a scan as it is listed and chosen."""
    return image.kind or UNNAMED


def _one_spelling(found: Sequence[FoundImage]) -> list[FoundImage]:
    """`T1` and `t1` are one kind, called as most of its scans are."""
    spellings: dict[str, str] = {}
    for kind, _ in Counter(image.kind or "" for image in found).most_common():
        spellings.setdefault(kind.lower(), kind)
    return [replace(image, kind=spellings[(image.kind or "").lower()]) for image in found]


def _known(kind: str, known: Sequence[str], key: str) -> str:
    match = next((name for name in known if name.lower() == (kind.strip() or UNNAMED).lower()), None)
    if match is None:
        raise ConfigurationError(
            f"{key}: must be kinds of image that were found, {kind!r} is none; {advise(kind, known, 'kinds')}"
        )
    return match


def _counts(images: Sequence[FoundImage], used: set[str]) -> list[KindOfImage]:
    scans = Counter(name_of(image) for image in images)
    subjects = Counter(kind for kind, _ in {(name_of(image), image.subject) for image in images})
    return [KindOfImage(kind, number, subjects[kind], kind in used) for kind, number in scans.most_common()]


def _left_out(count: KindOfImage, key: str) -> Note:
    return Note(count.kind, f"left out: {_in_words(count)} of this kind; {key} chooses")


def _in_words(count: KindOfImage) -> str:
    return f"{counted(count.scans, 'scan')} of {counted(count.subjects, 'subject')}"


def _question(counts: Sequence[KindOfImage], key: str) -> Question:
    open_ = [count for count in counts if count.used] or list(counts)
    listed = "; ".join(f"{count.kind!r}: {_in_words(count)}" for count in open_[:MOST_LISTED])
    more = f"; and {len(open_) - MOST_LISTED} more" if len(open_) > MOST_LISTED else ""
    return Question(key, f"images are of {len(open_)} kinds: {listed}{more}. {_how(open_[0].kind, key)}")


def _how(kind: str, key: str) -> str:
    if key == "data.channel":
        return (
            f"Choose one by its number or name, such as {kind!r}, or several by data.kinds as condition `{CONDITION}`"
        )
    return f"Choose one, such as [{kind!r}], or several, which become the condition `{CONDITION}`"
