"""Which part of the report a metric belongs to, and which set of volumes its interval waits for.

Metrics come from many places and are grouped by their names, so that gates and both reports need to know no place.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from meddiff_core.study import PRIVACY_METRICS

PARTS = {
    "privacy": "Privacy",
    "quality": "Quality",
    "anatomy": "Anatomy",
    "fidelity": "Fidelity",
    "utility": "Utility",
    "screening": "Screening",
}
"""Parts and their headings, in the order of the report."""
OTHER = "other"
"""Part of what no name here fits."""

_METRICS: dict[str, tuple[str, ...]] = {
    "privacy": PRIVACY_METRICS,
    "quality": (
        "frechet*", "kernel*", "precision*", "recall*", "density*", "coverage*", "ms_ssim*", "effect:*",
        "distinct_share",
    ),
    "anatomy": ("volume_*", "surface_*", "component*", "pieces*", "structure_*", "symmetry*", "anatomy_*"),
    "fidelity": ("fidelity_*", "pair_agreement"),
    "utility": ("utility_*", "tstr*", "trtr*", "pair_*"),
    "screening": ("accepted_share*", "acceptance_*", "screening_*"),
}  # fmt: skip
"""Patterns of names, by part."""

_WAITS_FOR: dict[str, tuple[str, ...]] = {
    "generated": ("accepted_share*", "acceptance_*"),
    "synthetic": ("fidelity_*", "pair_agreement", "distinct_share"),
    "planted": ("copy_power*", "power*"),
}
"""Patterns of metrics that look at one set alone. All others compare sets."""


def part_of(metric: str) -> str:
    """Key of the part that a metric stands in."""
    return next((part for part, patterns in _METRICS.items() if _fits(metric, patterns)), OTHER)


def waits_for(metric: str, sizes: Mapping[str, int]) -> str:
    """The set that must grow for a narrower interval: of those that are compared, the smallest."""
    alone = next((name for name, patterns in _WAITS_FOR.items() if _fits(metric, patterns)), None)
    return alone or min(sizes, key=lambda name: (sizes[name], name), default="")


def _fits(metric: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(metric, pattern) for pattern in patterns)
