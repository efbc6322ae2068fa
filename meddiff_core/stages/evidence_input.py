"""What an audit compares: the sides of the split, accepted volumes, first attempts, and the extractors of features."""

import pandas as pd

from meddiff_core.data.dataset import Dataset
from meddiff_core.diffusion.private import Guarantee, describe_guarantee
from meddiff_core.evidence.audit import Audit, InternalFindings
from meddiff_core.evidence.features.cache import KeptVolumes
from meddiff_core.evidence.gates import audit_settings
from meddiff_core.evidence.inputs import AuditInput, FirstAttempts, ScreenSummary
from meddiff_core.evidence.privacy.rounds import DROPPED, first_round, rounds_of, screened
from meddiff_core.evidence.rejections import count_rejections
from meddiff_core.evidence.screening.bounds import load_reference
from meddiff_core.evidence.screening.verdicts import MEASURED, columns_of, requested_conditions
from meddiff_core.generation.shards import Candidates
from meddiff_core.models.checkpoint import load_facts
from meddiff_core.models.latents import stored_augmentations
from meddiff_core.models.plan import load_plan
from meddiff_core.stages.features import KeptDataset, copy_extractors, kept_cohort, set_extractors
from meddiff_core.stages.making import Resources
from meddiff_core.types import Work
from meddiff_core.workspace import Workspace


def gather(workspace: Workspace, resources: Resources, cohort: pd.DataFrame) -> Work[AuditInput]:
    """Input of an audit of the cohort in a table."""
    opened = Dataset.open(workspace.folder)
    dataset, contract = KeptDataset(opened), opened.contract
    accepted, initial, after_screening = cohort[cohort["accepted"]], first_round(cohort), screened(cohort)
    searched = yield from copy_extractors(workspace, resources, dataset, contract)
    replaced = bool(cohort[DROPPED].any())
    return AuditInput(
        dataset=dataset,
        contract=contract,
        accepted=kept_rows(workspace, "accepted" if replaced else "first-round", accepted),
        requested=requested_conditions(accepted),
        measured=columns_of(accepted, MEASURED),
        sample_ids=list(accepted["sample_id"]),
        extractors=set_extractors(workspace, resources, contract),
        screen=ScreenSummary(
            candidates=len(after_screening),
            accepted=int(after_screening["accepted"].sum()),
            rejections=count_rejections(after_screening),
            real=load_reference(workspace.path("reference"))[0].real,
        ),
        config=audit_settings(workspace.study),
        models=workspace.folder / "models",
        guarantee=read_guarantee(workspace),
        augmentations=stored_augmentations(workspace.path("latents")),
        device=resources.device,
        seed=workspace.study.seed,
        copy_extractors=searched,
        first_attempts=_first_attempts(after_screening, workspace),
        first_round=kept_rows(workspace, "first-round", initial) if replaced else None,
        first_round_ids=list(initial["sample_id"]) if replaced else (),
        rounds=rounds_of(cohort),
    )


def kept_rows(workspace: Workspace, name: str, rows: pd.DataFrame) -> KeptVolumes:
    """The volumes of a table's rows, known to the cache of features."""
    places = list(zip(rows["shard"], rows["position"], strict=True))
    return kept_cohort(workspace, name, Candidates(workspace.path("candidates"), places), list(rows["sample_id"]))


def _first_attempts(verdicts: pd.DataFrame, workspace: Workspace) -> FirstAttempts:
    """First attempts at each slot of the cohort, accepted or not."""
    first = verdicts[verdicts["attempt"] == 0]
    return FirstAttempts(
        volumes=kept_rows(workspace, "first-attempts", first),
        sample_ids=list(first["sample_id"]),
        accepted=list(first["accepted"]),
        requested=requested_conditions(first),
        measured=columns_of(first, MEASURED),
    )


def read_guarantee(workspace: Workspace) -> str | None:
    """What was promised of a differentially private training, in words; None of any other."""
    found = load_facts(workspace.path("denoiser")).get("privacy")
    if found is None:
        return None
    kept = load_plan(workspace.path("plan")).autoencoder_training.steps == 0
    return describe_guarantee(Guarantee.model_validate(found), imported_autoencoder=kept)


def read_audit(workspace: Workspace) -> tuple[Audit, InternalFindings]:
    """The audit of a study, and what only the study may see."""
    folder = workspace.path("audit")
    audit = Audit.model_validate_json((folder / "audit.json").read_bytes())
    return audit, InternalFindings.model_validate_json((folder / "findings.json").read_bytes())
