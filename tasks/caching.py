"""Our one `task` decorator: retries for what may pass, none for what a person must mend, and a cache by digest.

Prefect's own cache keys hash arguments and source text, which misses a changed file and a changed helper.
Here the flow says what a task depends on, as a digest in the parameter `key`. The cache saves a call; the
truth about what is current is the ledger beside the data.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import prefect
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE, temporary_settings

from meddiff_core.errors import IntegrityError, MeddiffError
from tasks.environment import STATE

P = ParamSpec("P")
R = TypeVar("R")


def task(
    *, retries: int = 2, delays_s: tuple[float, ...] = (5, 60), run_name: str = "{key:.8}"
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a Prefect task of a function `verb_object(folder: Path, ..., *, key: str)` that returns a small dict.

    A second call with the same `key` in the same study folder returns the first one's result. Whatever the
    result depends on must be in the key. Inside `refreshing`, the function runs again.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        if missing := {"folder", "key"} - signature.parameters.keys():
            raise TypeError(f"a task must take folder and key, {function.__name__} lacks {sorted(missing)}")
        made: prefect.Task[P, R] = prefect.task(
            name=function.__name__,
            task_run_name=f"{function.__name__}-{run_name}",
            retries=retries,
            retry_delay_seconds=list(delays_s),
            retry_condition_fn=_may_pass,
            cache_key_fn=_cache_key,
            persist_result=True,
            result_serializer="json",
        )(function)

        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            folder: Path = signature.bind(*args, **kwargs).arguments["folder"]
            return made.with_options(result_storage=folder.absolute() / STATE / "results")(*args, **kwargs)

        return run

    return decorate


@contextmanager
def refreshing(refresh: bool = True) -> Iterator[None]:
    """In this block tasks run even if their result is cached, and replace it."""
    with temporary_settings({PREFECT_TASKS_REFRESH_CACHE: refresh}):
        yield


def _cache_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    return f"{context.task.name}-{parameters['key']}"


def _may_pass(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again may help: a disk, a network or a worker may recover, a refusal or a mistake does not."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, OSError | IntegrityError) or type(error) is MeddiffError
