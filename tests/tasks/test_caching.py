"""A task runs when its key is new, again when that may help, and never twice for nothing."""

from collections.abc import Callable
from pathlib import Path

import prefect
import pytest

from meddiff_core.errors import ConfigurationError, IntegrityError
from tasks.caching import refreshing, task

pytestmark = pytest.mark.server


@task(retries=1, delays_s=(0,))
def write_line(folder: Path, line: str, *, key: str) -> dict[str, str]:
    """Leaves a trace of every call."""
    with (folder / "calls").open("a") as file:
        file.write(f"{line}\n")
    return {"line": line}


@task(retries=1, delays_s=(0,))
def raise_error(folder: Path, error: str, *, key: str) -> dict[str, str]:
    with (folder / "calls").open("a") as file:
        file.write(f"{error}\n")
    raise {"study": ConfigurationError, "bytes": IntegrityError, "disk": OSError}[error]("no")


def in_a_flow(function: Callable[[], object]) -> object:
    return prefect.flow(function, name="test", validate_parameters=False)()


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().split()


def test_a_task_runs_once_per_key_and_again_when_refreshed(prefect_api: None, tmp_path: Path) -> None:
    def first() -> list[dict[str, str]]:
        return [write_line(tmp_path, "one", key="a" * 64), write_line(tmp_path, "two", key="a" * 64)]

    def second() -> list[dict[str, str]]:
        other = write_line(tmp_path, "three", key="b" * 64)
        with refreshing():
            return [other, write_line(tmp_path, "four", key="a" * 64)]

    assert in_a_flow(first) == [{"line": "one"}, {"line": "one"}]
    assert in_a_flow(second) == [{"line": "three"}, {"line": "four"}]
    assert calls(tmp_path) == ["one", "three", "four"]
    assert len(list((tmp_path / ".meddiff" / "results").iterdir())) == 2


def test_the_cache_of_one_study_is_not_that_of_another(prefect_api: None, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()

    def both() -> list[dict[str, str]]:
        return [write_line(tmp_path, "one", key="a"), write_line(tmp_path / "other", "two", key="a")]

    assert in_a_flow(both) == [{"line": "one"}, {"line": "two"}]


@pytest.mark.parametrize(
    ("error", "kind", "tries"),
    [("study", ConfigurationError, 1), ("bytes", IntegrityError, 2), ("disk", OSError, 2)],
)
def test_only_what_may_pass_is_tried_again(
    prefect_api: None, tmp_path: Path, error: str, kind: type[Exception], tries: int
) -> None:
    with pytest.raises(kind):
        in_a_flow(lambda: raise_error(tmp_path, error, key=error))
    assert len(calls(tmp_path)) == tries


def test_a_function_without_a_key_is_no_task() -> None:
    with pytest.raises(TypeError, match=r"measure_cases lacks \['key'\]"):

        @task()
        def measure_cases(folder: Path) -> None: ...
