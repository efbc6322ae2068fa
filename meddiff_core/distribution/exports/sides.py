"""A seeded split of the exported volumes, stratified by the conditions that the release declares.

It depends on the ids and the seed alone, not on the format, so two exports of a release agree on who is tested on.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction

from meddiff_core.contract import Condition
from meddiff_core.data.split.strata import in_strata, spread
from meddiff_core.errors import ConfigurationError

NAMES = {2: ("train", "test"), 3: ("train", "validation", "test")}
"""Names of the sides, by how many there are."""


def parse_shares(text: str) -> tuple[Fraction, ...]:
    """`0.8,0.1,0.1` as shares of train, validation and test; two are train and test.

    Raises:
        ConfigurationError: they are not two or three positive numbers that sum to 1.
    """
    try:
        shares = tuple(Fraction(part.strip()) for part in text[:100].split(","))
    except (ValueError, ZeroDivisionError) as error:
        raise _wrong(text) from error
    if len(shares) not in NAMES or min(shares) <= 0 or sum(shares) != 1:
        raise _wrong(text)
    return shares


def _wrong(text: str) -> ConfigurationError:
    return ConfigurationError(
        f"--split: must be two or three shares above 0 that sum to 1, such as 0.8,0.1,0.1; got {text[:100]!r}"
    )


def split_volumes(volumes: Mapping[str, Condition], shares: Sequence[Fraction], seed: int) -> dict[str, str]:
    """The side of each volume, given its conditions by its id.

    Raises:
        ConfigurationError: a side would have no volume.
    """
    counts = _counts(shares, len(volumes))
    if empty := [name for name, count in counts.items() if not count]:
        raise ConfigurationError(f"--split: {len(volumes)} volumes leave none for {empty[0]}; take a larger share")
    return dict(zip(in_strata(volumes, seed), spread(counts, seed), strict=True))


def _counts(shares: Sequence[Fraction], total: int) -> dict[str, int]:
    """Volumes on each side, by the largest remainder."""
    named = dict(zip(NAMES[len(shares)], shares, strict=True))
    counts = Counter({name: int(share * total) for name, share in named.items()})
    for _ in range(total - counts.total()):
        counts[max(named, key=lambda name: named[name] * total - counts[name])] += 1
    return dict(counts)
