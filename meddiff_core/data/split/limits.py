"""What each side of a split must hold for training and audit to work, and what helps where it does not.

Asked before the split is written down and anything is trained: an audit that finds no holdout after two trainings
has cost an hour, or on a large study a week.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from math import ceil

from meddiff_core.data.split.sides import SIDES, Side, Split, sizes_of_new
from meddiff_core.errors import ConfigurationError
from meddiff_core.study import SplitConfig

FEWEST_AUDITED = 8
"""Volumes of each set that the audit compares, below which no interval means anything."""
FEWEST_VALIDATED = 1
"""Validation volumes that a training can be followed by."""
FEWEST_COMPARED = 2
"""Subjects of the training set and of the holdout, below which no subject can be distinguished from the others."""
FEWEST_VOLUMES: dict[Side, int] = {"train": FEWEST_AUDITED, "validation": FEWEST_VALIDATED, "holdout": FEWEST_AUDITED}
FEWEST_SUBJECTS: dict[Side, int] = {"train": FEWEST_COMPARED, "validation": 1, "holdout": FEWEST_COMPARED}
SHARES = tuple(round(0.05 * step, 2) for step in range(16, 0, -1))
"""Of a side, that are tried for advice."""
MOST_SUBJECTS = 10_000
"""Up to which the number that would do is sought."""


def require_usable_sides(split: Split, scans: Sequence[str], config: SplitConfig, first: bool) -> None:
    """Refuse a split of `scans`, given by the subject of each, that training or audit could not use.

    `first`: none of it was written down before, so that other shares would still change it.

    Raises:
        ConfigurationError: a side holds too little; says what would help.
    """
    known = sorted(set(scans))
    volumes, subjects = split.sizes(scans), split.sizes(known)
    if all(volumes[side] >= FEWEST_VOLUMES[side] and subjects[side] >= FEWEST_SUBJECTS[side] for side in SIDES):
        return
    needed = _subjects_needed(len(scans) / len(known))
    found = f"{_listed(subjects)} of {len(known)} subjects"
    if len(scans) > len(known):
        found += f" ({_listed(volumes)} of {len(scans)} scans)"
    advice = _other_shares(config, len(known), needed) if first else _more_or_anew(subjects, needed)
    raise ConfigurationError(
        f"split: at least {_listed(FEWEST_VOLUMES)} scans of {_listed(FEWEST_SUBJECTS)} subjects must train / validate "
        f"/ be held out, there are {found}; {advice}"
    )


def _subjects_needed(scans_each: float) -> dict[Side, int]:
    """Subjects on each side, if all have as many scans as they have in the mean."""
    return {side: max(FEWEST_SUBJECTS[side], ceil(FEWEST_VOLUMES[side] / scans_each)) for side in SIDES}


def _listed(counts: Mapping[Side, int]) -> str:
    return " / ".join(str(counts[side]) for side in SIDES)


def _other_shares(config: SplitConfig, count: int, needed: Mapping[Side, int]) -> str:
    """Shares that would do for these subjects, and how many subjects would do for these shares."""
    usable = (other for other in _alternatives(config) if _suffices(other, count, needed))
    shares, enough = next(usable, None), _subjects_that_suffice(config, count, needed)
    more = f"at least {enough} subjects at these shares" if enough else ""
    if shares is None:
        fewest = sum(needed.values())
        text = f"no shares would do, at least {fewest} subjects are needed"
        return f"{text}, and {more}" if more and enough != fewest else text
    keys = [
        f"split.{name}: {getattr(shares, name):g}"
        for name in ("train", "validation")
        if getattr(shares, name) != getattr(config, name)
    ]
    return " or ".join(filter(None, [f"what would do is `{'`, `'.join(keys)}`", more]))


def _alternatives(config: SplitConfig) -> list[SplitConfig]:
    """Other shares, the same validation share and a large training share first."""
    validations = dict.fromkeys([config.validation, *SHARES])
    pairs = [(train, validation) for validation, train in product(validations, SHARES) if train + validation < 0.951]
    return [SplitConfig(train=train, validation=validation) for train, validation in pairs]


def _suffices(config: SplitConfig, count: int, needed: Mapping[Side, int]) -> bool:
    sizes = sizes_of_new(config, count)
    return all(sizes[side] >= needed[side] for side in SIDES)


def _subjects_that_suffice(config: SplitConfig, count: int, needed: Mapping[Side, int]) -> int | None:
    """The fewest subjects at these shares, found by their quotients: each side is within one of its own."""
    shares = {"train": config.train, "validation": config.validation, "holdout": 1 - config.train - config.validation}
    if min(shares.values()) < 1 / MOST_SUBJECTS:
        return None
    least = max(count, *(int((needed[side] - 1) / shares[side]) for side in SIDES))
    return next((n for n in range(least, MOST_SUBJECTS) if _suffices(config, n, needed)), None)


def _more_or_anew(subjects: Mapping[Side, int], needed: Mapping[Side, int]) -> str:
    lacking = ", ".join(f"{needed[side] - subjects[side]} on {side}" for side in SIDES if subjects[side] < needed[side])
    return f"add subjects ({lacking or 'with more scans'}): nobody moves, unless split.json is deleted to split anew"
