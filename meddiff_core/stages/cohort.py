"""Verdicts to a cohort: the sealed holdout says which volumes are suspected copies, and others take their place."""

from dataclasses import replace

import pandas as pd

from meddiff_core.artefacts import digest_file
from meddiff_core.evidence.audit import require_volumes
from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.privacy.rounds import DROPPED, fill_in_rounds, rounds_of, suspected_copies, unsearched
from meddiff_core.evidence.rejections import Rejection
from meddiff_core.parquet import write_parquet
from meddiff_core.stages.evidence_input import gather, kept_rows
from meddiff_core.stages.making import Made, Resources
from meddiff_core.stages.screen import fill, report_shortfall
from meddiff_core.types import Message, Work
from meddiff_core.workspace import Workspace


def fill_cohort(workspace: Workspace, resources: Resources) -> Work[Made]:
    """Drop suspected copies and sample in their place, until none is left or rounds or candidates are spent."""
    verdicts = pd.read_parquet(workspace.path("verdicts"))
    audit = yield from gather(workspace, resources, unsearched(verdicts))
    require_volumes(audit)
    cohort = yield from fill_in_rounds(
        verdicts,
        workspace.study.audit.rounds,
        lambda rows: _search(workspace, audit, rows),
        lambda table: fill(workspace, resources, table),
    )
    write_parquet(workspace.replaced("cohort"), cohort)
    yield from report_shortfall(workspace, cohort)
    accepted, size = int(cohort["accepted"].sum()), workspace.study.cohort.size
    summary = {
        "accepted": accepted,
        "rounds": len(rounds_of(cohort)),
        "dropped": int(cohort[DROPPED].sum()),
        "lacking": size - accepted,
    }
    return Made(digest_file(workspace.path("cohort")), summary)


def _search(workspace: Workspace, audit: AuditInput, rows: pd.DataFrame) -> Work[dict[str, Rejection]]:
    """Suspected copies among the accepted volumes of a table, by id; features of the first round are kept."""
    ids = list(rows["sample_id"])
    if ids != list(audit.sample_ids):
        audit = replace(audit, accepted=kept_rows(workspace, "replacements", rows), sample_ids=ids)
    suspected = yield from suspected_copies(audit)
    found = {ids[row]: rejection for row, rejection in suspected.items()}
    yield Message(f"search for copies: {len(found)} of {len(ids)} volumes are suspected")
    return found
