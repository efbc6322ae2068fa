"""Dask behind the core's `Mapper`: the only import of distributed.

A stage maps its shards or cases here, inside one Prefect task. Few items are in flight, so memory stays
flat. An item that kills its worker takes its neighbours with it; they are tried again one at a time, so
that the one to blame is named and nobody else is lost.
"""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from meddiff_core.artefacts import STATE
from meddiff_core.errors import ConfigurationError, MeddiffError
from meddiff_core.study import RuntimeConfig
from meddiff_core.types import Item, Mapper, Result, serial_map
from tasks.storage import StoredStudy

if TYPE_CHECKING:
    from distributed import Client, Future

_IN_FLIGHT = 4
"""Items sent ahead per thread of the workers."""
_CONNECT_S = 20
_LOOK_AGAIN_S = 1.0
"""Between two looks at how many workers there are; each is a question to the scheduler."""
_shared: ContextVar[Mapper | None] = ContextVar("mapper", default=None)


@contextmanager
def open_mapper(runtime: RuntimeConfig, folder: Path) -> Iterator[Mapper]:
    """A mapper as `runtime.dask` wishes. The cluster starts when it is first used, and ends with the block;
    inside another such block, it is that one's.

    Functions and items travel to other processes: pass paths and small values, never arrays. Results
    arrive as they are ready; an exception of the function is raised here and drops what is still waiting.

    Raises:
        ConfigurationError: `runtime.dask` is none of `local`, `off` and an address, or nobody answers there.
    """
    if (shared := _shared.get()) is not None:
        yield shared
        return
    with ExitStack() as stack:
        mapper = _mapper(runtime, folder, stack)
        token = _shared.set(mapper)
        stack.callback(_shared.reset, token)
        yield mapper


def _mapper(runtime: RuntimeConfig, folder: Path, stack: ExitStack) -> Mapper:
    if runtime.dask == "off":
        return serial_map
    if runtime.dask != "local" and not runtime.dask.startswith(("tcp://", "tls://")):
        raise ConfigurationError(f"runtime.dask must be local, off or tcp://host:port, is {runtime.dask!r}")

    @functools.cache
    def client() -> Client:
        return _local(runtime, folder, stack) if runtime.dask == "local" else _remote(runtime.dask, stack)

    def send(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result]]:
        return _map(client(), function, items)

    stored = StoredStudy.of(runtime, folder)
    here = _mapper(runtime.model_copy(update={"dask": "local"}), folder, stack) if stored else send

    def mapper(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result]]:
        if items and stored:
            yield from stored.map(send, here, function, items)
        elif items:
            yield from send(function, items)

    return mapper


def _local(runtime: RuntimeConfig, folder: Path, stack: ExitStack) -> Client:
    """Processes with one thread each; distributed sets OMP_NUM_THREADS=1 in them, which torch obeys."""
    import dask
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster  # before the settings: leaving them must not take its own with them

    settings = {"logging.distributed": "critical", "distributed.scheduler.allowed-failures": 0}
    stack.enter_context(dask.config.set(settings))
    scratch = folder / STATE / "dask"
    scratch.mkdir(parents=True, exist_ok=True)
    cluster = LocalCluster(
        n_workers=runtime.workers or CPU_COUNT,
        threads_per_worker=1,
        processes=True,
        memory_limit=0,  # its share of the memory, beyond which a worker waits for good, may be less than torch takes
        dashboard_address="127.0.0.1:0",
        silence_logs="CRITICAL",
        local_directory=str(scratch),
    )
    stack.enter_context(cluster)
    return stack.enter_context(Client(cluster))


def _remote(address: str, stack: ExitStack) -> Client:
    from distributed import Client

    try:
        return stack.enter_context(Client(address, timeout=_CONNECT_S))
    except OSError as error:
        raise ConfigurationError(f"runtime.dask: no scheduler answers at {address}") from error


def _map(client: Client, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result]]:
    waiting = deque(range(len(items)))
    while waiting:
        suspects: list[int] = []
        yield from _map_until_a_worker_dies(client, function, items, waiting, suspects)
        yield from _map_one_at_a_time(client, function, items, suspects)


def _map_until_a_worker_dies(
    client: Client,
    function: Callable[[Item], Result],
    items: Sequence[Item],
    waiting: deque[int],
    suspects: list[int],
) -> Iterator[tuple[int, Result]]:
    """Take positions from `waiting`; those that are lost with a worker are added to `suspects`."""
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    running: dict[Future[Result], int] = {}
    completed = as_completed()
    room, looked = 0, -math.inf

    def top_up() -> None:
        nonlocal room, looked
        if time.monotonic() > looked + _LOOK_AGAIN_S:
            room, looked = _IN_FLIGHT * max(1, sum(client.nthreads().values())), time.monotonic()
        while waiting and not suspects and len(running) < room:
            position = waiting.popleft()
            future = client.submit(function, items[position], pure=False)
            running[future] = position
            completed.add(future)

    try:
        top_up()
        for future in completed:
            position = running.pop(future)
            try:
                result = future.result()
            except KilledWorker:
                suspects.append(position)
            else:
                yield position, result
            top_up()
    finally:
        client.cancel(list(running))


def _map_one_at_a_time(
    client: Client, function: Callable[[Item], Result], items: Sequence[Item], positions: list[int]
) -> Iterator[tuple[int, Result]]:
    from distributed.scheduler import KilledWorker

    guilty: list[int] = []
    for position in positions:
        try:
            result = client.submit(function, items[position], pure=False).result()
        except KilledWorker:
            guilty.append(position)
        else:
            yield position, result
    if guilty:
        raise MeddiffError(f"each item must leave its worker alive, items {guilty} killed it twice (out of memory?)")
