"""What a command sets for its engines, and what it leaves alone."""

import os
from pathlib import Path
from urllib.request import build_opener, getproxies_environment, proxy_bypass_environment

import httpx
import pytest
import requests
import sqlalchemy

from meddiff_core import artefacts
from tasks.environment import STATE, prepare_environment, sqlite_url
from tests.serving import serve


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


LOOPBACK = ["127.0.0.1", "localhost", "::1"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, []),
        ({"no_proxy": "ward.example, .lab.example"}, ["ward.example", ".lab.example"]),
        ({"NO_PROXY": "ward.example"}, ["ward.example"]),
        ({"no_proxy": "localhost,a.example", "NO_PROXY": "b.example"}, ["a.example", "b.example"]),
        ({"no_proxy": " , ,[::1],::1/128,[fe80::1],"}, ["fe80::1"]),
        ({"no_proxy": "ward.example", "PREFECT_API_URL": "http://127.0.0.1:4200/api"}, ["ward.example"]),
    ],
)
def test_loopback_is_never_sent_to_a_proxy_and_what_the_user_excludes_stays(
    environ: dict[str, str], tmp_path: Path, given: dict[str, str], kept: list[str]
) -> None:
    environ |= given | {"http_proxy": "http://proxy.example:3128", "HTTPS_PROXY": "http://proxy.example:3128"}
    prepare_environment(tmp_path)
    prepare_environment(tmp_path)  # of a process that the command starts
    for name in ("no_proxy", "NO_PROXY"):
        assert set(environ[name].split(",")) == {*LOOPBACK, *kept}
    assert len(environ["no_proxy"].split(",")) == len({*LOOPBACK, *kept})
    proxies = getproxies_environment()
    assert all(proxy_bypass_environment(host, proxies) for host in ("127.0.0.1:4200", "localhost", *kept))
    assert not proxy_bypass_environment("tracking.example", proxies)


def test_a_user_who_wants_no_proxy_at_all_has_none(environ: dict[str, str], tmp_path: Path) -> None:
    environ |= {"NO_PROXY": "ward.example,*", "Http_Proxy": "http://proxy.example:3128"}
    prepare_environment(tmp_path)
    assert environ["no_proxy"] == environ["NO_PROXY"] == "*"
    assert "Http_Proxy" not in environ


DEAD = ["http://127.0.0.1:9", "127.0.0.1:9", "socks5://127.0.0.1:9", "SOCKS5h://127.0.0.1:9"]
"""Nobody answers there, and a library for SOCKS is not installed."""


@pytest.mark.parametrize(
    ("dead", "excluded"), [*((dead, "") for dead in DEAD), *((DEAD[0], odd) for odd in ("*", "[::1],::1/128"))]
)
@pytest.mark.parametrize("given", ["", "http://127.0.0.1:4200/api"], ids=["own API", "given API"])
def test_loopback_answers_behind_a_dead_proxy_in_every_spelling(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dead: str, excluded: str, given: str
) -> None:
    proxies = dict.fromkeys([f"{kind}_proxy" for kind in ("http", "https", "all")], dead)
    usual = {name: value for name, value in os.environ.items() if "proxy" not in name.lower() and "PREFECT" not in name}
    chosen = usual | proxies | {name.upper(): value for name, value in proxies.items()} | {"no_proxy": excluded}
    monkeypatch.setattr(os, "environ", chosen | ({"PREFECT_API_URL": given} if given else {}))
    prepare_environment(tmp_path)
    with serve(tmp_path) as server:
        (tmp_path / "answer").write_bytes(b"42")
        url = f"{server.url}/answer"
        assert httpx.get(url, timeout=5).content == b"42"
        assert requests.get(url, timeout=5).content == b"42"
        assert build_opener().open(url, timeout=5).read() == b"42"


def test_a_far_api_is_asked_as_the_user_has_it(environ: dict[str, str], tmp_path: Path) -> None:
    environ |= {"PREFECT_API_URL": "http://prefect.example/api", "all_proxy": "socks5://proxy.example"}
    prepare_environment(tmp_path)
    assert environ["all_proxy"] == "socks5://proxy.example"


NAMES = ["what?now", "a#b", "a%20b", "a b", "ü", "it's", "semi;colon", "x&y=z"]


@pytest.mark.parametrize("name", NAMES)
def test_a_database_lies_where_it_is_asked_for_whatever_its_folder_is_called(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    engine = sqlalchemy.create_engine(sqlite_url(folder / "some.db"))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("create table t (x integer)"))
    engine.dispose()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [path.name for path in folder.iterdir()] == ["some.db"]


def test_the_engine_keeps_its_database_in_a_study_of_any_name(environ: dict[str, str], tmp_path: Path) -> None:
    prepare_environment(tmp_path / "what?now")
    assert environ["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == (
        f"sqlite+aiosqlite:///file:{tmp_path}/what%3Fnow/.meddiff/prefect/prefect.db?uri=true"
    )


@pytest.mark.parametrize("chosen", ["PREFECT_HOME", "PREFECT_API_DATABASE_NAME", "PREFECT_SERVER_DATABASE_DRIVER"])
def test_a_database_that_the_user_chose_is_left_alone(environ: dict[str, str], tmp_path: Path, chosen: str) -> None:
    environ[chosen] = "theirs"
    prepare_environment(tmp_path)
    assert "PREFECT_SERVER_DATABASE_CONNECTION_URL" not in environ


def test_engines_and_core_keep_their_state_in_one_folder() -> None:
    assert STATE == artefacts.STATE
