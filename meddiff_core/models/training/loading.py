"""Volumes where a training needs them, before it needs them.

What fits stays in memory after it was read once. Beside a GPU the next step's batch is made while this one's is
used; on a processor that would only take cores from the training, where loading is about a hundredth of a step.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from meddiff_core.types import LabelArray, StoredArray, Volumes

Batch = TypeVar("Batch")


class Remembered:
    """`Volumes` that are read once each, as long as all that is held stays below a limit in bytes."""

    def __init__(self, volumes: Volumes, limit: int) -> None:
        self._volumes, self._room = volumes, limit
        self._held: dict[int, tuple[StoredArray, LabelArray | None]] = {}

    def __len__(self) -> int:
        return len(self._volumes)

    def image(self, index: int) -> StoredArray:
        """Image as stored, (i, j, k)."""
        return self._read(index)[0]

    def label(self, index: int) -> LabelArray | None:
        """Label values, (i, j, k)."""
        return self._read(index)[1]

    def _read(self, index: int) -> tuple[StoredArray, LabelArray | None]:
        if index in self._held:
            return self._held[index]
        image, label = self._volumes.image(index), self._volumes.label(index)
        size = image.nbytes + (0 if label is None else label.nbytes)
        if size <= self._room:
            self._room -= size
            self._held[index] = image, label
        return image, label


class Ahead(Generic[Batch]):
    """The batches of a training by step, each made on a thread while the one before it is used."""

    def __init__(self, make: Callable[[int], Batch], enabled: bool) -> None:
        self._make = make
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ahead") if enabled else None
        self._next: tuple[int, Future[Batch]] | None = None

    def __call__(self, step: int) -> Batch:
        """The batch of a step; an error of making it is raised here, at the step that needs it."""
        if self._pool is None:
            return self._make(step)
        ready, self._next = self._next, None
        batch = ready[1].result() if ready is not None and ready[0] == step else self._make(step)
        self._next = step + 1, self._pool.submit(self._make, step + 1)
        return batch
