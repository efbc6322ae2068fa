"""Which side a subject is on. Told from the subject's id alone, so that a new subject moves nobody else:
a scan that was in the sealed holdout yesterday can never be trained on tomorrow.
"""

import hashlib
from typing import Literal, get_args

from meddiff_core.study import SplitConfig

Side = Literal["train", "validation", "holdout"]
SIDES: tuple[Side, ...] = get_args(Side)


def side_of(subject: str, seed: int, split: SplitConfig) -> Side:
    """The side of a subject: a seeded hash of its id, uniform in [0, 1), against the shares."""
    place = int.from_bytes(hashlib.sha256(f"{seed}:{subject}".encode()).digest()[:8]) / 2**64
    if place < split.train:
        return "train"
    return "validation" if place < split.train + split.validation else "holdout"
