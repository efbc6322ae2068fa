"""Work of the core as a task: shown, tried again where that may help, and never twice for nothing."""

from collections.abc import Callable, Generator
from pathlib import Path

import prefect
import pytest

from meddiff_core.errors import ConfigurationError, IntegrityError
from meddiff_core.types import Message, Progress
from tasks.work import run_as_task

pytestmark = pytest.mark.server


def in_a_flow(function: Callable[[], object]) -> object:
    return prefect.flow(function, name="test", validate_parameters=False)()


def test_a_task_gives_what_its_work_comes_to(prefect_api: None, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> Generator[Progress | Message, None, int]:
        yield Message("six times seven")
        yield Progress("multiply", 1, 1)
        return 42

    assert in_a_flow(lambda: run_as_task("multiply", work)) == 42
    assert capsys.readouterr().err.splitlines() == ["six times seven", "multiply: 1 of 1"]


@pytest.mark.parametrize(
    ("error", "tries"), [(ConfigurationError("no"), 1), (IntegrityError("no"), 2), (OSError("no"), 2)]
)
def test_only_what_may_pass_is_tried_again(prefect_api: None, tmp_path: Path, error: Exception, tries: int) -> None:
    begun: list[int] = []

    def work() -> Generator[Progress, None, None]:
        begun.append(1)
        yield Progress("fail", 0, 1)
        raise error

    with pytest.raises(type(error)):
        in_a_flow(lambda: run_as_task("fail", work, retries=1, delays_s=(0,)))
    assert len(begun) == tries
