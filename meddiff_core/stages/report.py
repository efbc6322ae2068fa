"""The study's own report, with real beside synthetic."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from meddiff_core.artefacts import digest_file
from meddiff_core.data.dataset import Dataset
from meddiff_core.diffusion.checkpoint_selection import read_selection
from meddiff_core.evidence.audit import InternalFindings
from meddiff_core.evidence.privacy.rounds import SEARCHED
from meddiff_core.evidence.rejections import AUDITED, IN_WORDS, REJECTIONS, rejections_of
from meddiff_core.evidence.screening.verdicts import accepted_volumes
from meddiff_core.generation.shards import Candidates
from meddiff_core.models.autoencoder import load_autoencoder
from meddiff_core.models.images import to_stored
from meddiff_core.models.reconstruction import reconstructions
from meddiff_core.release.internal import InternalContent, Suspect, write_internal_report
from meddiff_core.stages.curves import read_curves
from meddiff_core.stages.evidence_input import read_audit
from meddiff_core.stages.generate import design_of
from meddiff_core.stages.guidance import read_choice
from meddiff_core.stages.inventory import REFUSED
from meddiff_core.stages.making import Made, Resources
from meddiff_core.stages.prepare import PREPARED
from meddiff_core.types import Message, Refusal, StoredArray, Volumes, Work
from meddiff_core.workspace import Workspace

SHOWN = 8
"""Reconstructions, and rejected volumes."""


def make_report(workspace: Workspace, resources: Resources) -> Work[Made]:
    """Write report.html of a study whose audit is done."""
    yield Message("report: real volumes beside synthetic ones")
    content, path = _content(workspace), workspace.replaced("report")
    write_internal_report(path, content)
    return Made(digest_file(path), {})


def _content(workspace: Workspace) -> InternalContent:
    dataset, cohort = Dataset.open(workspace.folder), pd.read_parquet(workspace.path("cohort"))
    audit, findings = read_audit(workspace)
    return InternalContent(
        title=workspace.title,
        contract=dataset.contract,
        real=dataset.volumes("train"),
        prepared=_prepared(workspace.folder),
        synthetic=accepted_volumes(cohort, workspace.path("candidates")),
        reconstructions=_reconstructions(workspace, dataset.volumes("validation")),
        curves={name: points for name, points in read_curves(workspace).items() if not name.startswith("selection/")},
        selection=read_selection(workspace.path("denoiser")),
        guidance=read_choice(workspace),
        suspects=[*_flagged(workspace, dataset, cohort, findings), *_rejected(workspace, cohort)],
        refused=_refused(workspace.folder),
        minutes={name: record.summary["minutes"] for name, record in workspace.records().items()},
        cells=design_of(workspace).tally(cohort.loc[cohort["accepted"], "slot"]),
        gates=audit.gates,
        metrics=audit.metrics,
        tables=audit.tables,
        evidence_curves=audit.curves,
        statements=audit.sentences,
    )


def _prepared(folder: Path) -> bytes | None:
    """The picture of original scans beside conformed ones; None in a study planned by an older version."""
    path = folder / PREPARED
    return path.read_bytes() if path.exists() else None


def _reconstructions(workspace: Workspace, volumes: Volumes) -> list[tuple[StoredArray, StoredArray]]:
    network, contract = load_autoencoder(workspace.path("autoencoder"))
    chosen = range(min(SHOWN, len(volumes)))
    copies = reconstructions(network, volumes, chosen, contract)
    return [(volumes.image(i), to_stored(copy, contract)[0][0]) for i, (_, copy) in zip(chosen, copies, strict=True)]


def _flagged(workspace: Workspace, dataset: Dataset, cohort: pd.DataFrame, findings: InternalFindings) -> list[Suspect]:
    """Each suspected copy of the first round beside the training volume that it resembles."""
    by_id = {row["sample_id"]: row for row in cohort.to_dict("records")}
    train, cases = dataset.volumes("train"), list(dataset.table.iloc[dataset.rows("train")]["case"])
    return [
        Suspect(
            found.sample_id,
            _reasons(by_id[found.sample_id]) or [IN_WORDS[AUDITED]],
            _volume(workspace, by_id[found.sample_id]),
            cases[found.train_row],
            train.image(found.train_row),
            found.score,
        )
        for found in findings.suspected
    ]


def _rejected(workspace: Workspace, cohort: pd.DataFrame) -> list[Suspect]:
    rejected = ~cohort["accepted"] & (cohort[SEARCHED] != 1)
    rows = cohort[rejected].head(SHOWN).to_dict("records")
    return [Suspect(row["sample_id"], _reasons(row), _volume(workspace, row)) for row in rows]


def _reasons(row: Mapping[Any, Any]) -> list[str]:
    return [one.text for one in rejections_of(row[REJECTIONS])]


def _volume(workspace: Workspace, row: Mapping[Any, Any]) -> StoredArray:
    return Candidates(workspace.path("candidates"), [(str(row["shard"]), int(row["position"]))]).image(0)


def _refused(folder: Path) -> list[Refusal]:
    table = pd.read_csv(folder / REFUSED, dtype=str, keep_default_na=False)
    return [Refusal(row["case"], row["reason"]) for row in table.to_dict("records")]
