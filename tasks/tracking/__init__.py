"""Which run made which artefact from which others, with what settings, how well: told to MLflow, whenever it listens.

What is logged is written to the study's folder (`outbox`), and a process of its own sends it (`sender`, `store`): no
stage waits for a server, and none fails with it. Only `store` imports MLflow.
"""

from tasks.tracking.runs import (
    log_artefact,
    log_champions,
    log_file,
    log_measurements,
    log_model,
    log_parameters,
    log_progress,
    stage_run,
    study_run,
)

__all__ = [
    "log_artefact",
    "log_champions",
    "log_file",
    "log_measurements",
    "log_model",
    "log_parameters",
    "log_progress",
    "stage_run",
    "study_run",
]
