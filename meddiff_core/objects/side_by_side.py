"""Many small requests at a time: a server far away answers each late, but many at once.

What has begun is little, so that a list of a million objects takes no memory, and an error ends the work soon.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from threading import Event
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
CONNECTIONS = 8


EVERY_S = 0.5


def side_by_side(
    function: Callable[[Item], Result], items: Iterable[Item], stopping: Event | None = None
) -> Iterator[list[Result]]:
    """What `function` gives for the items, as soon as it is there, or nothing every half a second.

    Its first exception is raised, and ends the rest; `stopping` is set then, for those that still run.
    """
    waiting = iter(items)
    pool = ThreadPoolExecutor(CONNECTIONS)
    try:
        running: set[Future[Result]] = {pool.submit(function, item) for item in islice(waiting, 2 * CONNECTIONS)}
        while running:
            done, running = wait(running, EVERY_S, FIRST_COMPLETED)
            running |= {pool.submit(function, item) for item in islice(waiting, len(done))}
            yield [future.result() for future in done]
    finally:
        if stopping:
            stopping.set()
        pool.shutdown(cancel_futures=True)
