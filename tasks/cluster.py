"""Dask behind the core's `Mapper`: which cluster a study asks for, started or found.

A stage maps its shards or cases there, inside one Prefect task (see mapping.py). A cluster that does not answer, or
that anybody on the network could send code to, ends the run with one line; a scheduler that is lost on the way is
waited for.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meddiff_core.artefacts import STATE
from meddiff_core.errors import ConfigurationError, MeddiffError
from meddiff_core.study import STARTED_CLUSTERS, RuntimeConfig, is_encrypted_or_here
from meddiff_core.types import Item, Mapper, Result, serial_map
from tasks.mapping import map_items
from tasks.progress import warn
from tasks.software import require_same_software
from tasks.storage import StoredStudy

if TYPE_CHECKING:
    from distributed import Client

_CONNECT_S = 20
_SCHEDULER_S = 600.0
"""How long a lost scheduler is waited for."""
_STARTED = {
    "slurm": ("dask_jobqueue", "SLURMCluster", "dask-jobqueue"),
    "kubernetes": ("dask_kubernetes.operator", "KubeCluster", "dask-kubernetes"),
}
"""Module, class and distribution of each cluster that is started for a run."""
_shared: ContextVar[Mapper | None] = ContextVar("mapper", default=None)


@contextmanager
def open_mapper(runtime: RuntimeConfig, folder: Path, *, gpu: bool = False) -> Iterator[Mapper]:
    """A mapper as `runtime.dask` wishes. The cluster starts when it is first used, and ends with the block;
    inside another such block, it is that one's.

    Functions and items travel to other processes: pass paths and small values, never arrays. Results
    arrive as they are ready; an exception of the function is raised here and drops what is still waiting.
    With `gpu`, items go to those workers of a cluster alone that offer the resource `GPU=1`.

    Raises:
        ConfigurationError: nobody answers at the address, or a worker has other software.
    """
    if (shared := _shared.get()) is not None:
        yield _for_gpus(shared, gpu)
        return
    with ExitStack() as stack:
        mapper = _mapper(runtime, folder, stack)
        token = _shared.set(mapper)
        stack.callback(_shared.reset, token)
        yield _for_gpus(mapper, gpu)


def _mapper(runtime: RuntimeConfig, folder: Path, stack: ExitStack) -> Mapper:
    if runtime.dask == "off":
        return serial_map
    connection = Connection(runtime, folder, stack)
    if (stored := StoredStudy.of(runtime, folder)) is None:
        return _ClusterMapper(connection)
    here = _ClusterMapper(Connection(runtime.model_copy(update={"dask": "local"}), folder, stack))
    return _ClusterMapper(connection, elsewhere=_Elsewhere(stored, here))


@dataclass(frozen=True)
class _Elsewhere:
    """How items reach workers that do not see the study's folder."""

    stored: StoredStudy
    here: Mapper
    """For items that must not travel."""


@dataclass(frozen=True)
class _ClusterMapper:
    connection: Connection
    gpu: bool = False
    elsewhere: _Elsewhere | None = None

    def __call__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result]]:
        if not items:
            return
        send = partial(map_items, self.connection, gpu=self.gpu)
        if self.elsewhere is None:
            yield from send(function, items)
        else:
            yield from self.elsewhere.stored.map(send, self.elsewhere.here, function, items)


def _for_gpus(mapper: Mapper, gpu: bool) -> Mapper:
    """Local workers see all GPUs of this machine, and offer no resource."""
    if not isinstance(mapper, _ClusterMapper):
        return mapper
    return replace(mapper, gpu=gpu and mapper.connection.where != "local")


class Connection:
    """The client of a study's scheduler: made when it is first asked for, and anew when the scheduler was lost."""

    def __init__(self, runtime: RuntimeConfig, folder: Path, stack: ExitStack) -> None:
        """`stack` ends what is started here."""
        self.where = runtime.dask
        self._stack = stack
        self._client: Client | None = None
        starts = {"local": lambda: _local(runtime, folder, stack)}
        starts |= {name: lambda: _started(runtime, stack) for name in STARTED_CLUSTERS}
        self._cluster: Callable[[], Any] = functools.cache(starts.get(runtime.dask, lambda: runtime.dask))

    @property
    def client(self) -> Client:
        """Connected; all workers that are there have this software."""
        if self._client is None:
            try:
                self._client = self._connect()
            except (OSError, TypeError, RuntimeError) as error:  # the others come where TLS is not set up
                reason = (str(error) or type(error).__name__).splitlines()[0]
                raise ConfigurationError(f"runtime.dask: no scheduler answers at {self.where}: {reason}") from error
        return self._client

    def _connect(self) -> Client:
        from distributed import Client

        client = Client(self._cluster(), timeout=_CONNECT_S)
        self._stack.callback(client.close, timeout=_CONNECT_S)
        require_same_software(client)
        return client

    def connect_again(self) -> None:
        """Wait for a scheduler that was lost.

        Raises:
            MeddiffError: nobody answers in time.
        """
        bound = f"{_SCHEDULER_S / 60:.0f} minutes"
        warn(f"Dask: the scheduler at {self.where} is lost, waiting up to {bound} for it")
        if self._client is not None:
            self._client.close(timeout=_CONNECT_S)
        deadline = time.monotonic() + _SCHEDULER_S
        while True:
            try:
                self._client = self._connect()
            except OSError as error:
                if time.monotonic() > deadline:
                    message = f"the Dask scheduler at {self.where} must come back within {bound}, it did not"
                    raise MeddiffError(f"{message}; run again to continue") from error
                time.sleep(1)
            else:
                warn(f"Dask: the scheduler at {self.where} is there again, what was not done is sent again")
                return


def _local(runtime: RuntimeConfig, folder: Path, stack: ExitStack) -> Any:
    """Processes with one thread each; distributed sets OMP_NUM_THREADS=1 in them, which torch obeys."""
    import dask
    from dask.system import CPU_COUNT
    from distributed import LocalCluster  # before the settings: leaving them must not take its own with them

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
    return stack.enter_context(cluster)


def _started(runtime: RuntimeConfig, stack: ExitStack) -> Any:
    """A cluster whose workers come and go with the work."""
    module, name, distribution = _STARTED[runtime.dask]
    try:
        kind = getattr(import_module(module), name)
    except ImportError as error:
        raise ConfigurationError(f"runtime.dask: {runtime.dask} needs `pip install {distribution}`") from error
    try:
        cluster = stack.enter_context(kind(**runtime.cluster.options))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"runtime.cluster.options must be arguments of {name}: {error}") from error
    if not runtime.allow_unencrypted and not is_encrypted_or_here(cluster.scheduler_address):
        raise ConfigurationError(
            f"runtime.cluster.options must start a scheduler that speaks TLS, it is at {cluster.scheduler_address}; in "
            "a network in which every machine is trusted, set runtime.allow_unencrypted: true"
        )
    cluster.adapt(minimum=runtime.cluster.minimum, maximum=runtime.cluster.maximum)
    return cluster
