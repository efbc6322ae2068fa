"""Which side each subject is on: decided once, written down, and kept.

Sides are filled to the shares that the study asks for and stratified by its covariates. What is written down is the
truth from then on: nobody ever moves, since a scan that was in the sealed holdout yesterday must not be trained on
tomorrow, whatever subjects come or go and whatever the shares and the seed become.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

from meddiff_core.artefacts import digest_of
from meddiff_core.contract import Condition, Frozen
from meddiff_core.data.fingerprint import Fingerprint
from meddiff_core.data.split.strata import in_strata, spread
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import SplitConfig

Side = Literal["train", "validation", "holdout"]
SIDES: tuple[Side, ...] = get_args(Side)
SCARCEST_FIRST: tuple[Side, ...] = ("holdout", "validation", "train")
"""Who gets the subject that two sides lack alike: the audit runs short before the training does."""


class Split(Frozen):
    """Who is on which side."""

    sides: dict[str, Side]
    """Of every subject that ever was in the study, also of those whose scans are gone."""
    train: float
    validation: float
    """Shares asked for when it was first made."""
    seed: int
    """Likewise."""

    def digest(self) -> str:
        """Of the sides alone."""
        return digest_of(self.sides)

    def sizes(self, subjects: Sequence[str]) -> dict[Side, int]:
        """How many of the items, given by the subject of each, lie on each side."""
        counts = Counter(self.sides[subject] for subject in subjects)
        return {side: counts[side] for side in SIDES}


def read_split(path: Path) -> Split:
    """The split of a study as it was written down.

    Raises:
        ConfigurationError: the file is none.
    """
    try:
        return Split.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise ConfigurationError(
            f"{path.name} must say on which side each subject is, it cannot be read: "
            f"{str(error).splitlines()[0]}; restore it, or delete it to split all subjects anew"
        ) from error


def stratifying_covariates(fingerprint: Fingerprint) -> dict[str, Condition]:
    """Per subject, the covariates of the study's table: of each the first that is known, by the names of its scans."""
    names = [name for name, kind in fingerprint.kinds.items() if kind in ("categorical", "continuous")]
    found: dict[str, Condition] = {}
    for case in sorted(fingerprint.cases, key=lambda case: case.case):
        known = found.setdefault(case.subject, dict.fromkeys(names))
        known.update({name: case.covariates.get(name) for name in names if known[name] is None})
    return found


def assign_sides(
    previous: Split | None,
    subjects: Mapping[str, Condition],
    config: SplitConfig,
    seed: int,
    same_subject: Sequence[Sequence[str]] = (),
) -> Split:
    """The split of `subjects`, given with their covariates; who has a side keeps it.

    New subjects go where the shares lack most. They are apportioned in the order of their strata, within which a seeded
    hash decides. `same_subject` lists names of one person each, of which `subjects` may hold any one.

    Raises:
        ConfigurationError: names of one person lie on two sides.
    """
    kept = _kept(previous, subjects, same_subject)
    new = {subject: subjects[subject] for subject in sorted(subjects.keys() - kept.keys())}
    counts = _new_on_each_side(config, Counter(kept[subject] for subject in subjects if subject in kept), len(new))
    apportioned = dict(zip(in_strata(new, seed), spread(counts, seed), strict=True))
    sides = dict(sorted((kept | apportioned).items()))
    if previous is not None:
        return previous.model_copy(update={"sides": sides})
    return Split(sides=sides, train=config.train, validation=config.validation, seed=seed)


def sizes_of_new(config: SplitConfig, subjects: int) -> dict[Side, int]:
    """Subjects on each side when so many are split for the first time."""
    return _new_on_each_side(config, Counter(), subjects)


def _kept(
    previous: Split | None, subjects: Mapping[str, Condition], same_subject: Sequence[Sequence[str]]
) -> dict[str, Side]:
    """Sides that are settled: those written down, and those of a person who was known under another name."""
    kept = {} if previous is None else dict(previous.sides)
    for names in same_subject:
        known = {name: kept[name] for name in sorted(names) if name in kept}
        if len(set(known.values())) > 1:
            raise ConfigurationError(_on_two_sides(known))
        kept |= {name: side for name in names if name in subjects for side in known.values()}
    return kept


def _on_two_sides(known: Mapping[str, Side]) -> str:
    names = ", ".join(f"{name!r} ({side})" for name, side in list(known.items())[:3])
    return (
        f"data.same_subject: one person must be on one side of the split, {names} are on two; "
        "delete split.json to split all subjects anew"
    )


def _new_on_each_side(config: SplitConfig, kept: Mapping[Side, int], new: int) -> dict[Side, int]:
    """How many of the new subjects each side gets: first one where there is none, then by the largest remainder."""
    train, validation = Fraction(str(config.train)), Fraction(str(config.validation))
    shares: dict[Side, Fraction] = {"train": train, "validation": validation, "holdout": 1 - train - validation}
    total, counts = sum(kept.values()) + new, Counter(kept)
    for _ in range(new):
        lack = {side: (counts[side] == 0 < shares[side], shares[side] * total - counts[side]) for side in shares}
        counts[max(SCARCEST_FIRST, key=lack.__getitem__)] += 1
    return {side: counts[side] - kept.get(side, 0) for side in SIDES}
