"""How large a cohort becomes on disk, and how long it takes: known before a night is spent on it.

Files and bytes follow from the layout of shards and releases; hours follow from the last cohort that this study
sampled, since a guess from the speed of a training would be off by what a solver and the decoding cost.
"""

import math
from dataclasses import dataclass

import numpy as np

from meddiff_core.contract import Contract
from meddiff_core.study import Study

OF_SHARD = 2
"""Files of a shard beside its arrays: what a group says, and the marker."""
SIZES = 2
"""Of each array of a release: in full, and smaller for viewers."""


@dataclass(frozen=True)
class CohortScale:
    """What a cohort of accepted volumes takes, without those that are rejected on the way."""

    volumes: int
    shards: int
    candidate_files: int
    release_files: int
    """Of volumes; the papers are some fifty more."""
    largest_bytes: int
    """Of all voxels before they are compressed: what candidates take at most, and a release about twice."""
    hours: float | None
    """At the speed of the last cohort; None where none was sampled."""


def scale_of(study: Study, contract: Contract, seconds_each: float | None) -> CohortScale:
    """The scale of the cohort that a study asks for, on the grid of its plan."""
    volumes, arrays = study.cohort.size, 2 if contract.labels else 1
    shards = math.ceil(volumes / study.sampling.shard)
    stored = np.dtype(contract.intensity.storage).itemsize + arrays - 1
    return CohortScale(
        volumes=volumes,
        shards=shards,
        candidate_files=1 + volumes * arrays + shards * (arrays + OF_SHARD),
        release_files=volumes * arrays * SIZES,
        largest_bytes=volumes * math.prod(contract.size) * stored,
        hours=None if seconds_each is None else volumes * seconds_each / 3600,
    )


def describe_scale(scale: CohortScale) -> str:
    """It in a line."""
    hours, size = scale.hours, scale.largest_bytes
    length = "hours: known after a first cohort" if hours is None else f"about {_length(hours)} as the last cohort took"
    return (
        f"{scale.volumes:,} volumes in {scale.shards:,} shards: {scale.candidate_files:,} files of candidates and "
        f"{scale.release_files:,} of a release, at most {_size(size)} before compression; {length}"
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _length(hours: float) -> str:
    return f"{60 * hours:.0f} minutes" if hours < 2 else f"{hours:.0f} hours"
