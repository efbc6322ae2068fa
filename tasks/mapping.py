"""Items over the workers of a Dask cluster, whatever becomes of workers and scheduler: each result comes once.

Few items are in flight, so memory stays flat. An item that kills its worker takes its neighbours with it; they are
tried again one at a time, so that the one to blame is named and nobody else is lost. What a lost scheduler had not
done is sent to the next one. Work for which there is no worker waits, and says so: Dask itself waits in silence.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Generic, Protocol

from meddiff_core.errors import ConfigurationError, MeddiffError
from meddiff_core.types import Item, Result
from tasks.progress import warn
from tasks.software import difference_from, own_software

if TYPE_CHECKING:
    from distributed import Client, Future

_IN_FLIGHT = 4
"""Items sent ahead per thread of the workers."""
_LOOK_AGAIN_S = 1.0
"""Between two looks at how many workers there are; each is a question to the scheduler."""
_SILENCE_S = 30.0
"""Without a result for so long, it is looked whether there is a worker for the work."""
_LOSSES = 5
"""Schedulers lost one after the other without a result: the work is what kills them."""


class Connection(Protocol):
    """The way to a scheduler."""

    where: str

    @property
    def client(self) -> Client:
        """Connected."""

    def connect_again(self) -> None:
        """After a loss."""


class _SchedulerLost(Exception):
    pass


@dataclass(frozen=True)
class _Checked(Generic[Item, Result]):
    """A function that a worker with other software refuses, also one that joined after the others were asked."""

    function: Callable[[Item], Result]
    software: Mapping[str, str]

    def __call__(self, item: Item) -> Result:
        if difference_from(self.software, ""):
            from distributed import get_worker

            different = difference_from(self.software, f"worker {get_worker().address}")
            raise ConfigurationError(f"a Dask cluster must have this software: {different}")
        return self.function(item)


def map_items(
    connection: Connection, function: Callable[[Item], Result], items: Sequence[Item], *, gpu: bool
) -> Iterator[tuple[int, Result]]:
    """Yield (position, result) as they are ready.

    Raises:
        MeddiffError: items that kill every worker, or work that kills every scheduler.
    """
    sending = _Sending(connection, _Checked(function, own_software()), items, gpu)
    waiting, suspects, guilty = deque(range(len(items))), deque[int](), deque[int]()
    losses = 0
    while waiting or suspects:
        try:
            for result in sending.one_by_one(suspects, guilty) if suspects else sending.together(waiting, suspects):
                yield result
                losses = 0
        except _SchedulerLost as lost:
            if (losses := losses + 1) >= _LOSSES:
                raise MeddiffError(
                    f"the Dask scheduler must stay alive, {_LOSSES} were lost one after another"
                ) from lost
            connection.connect_again()
        if guilty and not suspects:
            killers = sorted(guilty)
            raise MeddiffError(
                f"each item must leave its worker alive, items {killers} killed it twice (out of memory?)"
            )


@dataclass
class _Sending(Generic[Item, Result]):
    """Items on their way to the workers of one cluster."""

    connection: Connection
    function: Callable[[Item], Result]
    items: Sequence[Item]
    gpu: bool
    _threads: int = 0
    _looked: float = -math.inf

    def together(self, positions: deque[int], lost: deque[int]) -> Iterator[tuple[int, Result]]:
        """Several at a time, until a worker dies; those that were lost with it go to `lost`."""
        return self._send(positions, lost, self._room)

    def one_by_one(self, positions: deque[int], lost: deque[int]) -> Iterator[tuple[int, Result]]:
        """Each alone."""
        return self._send(positions, lost, lambda: 1)

    def _send(self, positions: deque[int], lost: deque[int], room: Callable[[], int]) -> Iterator[tuple[int, Result]]:
        from distributed.scheduler import KilledWorker

        running: dict[Future[Result], int] = {}
        ended: SimpleQueue[Future[Result]] = SimpleQueue()
        before = len(lost)
        try:
            while running or (positions and len(lost) == before):
                while positions and len(lost) == before and len(running) < room():
                    future = self._submit(self.items[positions[0]], ended)
                    running[future] = positions.popleft()
                future = self._next(ended)
                try:
                    result = _result(future)
                except KilledWorker:
                    lost.append(running.pop(future))
                else:
                    yield running.pop(future), result
        except _SchedulerLost:
            positions.extendleft(sorted(running.values(), reverse=True))
            running.clear()
            raise
        finally:
            if running:
                self.connection.client.cancel(list(running))

    def _submit(self, item: Item, ended: SimpleQueue[Future[Result]]) -> Future[Result]:
        client, resources = self.connection.client, {"GPU": 1} if self.gpu else None
        if client.status != "running":
            raise _SchedulerLost
        future: Future[Result] = client.submit(self.function, item, pure=False, resources=resources)
        future.add_done_callback(ended.put)
        return future

    def _room(self) -> int:
        if time.monotonic() > self._looked + _LOOK_AGAIN_S:
            with _asking():
                self._threads = sum(self.connection.client.nthreads().values())
            self._looked = time.monotonic()
        return _IN_FLIGHT * max(1, self._threads)

    def _next(self, ended: SimpleQueue[Future[Result]]) -> Future[Result]:
        """The next item that has ended; meanwhile, say once if nobody is there to do it."""
        told, since = False, time.monotonic()
        while True:
            try:
                return ended.get(timeout=_LOOK_AGAIN_S)
            except Empty:
                if not told and time.monotonic() > since + _SILENCE_S:
                    told, since = self._tell_what_is_missing(), time.monotonic()

    def _tell_what_is_missing(self) -> bool:
        with _asking():
            workers = self.connection.client.scheduler_info()["workers"].values()
        able = [worker for worker in workers if not self.gpu or worker["resources"].get("GPU", 0) >= 1]
        if able:
            return False
        what = f"none of {len(workers)} workers has the resource GPU=1" if workers else "there is no worker"
        option = " --resources GPU=1" if self.gpu else ""
        command = f"`dask worker ADDRESS --nthreads 1{option}`"
        warn(f"Dask at {self.connection.where}: {what}, the work waits for one ({command})")
        return True


@contextmanager
def _asking() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _SchedulerLost from error


def _result(future: Future[Result]) -> Result:
    """Of an item that has ended.

    Raises:
        _SchedulerLost: it was dropped, or its result cannot be asked for any more.
        Exception: what the function raised; KilledWorker if workers died of it.
    """
    from distributed import CancelledError

    if future.status == "cancelled":
        raise _SchedulerLost
    failed = future.status == "error"
    try:
        return future.result()
    except (CancelledError, OSError) as error:
        if failed:
            raise
        raise _SchedulerLost from error
    except ModuleNotFoundError as error:
        if error.name not in ("tasks", "meddiff_core"):
            raise
        raise ConfigurationError("a Dask cluster must have this software: a worker has no meddiff") from error
