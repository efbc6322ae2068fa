"""Batches come as if each had been made when it was asked for; volumes as if each had been read."""

import threading
from collections.abc import Callable

import numpy as np
import pytest

from meddiff_core.models.training.loading import Ahead, Remembered
from meddiff_core.types import LabelArray, StoredArray


class Counted:
    """Volumes that count how often they are read."""

    def __init__(self, volumes: object) -> None:
        self.volumes, self.reads = volumes, 0

    def __len__(self) -> int:
        return len(self.volumes)

    def image(self, index: int) -> StoredArray:
        self.reads += 1
        return self.volumes.image(index)

    def label(self, index: int) -> LabelArray | None:
        return self.volumes.label(index)


@pytest.mark.parametrize("labels", [True, False])
def test_a_volume_is_read_once_and_stays_the_same(make_volumes: Callable, labels: bool) -> None:
    own = make_volumes(3, labels=labels)
    counted = Counted(own)
    volumes = Remembered(counted, 10**9)
    for index in (0, 2, 0, 2, 2):
        np.testing.assert_array_equal(volumes.image(index), own.image(index))
        label = volumes.label(index)
        assert (label is None) if not labels else np.array_equal(label, own.label(index))
    assert (len(volumes), counted.reads) == (3, 2)


def test_no_more_is_held_than_fits(make_volumes: Callable) -> None:
    own = make_volumes(4)
    counted = Counted(own)
    volumes = Remembered(counted, 2 * (own.image(0).nbytes + own.label(0).nbytes))
    for _ in range(3):
        for index in range(4):
            np.testing.assert_array_equal(volumes.image(index), own.image(index))
    assert counted.reads == 2 + 2 * 3


@pytest.mark.parametrize("enabled", [True, False])
def test_any_order_of_steps_gives_the_batches_of_those_steps(enabled: bool) -> None:
    ahead = Ahead(lambda step: step * 10, enabled)
    assert [ahead(step) for step in (0, 1, 2, 7, 7, 3, 4)] == [0, 10, 20, 70, 70, 30, 40]


def test_the_next_batch_is_made_meanwhile_on_another_thread() -> None:
    made: list[tuple[int, str]] = []
    second = threading.Event()

    def make(step: int) -> int:
        made.append((step, threading.current_thread().name))
        if step == 1:
            second.set()
        return step

    ahead = Ahead(make, enabled=True)
    ahead(0)
    assert second.wait(10)
    assert ahead(1) == 1
    assert [step for step, _ in made].count(1) == 1
    assert dict(made)[1].startswith("ahead")


def test_an_error_is_raised_at_its_own_step() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise OSError("disk is gone")
        return step

    ahead = Ahead(make, enabled=True)
    assert [ahead(0), ahead(1)] == [0, 1]
    with pytest.raises(OSError, match="disk is gone"):
        ahead(2)
