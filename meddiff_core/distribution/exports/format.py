"""What every format has in common: an export is written volume by volume, and then its tables and papers.

A format says what it reads of a volume, and which files it makes of it. Steps are what a restart continues with.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from meddiff_core.distribution.exports.cohort import Cohort, ExportedVolume
from meddiff_core.errors import IntegrityError

Step = Sequence[ExportedVolume]


@dataclass(frozen=True)
class Voxels:
    """A volume as it was released: integers, (i, j, k), RAS+."""

    image: NDArray[np.int16]
    label: NDArray[np.uint8] | None


class ExportFormat(ABC):
    """One format, writing one cohort. `Content` of a volume is voxels, unless a format reads something else."""

    title: ClassVar[str]

    def __init__(self, cohort: Cohort) -> None:
        self.cohort = cohort

    def steps(self) -> Sequence[Step]:
        """What is written at a time: a volume."""
        return [(volume,) for volume in self.cohort.volumes]

    def read(self, volume: ExportedVolume) -> Any:
        """What is written of a volume; read ahead, in a thread of its own."""
        image, label = self.cohort.release.integers(volume.row), self.cohort.release.label(volume.row)
        if label is not None and (most := int(label.max())) > len(self.cohort.names):
            raise IntegrityError(
                f"volume {volume.row}: label values must be 0 to {len(self.cohort.names)}, there is {most}"
            )
        return Voxels(image, label)

    def write_step(self, folder: Path, step: Step, contents: Iterator[Any]) -> Generator[None, None, list[Path]]:
        """Write a step anew, whatever lies there; yields after each volume and returns the files."""
        paths = []
        for volume in step:
            paths += self.write_volume(folder, volume, next(contents))
            yield
        return paths

    @abstractmethod
    def write_volume(self, folder: Path, volume: ExportedVolume, content: Any) -> list[Path]:
        """Write one volume and return its files."""

    @abstractmethod
    def finish(self, folder: Path) -> None:
        """Write what describes all volumes together."""
