"""What the columns of a table are called in the store, where each must be a folder of its own on any disk.

Columns keep the names that people gave them, in any script; zarr takes letters, digits and `_.-` alone, and the layout
needs some names itself. Two columns under one name would be found when the release is written, after all training.
"""

import re
import unicodedata
from collections.abc import Iterable

RESERVED = frozenset({"image", "pyramid", "labels", "sample", "z", "y", "x", "c"})
"""Names that the layout takes, and that of a folder of chunks."""
LONGEST = 64


def array_names(columns: Iterable[str]) -> dict[str, str]:
    """Name in the store by column: its own where that is possible and free, else the nearest with a number.

    Columns that keep their own name come first, so that `a_b` never loses it to `a b`. Names that differ in case alone
    are told apart as well, since not every disk does.
    """
    wanted = list(columns)
    names: dict[str, str] = {}
    taken = set(RESERVED)
    for column in sorted(wanted, key=lambda column: _plain(column) != column):  # stable: else in their order
        names[column] = _free(_plain(column), taken)
        taken.add(names[column].casefold())
    return {column: names[column] for column in wanted}


def _plain(column: str) -> str:
    """The name in ASCII: accents go, what is no letter, digit, point or hyphen becomes `_`."""
    bare = unicodedata.normalize("NFKD", column)
    letters = "".join(sign for sign in bare if not unicodedata.combining(sign))
    return re.sub(r"[^A-Za-z0-9_.-]", "_", letters).lstrip("_.")[:LONGEST].rstrip("_. ") or "column"


def _free(name: str, taken: set[str]) -> str:
    if name.casefold() not in taken:
        return name
    numbered = (f"{name}_{number}" for number in range(2, len(taken) + 3))
    return next(free for free in numbered if free.casefold() not in taken)
