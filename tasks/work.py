"""Work of the core as a Prefect task: shown as it goes on, and tried again where that may help.

Prefect keeps no result and no cache of it. What is done is in the ledger beside the data, and a task that is begun
anew goes on from the shards and resume points that lie there.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import prefect
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from meddiff_core.errors import IntegrityError, MeddiffError
from meddiff_core.types import Result, Work
from tasks.progress import show
from tasks.tracking import log_progress

RETRIES, DELAYS_S = 2, (5.0, 60.0)


def run_as_task(
    name: str,
    work: Callable[[], Work[Result]],
    *,
    retries: int = RETRIES,
    delays_s: tuple[float, ...] = DELAYS_S,
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Result:
    """Do what `work` begins within `around`, from the beginning again after an error that may pass."""

    @prefect.task(
        name=name,
        task_run_name=name,
        retries=retries,
        retry_delay_seconds=list(delays_s),
        retry_condition_fn=_may_pass,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    def do() -> Result:
        with around():
            return show(work(), on_metrics=log_progress)

    return do()


def _may_pass(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again may help: a disk, a network or a worker may recover, a refusal or a mistake does not."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, OSError | IntegrityError) or type(error) is MeddiffError
