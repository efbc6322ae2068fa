"""What the engines read from the environment, set before any of them is imported.

Prefect and MLflow keep their state in the home folder, call home, and give up on a slow start unless they
are told otherwise. Here a study keeps its own state, and nothing leaves the machine. What the user has set
already is left alone.
"""

import os
from pathlib import Path

STATE = ".meddiff"
"""Folder in a study for the state of the engines: everything in it can be made again."""

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


def prepare_environment(study_folder: Path, *, verbose: bool = False) -> None:
    """Set what is not set. Call it before `prefect` or `mlflow` is imported; later it has no effect.

    With PREFECT_API_URL set, Prefect's own home and profiles are used as they are.
    """
    chosen = _OFFLINE | _HARMLESS | _REPEATABLE | _POLITE | _PATIENT | ({} if verbose else _QUIET)
    if "PREFECT_API_URL" not in os.environ:
        home = study_folder.absolute() / STATE / "prefect"
        home.mkdir(parents=True, exist_ok=True)
        chosen |= {"PREFECT_HOME": str(home)}
    for name, value in chosen.items():
        os.environ.setdefault(name, value)
