"""Reasons of rejections, counted by their kind.

A reason names figures of a single volume, which stay in the study; what leaves is how often each kind occurred.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from meddiff_core.contract import Frozen


class RealRejections(Frozen):
    """Validation volumes held against the bounds, in counts."""

    volumes: int
    rejected: int
    reasons: dict[str, int]
    """By kind of reason; one with two reasons counts under both."""
    bounds: int
    """That each was held against."""


def count_real(reasons: Sequence[Sequence[str]], bounds: int) -> RealRejections:
    """From the reasons of each validation volume, none for an accepted one."""
    rejected = sum(bool(said) for said in reasons)
    return RealRejections(volumes=len(reasons), rejected=rejected, reasons=count_kinds(reasons), bounds=bounds)


def count_kinds(reasons: Iterable[Sequence[str]]) -> dict[str, int]:
    """Rejected volumes by kind of reason, most frequent first."""
    kinds = Counter(kind_of(reason) for said in reasons for reason in said)
    return dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0])))


def kind_of(reason: str) -> str:
    """A reason without its figures: of `mean 0.2 is below 0.3 (training range)`, `mean below the accepted range`."""
    found = re.fullmatch(r"(.+) \S+ (?:is|are) (below|above) \S+ \(.+\)", reason)
    return f"{found[1]} {found[2]} the accepted range" if found else reason
