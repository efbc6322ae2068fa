"""Some volumes out of others, without a copy of their voxels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from meddiff_core.types import LabelArray, StoredArray, Volumes


@dataclass(frozen=True)
class Selection:
    """Some volumes out of one or several sets, in a given order; a `Volumes` set."""

    places: Sequence[tuple[Volumes, int]]

    @staticmethod
    def of(volumes: Volumes, rows: Iterable[int]) -> "Selection":
        """Out of a single set."""
        return Selection([(volumes, row) for row in rows])

    def __len__(self) -> int:
        return len(self.places)

    def image(self, index: int) -> StoredArray:
        """As stored, (i, j, k)."""
        volumes, row = self.places[index]
        return volumes.image(row)

    def label(self, index: int) -> LabelArray | None:
        """Label values, (i, j, k)."""
        volumes, row = self.places[index]
        return volumes.label(row)
