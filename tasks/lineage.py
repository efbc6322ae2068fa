"""The runs of MLflow that made artefacts, by the digests that each run wrote down. Nothing is written there.

The records of a study say what was made from what without it, so a store that is away costs the runs' ids alone.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from tasks.environment import sqlite_url
from tasks.progress import echo

DATABASE = "mlflow.db"


def runs_that_made(folder: Path, artefacts: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Ids of the runs that made some artefacts, given by name and digest; none where no store can be asked."""
    remote = os.environ.get("MLFLOW_TRACKING_URI")
    if not remote and not (folder / DATABASE).is_file():
        return {}
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    try:
        return _ask(remote or f"{sqlite_url(folder / DATABASE)}&mode=ro", artefacts)
    except Exception as error:  # its text may hold the store's address with a password
        echo(f"MLflow could not be asked for runs: {type(error).__name__}")
        return {}


def _ask(uri: str, artefacts: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiments = [found.experiment_id for found in client.search_experiments()]
    made: dict[str, list[str]] = {}
    for name, digest in artefacts:
        found = client.search_runs(experiments, filter_string=f"tags.`artefact.{name}` = '{digest}'")
        made[digest] = [str(run.info.run_id) for run in found]
    return made
