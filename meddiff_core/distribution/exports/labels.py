"""What a volume is called in an export: letters and digits alone, one name for each volume of the release.

BIDS takes no hyphen in a label, WebDataset cuts a key at its first dot, and some disks do not distinguish letter case.
Names are given over the whole release, so that an export of a part calls a volume the same.
"""

import re
from collections.abc import Sequence

LONGEST = 40
"""Characters of a label; a DICOM PatientID of at most 64 holds it and more."""


def labels_of(identifiers: Sequence[str]) -> tuple[str, ...]:
    """A label for each volume: the letters and digits of its id, or all by number where those are not distinct."""
    bare = [re.sub(r"[^A-Za-z0-9]", "", identifier) for identifier in identifiers]
    distinct = len({label.casefold() for label in bare}) == len(bare)
    if distinct and all(0 < len(label) <= LONGEST for label in bare):
        return tuple(bare)
    width = max(6, len(str(len(bare))))
    return tuple(f"volume{number:0{width}}" for number in range(len(bare)))
