"""Verdicts to a cohort: the sealed holdout says which volumes are suspected copies, and others take their place."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from meddiff_core.artefacts import digest_file
from meddiff_core.evidence.audit import require_volumes
from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.privacy.rounds import DROPPED, fill_in_rounds, rounds_of, suspected_copies, unsearched
from meddiff_core.evidence.rejections import Rejection
from meddiff_core.tables import write_parquet
from meddiff_core.workspace import Workspace
from tasks.audit import gather, kept_rows
from tasks.caching import refreshing, task
from tasks.cluster import open_mapper
from tasks.progress import say, show
from tasks.screen import fill, say_what_is_lacking


@task()
def fill_cohort(folder: Path, *, key: str) -> dict[str, Any]:
    """Drop suspected copies and draw in their place, until none is left or rounds or candidates are spent."""
    workspace = Workspace.open(folder)
    verdicts = pd.read_parquet(workspace.path("verdicts"))
    with open_mapper(workspace.study.runtime, workspace.folder) as mapper:
        audit = gather(workspace, mapper, unsearched(verdicts))
        require_volumes(audit)
        cohort = fill_in_rounds(
            verdicts,
            workspace.study.audit.rounds,
            lambda rows: _search(workspace, audit, rows),
            lambda table: _refill(workspace, table, key),
        )
    write_parquet(workspace.path("cohort"), cohort)
    say_what_is_lacking(workspace, cohort)
    accepted, size = int(cohort["accepted"].sum()), workspace.study.cohort.size
    summary = {
        "accepted": accepted,
        "rounds": len(rounds_of(cohort)),
        "dropped": int(cohort[DROPPED].sum()),
        "lacking": size - accepted,
    }
    return {"digest": digest_file(workspace.path("cohort")), "summary": summary}


def _search(workspace: Workspace, audit: AuditInput, rows: pd.DataFrame) -> dict[str, Rejection]:
    """Suspected copies among the accepted volumes of a table, by id; features of the first round are kept."""
    ids = list(rows["sample_id"])
    if ids != list(audit.sample_ids):
        audit = replace(audit, accepted=kept_rows(workspace, "replacements", rows), sample_ids=ids)
    found = {ids[row]: rejection for row, rejection in show(suspected_copies(audit)).items()}
    say(f"search for copies: {len(found)} of {len(ids)} volumes are suspected")
    return found


def _refill(workspace: Workspace, table: pd.DataFrame, key: str) -> pd.DataFrame:
    """Other tables of verdicts may have drawn the same attempts since: shards are looked at, whatever a cache says."""
    with refreshing():
        return fill(workspace, table, key)
