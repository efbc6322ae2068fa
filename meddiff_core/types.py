"""Small values that stages exchange, and the names of array shapes.

Arrays themselves stay on disk: a task passes a reference, never a volume. Axes are (b, c, i, j, k) with
(i, j, k) pointing right, anterior, superior (RAS+), in mm.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    Images = Tensor
    Latents = Tensor
    Sigma = Tensor

FloatArray = NDArray[np.float32]
StoredArray = NDArray[np.unsignedinteger[Any]]
"""Voxels as they lie on disk: uint8 or uint16."""
LabelArray = NDArray[np.uint8]
"""Stored label values: 0 is background, n the n-th group of the contract."""

TENSORS = {
    "Images": "b c i j k",  # voxel space; channel 0 is the image in [-1, 1], the others label maps
    "Latents": "b z u v w",  # autoencoder space; u, v, w lie along i, j, k, on a coarser grid
    "Sigma": " b",  # noise level of each sample, in units of the latents' standard deviation
}
"""Shapes of floating-point tensors, by the name of their type."""


def __getattr__(name: str) -> Any:
    """A type of tensors, made when it is first imported: who reads a release may have no torch."""
    if name not in TENSORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from jaxtyping import Float
    from torch import Tensor

    return globals().setdefault(name, Float[Tensor, TENSORS[name]])


@dataclass(frozen=True)
class Volume:
    """A 3D array with its place in the world."""

    array: FloatArray
    """(i, j, k), RAS+."""
    affine: NDArray[np.float64]
    """(4, 4), voxel index to mm."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along i, j, k."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)


@dataclass(frozen=True)
class CaseRef:
    """One scan of one subject: where it lies and what the table says of it."""

    case: str
    """Unique in the study; from the file's name, for the internal lists only."""
    subject: str
    image: Path
    """NIfTI file, or the first file of a DICOM series."""
    label: Path | None = None
    covariates: dict[str, float | str | None] = field(default_factory=dict)
    slices: tuple[Path, ...] = ()
    """All files of a DICOM series; none for NIfTI."""
    kind: str = ""
    """What tells this image apart from others of the same subject: contrast, channel, field of view."""
    channel: int | None = None
    """Along the fourth axis of a file that holds several; None for a file of one volume."""


@dataclass(frozen=True)
class Refusal:
    """A case or file that cannot be used, with the reason."""

    case: str
    reason: str


@dataclass(frozen=True)
class Note:
    """A remark on something that is used, repaired or left out on purpose: nothing was refused."""

    case: str
    """The case, file, column or setting that it is about."""
    reason: str
    """The remark."""


@dataclass(frozen=True)
class Question:
    """What a folder leaves open and a person must settle before anything is made from it."""

    key: str
    """The setting that answers it, such as `data.kinds`."""
    text: str
    """What was found, with counts and examples, and which values the key may have."""


@dataclass(frozen=True)
class Progress:
    """How far a long piece of work is; yielded by it, shown by its caller."""

    label: str
    done: int
    total: int
    metrics: dict[str, float] = field(default_factory=dict)
    """Figures worth a curve at this step."""
    note: str = ""
    """What a person should read now: something went wrong, and what was done about it."""


@dataclass(frozen=True)
class Message:
    """A line for the person who waits: what was found, or what will be done."""

    text: str


@runtime_checkable
class Volumes(Protocol):
    """A set of stored volumes that are read one at a time: a side of the data set, or a cohort."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> StoredArray:
        """(i, j, k), on the grid and in the storage type of the contract."""

    def label(self, index: int) -> LabelArray | None:
        """(i, j, k), or None where the study has no label maps."""


Item = TypeVar("Item")
Result = TypeVar("Result")
Work = Generator[Progress | Message, None, Result]
"""A long piece of work, which yields how far it is and comes to a result."""


@runtime_checkable
class Mapper(Protocol):
    """Applies a function to many items, anywhere, in any order. Dask behind it is the tasks' business."""

    def __call__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result]]:
        """Yield (position of the item, result) as they are ready. An exception of `function` is raised."""


def serial_map(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result]]:
    """The simplest `Mapper`: in this process, one item after the other."""
    for position, item in enumerate(items):
        yield position, function(item)
