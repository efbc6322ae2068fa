"""What a command sets for its engines, and what it leaves alone."""

import os
from pathlib import Path

import pytest

from tasks.environment import prepare_environment


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    empty: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", empty)
    return empty


def test_nothing_calls_home(environ: dict[str, str], tmp_path: Path) -> None:
    prepare_environment(tmp_path)
    assert environ["DO_NOT_TRACK"] == "1"
    assert environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_waiting_threads_leave_the_cores_to_others(environ: dict[str, str], tmp_path: Path) -> None:
    prepare_environment(tmp_path)
    assert environ["GOMP_SPINCOUNT"] == "1000"


def test_state_lies_in_the_study(environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare_environment(Path("study"))
    assert environ["PREFECT_HOME"] == str(tmp_path / "study" / ".meddiff" / "prefect")


def test_a_given_server_keeps_its_home(environ: dict[str, str], tmp_path: Path) -> None:
    environ["PREFECT_API_URL"] = "http://prefect:4200/api"
    prepare_environment(tmp_path)
    assert "PREFECT_HOME" not in environ


def test_what_the_user_has_set_is_left_alone(environ: dict[str, str], tmp_path: Path) -> None:
    environ["PREFECT_LOGGING_LEVEL"] = "DEBUG"
    prepare_environment(tmp_path)
    assert environ["PREFECT_LOGGING_LEVEL"] == "DEBUG"


def test_a_verbose_command_hears_its_engines(environ: dict[str, str], tmp_path: Path) -> None:
    prepare_environment(tmp_path, verbose=True)
    assert "PREFECT_LOGGING_LEVEL" not in environ
