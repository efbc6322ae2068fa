"""The mapper gives every result once, whatever happens to the workers."""

import os
import signal
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import pytest

from meddiff_core.errors import ConfigurationError, MeddiffError
from meddiff_core.study import RuntimeConfig
from meddiff_core.types import Mapper, serial_map
from tasks import cluster
from tasks.cluster import open_mapper


def square(value: int) -> int:
    return value * value


def own_process(_: int) -> int:
    return os.getpid()


def torch_threads(_: int) -> int:
    import torch

    return torch.get_num_threads()


def memory_limit(_: int) -> float | None:
    from distributed import get_worker

    return get_worker().memory_manager.memory_limit


def refuse_three(value: int) -> int:
    if value == 3:
        raise ConfigurationError("value must not be 3, is 3")
    return value


def mark_and_wait(item: tuple[str, int]) -> int:
    folder, value = item
    Path(folder, str(value)).touch()
    time.sleep(0.01)
    return value


def kill_worker_once(item: tuple[str, int]) -> int:
    folder, value = item
    mark = Path(folder, "killed")
    if value == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def kill_worker_always(value: int) -> int:
    if value == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


@pytest.fixture(scope="module")
def mapper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapper]:
    with open_mapper(RuntimeConfig(dask="local", workers=2), tmp_path_factory.mktemp("study")) as opened:
        yield opened


@pytest.fixture
def no_cluster_open(mapper: Mapper, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the module's cluster were not there."""
    monkeypatch.setattr(cluster, "_shared", ContextVar("mapper", default=None))


@pytest.mark.usefixtures("no_cluster_open")
def test_off_is_the_mapper_of_the_core(tmp_path: Path) -> None:
    with open_mapper(RuntimeConfig(dask="off"), tmp_path) as opened:
        assert opened is serial_map


def test_a_block_inside_another_uses_its_cluster(mapper: Mapper, tmp_path: Path) -> None:
    with open_mapper(RuntimeConfig(dask="off"), tmp_path) as inner:
        assert inner == mapper


def test_every_position_comes_once_with_its_result(mapper: Mapper) -> None:
    assert sorted(mapper(square, range(40))) == [(n, n * n) for n in range(40)]


@pytest.mark.usefixtures("no_cluster_open")
def test_nothing_to_map_starts_no_cluster(tmp_path: Path) -> None:
    with open_mapper(RuntimeConfig(dask="tcp://127.0.0.1:1"), tmp_path) as mapper:
        assert list(mapper(square, [])) == []


def test_work_is_done_in_other_processes_with_one_torch_thread(mapper: Mapper) -> None:
    assert os.getpid() not in dict(mapper(own_process, range(4))).values()
    assert set(dict(mapper(torch_threads, range(2))).values()) == {1}


def test_no_worker_waits_for_memory_that_its_libraries_never_give_back(mapper: Mapper) -> None:
    assert set(dict(mapper(memory_limit, range(4))).values()) == {None}


def test_few_items_are_sent_ahead(mapper: Mapper, tmp_path: Path) -> None:
    results = mapper(mark_and_wait, [(str(tmp_path), n) for n in range(100)])
    next(results)
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) <= 1 + 2 * 4
    assert len(list(results)) == 99


def test_an_exception_of_the_function_is_raised_as_it_is(mapper: Mapper) -> None:
    with pytest.raises(ConfigurationError, match="must not be 3"):
        list(mapper(refuse_three, range(10)))


def test_a_worker_that_dies_once_loses_nothing(mapper: Mapper, tmp_path: Path) -> None:
    items = [(str(tmp_path), n) for n in range(12)]
    assert sorted(mapper(kill_worker_once, items)) == [(n, n) for n in range(12)]


@pytest.mark.slow
def test_an_item_that_kills_its_worker_twice_is_named_and_spares_its_neighbours(mapper: Mapper) -> None:
    results: list[tuple[int, int]] = []
    with pytest.raises(MeddiffError, match=r"items \[2\] killed it twice"):
        results.extend(mapper(kill_worker_always, range(4)))
    assert sorted(results) == [(0, 0), (1, 1), (3, 3)]
