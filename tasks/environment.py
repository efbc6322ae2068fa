"""What the engines read from the environment, set before any of them is imported.

Prefect and MLflow keep their state in the home folder, call home, and give up on a slow start by
default. Here a study keeps its own state, and nothing leaves the machine. What the user has set
already is left alone. Two faults of the surroundings would end a command before its first task: a proxy that is
asked for the command's own loopback API, and a folder whose name means something in a URL.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, urlsplit

STATE = ".meddiff"
"""As the core has it, which is not imported here."""

_OFFLINE = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_HARMLESS = {
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # its default is pickle, which runs whatever it reads
}
_REPEATABLE = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it no product of matrices on a GPU may call itself deterministic
}
_POLITE = {
    # Threads that wait for one another spin for microseconds instead of a millisecond. Where another program wants
    # the cores as well, a training step is then slowed down as that program deserves, and not fourfold beyond it.
    "GOMP_SPINCOUNT": "1000",
}
_PATIENT = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # its default of 20 is too short on a busy machine
    "GIT_PYTHON_REFRESH": "quiet",  # MLflow warns where git is not installed
    "MPLBACKEND": "Agg",
}
_QUIET = {
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the command itself says what went wrong, in one line
}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_NO_PROXY = ("no_proxy", "NO_PROXY")
_PROXIES = ("all_proxy", "http_proxy", "https_proxy")
_OTHER_DATABASE = ("PREFECT_HOME", "PREFECT_SERVER_DATABASE_", "PREFECT_API_DATABASE_")


def prepare_environment(study_folder: Path, *, verbose: bool = False) -> None:
    """Set what is not set. Call it before `prefect` or `mlflow` is imported; later it has no effect.

    With PREFECT_API_URL set, Prefect's own home and profiles are used as they are.
    """
    chosen = _OFFLINE | _HARMLESS | _REPEATABLE | _POLITE | _PATIENT | ({} if verbose else _QUIET)
    if "PREFECT_API_URL" not in os.environ:
        home = study_folder.absolute() / STATE / "prefect"
        home.mkdir(parents=True, exist_ok=True)
        if not any(name.startswith(_OTHER_DATABASE) for name in os.environ):
            chosen |= {"PREFECT_SERVER_DATABASE_CONNECTION_URL": sqlite_url(home / "prefect.db", "sqlite+aiosqlite")}
        chosen |= {"PREFECT_HOME": str(home)}
    for name, value in chosen.items():
        os.environ.setdefault(name, value)
    ask_no_proxy_for_loopback()


def ask_no_proxy_for_loopback() -> None:
    """Whatever the user's proxies are, this machine is not asked through them, and they keep no client from starting.

    Prefect's client refuses to start beside a SOCKS proxy, even where that is never asked. It is left to an API that
    may lie behind it.
    """
    exempt = _without_proxy(os.environ.get(name, "") for name in _NO_PROXY)
    api = _host(os.environ.get("PREFECT_API_URL", ""))
    for name in [name for name in os.environ if name.lower() in _PROXIES]:
        socks = os.environ[name].lower().startswith("socks") and api in (None, *_LOOPBACK)
        if socks or "*" in exempt:  # some libraries know no `*`
            del os.environ[name]
    os.environ |= dict.fromkeys(_NO_PROXY, ",".join(exempt))


def sqlite_url(path: Path, driver: str = "sqlite") -> str:
    """URL of a database for SQLAlchemy, which would take what follows a `?` in a plain path for options."""
    return f"{driver}:///file:{quote(str(path.absolute()))}?uri=true"


def _host(address: str) -> str | None:
    """Of an address; whoever uses one that is none says so."""
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _without_proxy(given: Iterable[str]) -> list[str]:
    """Hosts that no proxy is asked for: the user's, then this machine's. Libraries read one spelling or the other, and
    one of them raises at `[::1]` and at a network of IPv6.
    """
    entries = (entry.strip().strip("[]") for part in given for entry in part.split(","))
    hosts = dict.fromkeys(host for host in entries if host and not (host.count(":") > 1 and "/" in host))
    return ["*"] if "*" in hosts else list(hosts | dict.fromkeys(_LOOPBACK))
