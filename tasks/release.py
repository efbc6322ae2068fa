"""Audited volumes to a release, and to the study's own report."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from meddiff_core.artefacts import digest_file
from meddiff_core.data.dataset import Dataset
from meddiff_core.diffusion.choice import read_choice
from meddiff_core.evidence.audit import Audit
from meddiff_core.evidence.measurements import MEASURED_VOLUME
from meddiff_core.evidence.privacy.rounds import DROPPED, describe_rounds, rounds_of, screened
from meddiff_core.evidence.rejections import count_rejections
from meddiff_core.evidence.screening.verdicts import EXTRAPOLATED, MEASURED, REQUESTED, accepted_volumes
from meddiff_core.generation.cells import CellCount
from meddiff_core.models.plan import load_plan
from meddiff_core.release.build import build_release
from meddiff_core.release.content import Counts, ReleaseContent
from meddiff_core.release.manifest import MANIFEST
from meddiff_core.release.methods import describe_methods
from meddiff_core.release.regenerate import draw_few, regenerate
from meddiff_core.study import Study
from meddiff_core.workspace import Workspace
from tasks.audit import read_audit
from tasks.caching import task
from tasks.device import choose_device
from tasks.generate import design_of
from tasks.inventory import read_inventory
from tasks.progress import say, show
from tasks.screen import most_candidates
from tasks.tracking import installed_versions, log_file

PACKAGES = ("meddiff", "torch", "monai", "numpy", "zarr")
DRAWN_AGAIN = 3
"""Volumes of each release that are drawn again before it is published."""
COUNTER = re.compile(r"[a-z]{0,3}\d{0,5}(\.\w{3})?", re.IGNORECASE)
"""Names of slices that only count and tell of nobody: 0005.dcm, IM00012."""


@task(retries=0)
def package_release(folder: Path, *, key: str) -> dict[str, Any]:
    """Write the release, unless a gate holds it back."""
    workspace = Workspace.open(folder)
    audit, _ = read_audit(workspace)
    content = _content(workspace, audit)
    prove = partial(
        _draw_again, models=workspace.folder / "models", device=choose_device(workspace.study.runtime.device)
    )
    path = show(build_release(content, workspace.path("release"), _secrets(workspace), prove))
    log_file(path / MANIFEST)
    return {"digest": digest_file(path / MANIFEST), "summary": {"volumes": len(content.table), "folder": path.name}}


def _draw_again(release: Path, models: Path, device: str) -> list[str]:
    """What a few volumes have become that were drawn again from the release's own record; nothing if it is them."""
    found = list(regenerate(release, draw_few(release, DRAWN_AGAIN), models, device))
    for volume in found:
        say(f"drawn again, {volume.describe()}")
    return [f"must be drawn alike again, {volume.describe()}" for volume in found if not volume.alike]


def _content(workspace: Workspace, audit: Audit) -> ReleaseContent:
    study, dataset = workspace.study, Dataset.open(workspace.folder)
    cohort = pd.read_parquet(workspace.path("cohort"))
    kept = cohort.copy()
    kept["accepted"] &= ~kept["sample_id"].isin(audit.flagged)
    accepted, choice = int(cohort["accepted"].sum()), read_choice(workspace.path("denoiser"))
    cells = design_of(workspace).tally(kept.loc[kept["accepted"], "slot"])
    return ReleaseContent(
        title=study.release.title or study.name,
        name=study.name,
        version=study.release.version,
        licence=study.release.licence,
        contact=study.release.contact,
        source=study.release.source,
        contract=dataset.contract,
        volumes=accepted_volumes(kept, workspace.path("candidates")),
        table=_public_table(kept[kept["accepted"]], dataset, study.cohort.extrapolation == "allow"),
        gates=audit.gates,
        metrics=audit.metrics,
        histograms=audit.histograms,
        tables=audit.tables,
        curves=audit.curves,
        statements=audit.sentences,
        methods=describe_methods(study, load_plan(workspace.path("plan")), dataset.sizes(), choice),
        parents={name: record.digest for name, record in workspace.records().items() if name != "release"},
        study=study.model_dump(mode="json", include={"cohort", "sampling", "screen", "audit"}),
        versions=installed_versions(PACKAGES),
        preset=_preset(audit, changed=bool(study.audit.gates)),
        counts=_counts(cohort, audit),
        choice=choice,
        shortfall=_shortfall(study.cohort.size, accepted, len(audit.flagged), cells, _limit(study, cohort)),
        cells=cells,
    )


def _counts(cohort: pd.DataFrame, audit: Audit) -> Counts:
    judged = screened(cohort)
    return Counts(
        candidates=len(judged),
        accepted=int(judged["accepted"].sum()),
        rejected={one.summary: one.count for one in count_rejections(judged)},
        flagged=int(cohort[DROPPED].sum()) + len(audit.flagged),
        rounds=describe_rounds(rounds_of(cohort), len(audit.flagged)),
    )


def _preset(audit: Audit, changed: bool) -> str:
    """Name of the preset, with what was changed of it."""
    waived = sum(gate.waiver is not None for gate in audit.gates)
    return f"{audit.preset}{' with gates changed by the study' if changed else ''}" + (
        f"; {waived} failed and waived" if waived else ""
    )


def _public_table(accepted: pd.DataFrame, dataset: Dataset, extrapolated: bool) -> pd.DataFrame:
    """What was asked for and what was measured, per volume; names as a reader expects them."""
    columns: dict[str, Any] = {"sample_id": accepted["sample_id"], "seed": accepted["seed"]}
    for spec in dataset.contract.conditions:
        columns[spec.name] = accepted[REQUESTED + spec.name]
        if spec.kind == "continuous" and spec.group:
            columns[f"measured_{spec.name}"] = accepted[f"{MEASURED}{MEASURED_VOLUME}{spec.group}"]
    for group in dataset.contract.labels:
        columns.setdefault(f"{group}_mm3", accepted[f"{MEASURED}{MEASURED_VOLUME}{group}"])
    if extrapolated:
        columns[EXTRAPOLATED] = accepted[EXTRAPOLATED]
    return pd.DataFrame(columns).reset_index(drop=True)


def _limit(study: Study, cohort: pd.DataFrame) -> str:
    """What kept a cohort from becoming full."""
    return "the budget was" if len(cohort) >= most_candidates(study) else "all rounds of the search for copies were"


def _shortfall(
    wanted: int, accepted: int, flagged: int, cells: Sequence[CellCount], limit: str = "the budget was"
) -> str | None:
    parts = []
    if accepted < wanted:
        parts.append(f"{wanted} volumes were wanted; {accepted} had been accepted when {limit} spent.")
    if flagged:
        left_out = "1 accepted volume was" if flagged == 1 else f"{flagged} accepted volumes were"
        parts.append(f"{left_out} left out as suspected copies of real scans.")
    short = [f"{cell.accepted} of {cell.wanted} in “{cell.name}”" for cell in cells if cell.accepted < cell.wanted]
    if short and len(cells) > 1:
        parts.append(f"The release holds {', '.join(short)}.")
    return " ".join(parts) or None


def _secrets(workspace: Workspace) -> list[str]:
    """Whatever names a real subject or file: none of it may occur in a release."""
    inventory = read_inventory(workspace)
    names = {name for case in inventory.cases for name in (case.case, case.subject)}
    files = {case.image for case in inventory.cases}
    slices = {path.name for case in inventory.cases for path in case.slices if not COUNTER.fullmatch(path.name)}
    names |= {*inventory.names, *slices, *(path.name for path in files), *map(str, files)}
    return sorted({*names, str(workspace.folder)})
