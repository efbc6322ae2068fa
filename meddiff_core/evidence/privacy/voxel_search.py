"""The nearest training volume of a volume in low-resolution voxels, whole and by halves, through small changes.

A copy of half a brain joined to half of another passes as new when whole volumes are compared. So octants are
correlated by themselves, each with its own gain and offset, and the four of each half are taken together.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meddiff_core.contract import Contract
from meddiff_core.evidence.intervals import Matrix
from meddiff_core.evidence.neighbours import Neighbours, best_correlation, closest, join, to_length_one
from meddiff_core.evidence.subjects import numbered
from meddiff_core.evidence.voxel_keys import key_grid, voxel_keys
from meddiff_core.types import FloatArray, Progress, Volumes

NO_CHANGE = 1e-5
"""Length, of keys of length 1, below which a change is none."""
WHOLE = "voxels"
SMOOTHED = "smoothed voxels"
STRONG_SMOOTHING = 1.5
"""Standard deviation, in voxels of the grid of shifts, of the Gaussian that both sides go through in that view: a copy
that was blurred before differs the less from its original the more both are smoothed."""
HALVES = {
    "left": (0, 1, 2, 3),
    "right": (4, 5, 6, 7),
    "back": (0, 1, 4, 5),
    "front": (2, 3, 6, 7),
    "lower": (0, 2, 4, 6),
    "upper": (1, 3, 5, 7),
}
"""Octants of each half; octant 4 a + 2 b + c is the upper side of i where a, of j where b, of k where c."""

Search = Callable[[FloatArray], Mapping[str, Neighbours]]
"""Of query keys (n, variants, p): neighbours by way of looking."""


@dataclass(frozen=True)
class KeySpace:
    """What sets the keys of one part of the volume apart from the mean training key."""

    cells: NDArray[np.int64]
    """(p,) columns of a whole key."""
    centre: FloatArray
    """(p,) the mean training key."""
    ignored: FloatArray
    """(p, k) orthonormal: where changes move that mean, and so all keys alike, that say nothing of whose head it is."""

    def apart(self, keys: FloatArray) -> FloatArray:
        """(..., p) of length 1, from whole keys: the difference from the mean, without what is `ignored`.

        An autoencoder smooths whatever it gives back, and percentiles of a smooth volume lift its foreground off the
        background. Where heads differ little, either moves a copy farther than another head is away.
        """
        difference: FloatArray = _standardised(keys[..., self.cells]) - self.centre
        return to_length_one(np.asarray(difference - difference @ self.ignored @ self.ignored.T))


@dataclass(frozen=True)
class VoxelSearch:
    """Training keys, ready to be searched."""

    whole: KeySpace
    octants: tuple[KeySpace, ...]
    anchors: tuple[FloatArray, ...]
    """(p, m) of the training volumes, whole and then per octant."""
    subjects: NDArray[np.int64]
    """(m,) whose each training volume is."""

    def __call__(self, keys: FloatArray, own: NDArray[np.int64] | None = None) -> dict[str, Neighbours]:
        """Neighbours of keys (n, variants, p), whole and per half; `own` (n,) is whom each must not meet."""
        halves = {name: closest(1 - found, self.subjects, own) for name, found in self._halves(keys).items()}
        return {WHOLE: self.find_whole(keys, own), **halves}

    def find_whole(self, keys: FloatArray, own: NDArray[np.int64] | None = None) -> Neighbours:
        """The same of whole keys alone."""
        return closest(1 - best_correlation(self.whole.apart(keys), self.anchors[0]), self.subjects, own)

    def _halves(self, keys: FloatArray) -> dict[str, Matrix]:
        """(n, m) per half: the best mean correlation of its octants that any variant of the query shows."""
        octants = [
            space.apart(keys).reshape(-1, len(space.cells)) @ anchors
            for space, anchors in zip(self.octants, self.anchors[1:], strict=True)
        ]
        found = {}
        for name, members in HALVES.items():
            mean = sum(octants[member] for member in members) / np.float32(len(members))
            best = np.asarray(mean).reshape(*keys.shape[:2], -1).max(1)
            found[name] = np.minimum(best.astype(np.float64), 1.0)
        return found

    def among_others(self, keys: FloatArray, reference: FloatArray) -> Neighbours:
        """Of keys (n, variants, p) among other volumes' keys (r, p), whole, with the distances of the search."""
        found = best_correlation(self.whole.apart(keys), self.whole.apart(reference).T)
        return closest(1 - found, np.arange(len(reference)))

    def among_themselves(self, keys: FloatArray, block: int = 64) -> dict[str, Neighbours]:
        """Of each training key (m, p) among those of other subjects, as it is."""
        starts = range(0, len(keys), block)
        parts = [self(keys[at : at + block, None], self.subjects[at : at + block]) for at in starts]
        return _joined(parts)


def fit_search(
    keys: FloatArray, contract: Contract, subjects: Sequence[str] | None = None, changed: Sequence[FloatArray] = ()
) -> VoxelSearch:
    """From the keys (m, p) of the training volumes, whose each is, and their keys after each change to ignore."""
    cells = (np.arange(keys.shape[1]), *_octants(key_grid(contract)))
    whole, *octants = (_fit_space(keys, columns, changed) for columns in cells)
    anchors = tuple(space.apart(keys).T for space in (whole, *octants))
    return VoxelSearch(whole, tuple(octants), anchors, numbered(subjects, len(keys)))


def _fit_space(keys: FloatArray, cells: NDArray[np.int64], changed: Sequence[FloatArray]) -> KeySpace:
    centre = _standardised(keys[:, cells]).mean(0)
    moved = [_standardised(one[:, cells]).mean(0) - centre for one in changed]
    known = [one for one in moved if np.linalg.norm(one) > NO_CHANGE]
    ignored = np.linalg.qr(np.stack(known, axis=1))[0] if known else np.zeros((len(cells), 0))
    return KeySpace(cells, centre, ignored.astype(np.float32))


def _octants(grid: tuple[int, int, int]) -> tuple[NDArray[np.int64], ...]:
    """Columns of a key that lie in each of the eight octants."""
    upper = [np.arange(side) >= side // 2 for side in grid]
    octant = 4 * upper[0][:, None, None] + 2 * upper[1][:, None] + upper[2]
    return tuple(np.flatnonzero(octant.ravel() == number) for number in range(8))


def _standardised(part: FloatArray) -> FloatArray:
    """Rows (..., p) with mean 0 and length 1: gain and offset of a part do not matter."""
    return to_length_one(part - part.mean(-1, keepdims=True))


def match_voxels(
    volumes: Volumes, contract: Contract, search: Search, batch: int = 16, smoothing: float = 0.0
) -> Generator[Progress, None, dict[str, Neighbours]]:
    """What a search finds for whole volumes, smoothed first if wanted, a few at a time."""
    parts = []
    for start in range(0, len(volumes), batch):
        stop = min(start + batch, len(volumes))
        rows = range(start, stop)
        parts.append(search(np.stack([voxel_keys(volumes.image(index), contract, smoothing) for index in rows])))
        yield Progress("search for copies", stop, len(volumes))
    return _joined(parts)


def _joined(parts: Sequence[Mapping[str, Neighbours]]) -> dict[str, Neighbours]:
    return {name: join([part[name] for part in parts]) for name in parts[0]}
