"""Audited volumes to a release."""

import platform
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel

from meddiff_core.artefacts import digest_file
from meddiff_core.contract import EXTRAPOLATED
from meddiff_core.data.dataset import Dataset
from meddiff_core.diffusion.checkpoint_selection import read_selection
from meddiff_core.evidence.audit import Audit
from meddiff_core.evidence.measurements import MEASURED_VOLUME
from meddiff_core.evidence.privacy.rounds import DROPPED, describe_rounds, rounds_of, screened
from meddiff_core.evidence.rejections import count_rejections
from meddiff_core.evidence.screening.verdicts import MEASURED, REQUESTED, accepted_volumes
from meddiff_core.generation.cells import CellCount
from meddiff_core.generation.predictors import load_predictors
from meddiff_core.models.inference.instructions import INSTRUCTIONS, require_bfloat16
from meddiff_core.models.plan import Plan, TrainingPlan, load_plan
from meddiff_core.release.build import build_release
from meddiff_core.release.content import Counts, ReleaseContent
from meddiff_core.release.manifest import MANIFEST
from meddiff_core.release.methods import describe_methods
from meddiff_core.release.participants_table import with_batches, with_noises
from meddiff_core.release.regenerate import choose_few, regenerate
from meddiff_core.stages.evidence_input import read_audit, read_guarantee
from meddiff_core.stages.generate import design_of
from meddiff_core.stages.guidance import read_choice
from meddiff_core.stages.identifiers import identifiers_of
from meddiff_core.stages.making import Made, Maker, Resources
from meddiff_core.stages.screen import most_candidates
from meddiff_core.stages.signer import find_signer
from meddiff_core.stages.versions import installed_versions
from meddiff_core.study import Study, shareable_settings
from meddiff_core.types import Message, Work
from meddiff_core.workspace import Workspace

PACKAGES = ("meddiff", "torch", "monai", "numpy", "zarr")
PUBLIC_SECTIONS = ("cohort", "sampling", "screen", "audit")
"""Of the study, in a release."""
NO_PARENTS = ("inventory", "report", "release")
"""Artefacts whose digest a release does not name: they depend on where scans lie and how long things took."""
REGENERATED = 3
"""Volumes of each release that are regenerated before it is published."""


def package_release(workspace: Workspace, resources: Resources) -> Work[Made]:
    """Write the release, unless a gate holds it back."""
    workspace.require_unrecalled()
    signer = find_signer(workspace, resources)
    audit, _ = read_audit(workspace)
    content, regenerated = _content(workspace, audit, resources.device), list[str]()
    prove = partial(_check_regenerated, models=workspace.folder / "models", device=resources.device, lines=regenerated)
    path = yield from build_release(
        content, workspace.path("release"), sorted(identifiers_of(workspace) | {str(workspace.folder)}), prove, signer
    )
    for line in regenerated:
        yield Message(f"regenerated {line}")
    summary = {"volumes": len(content.table), "folder": path.name}
    return Made(digest_file(path / MANIFEST), summary, (path / MANIFEST,))


def _check_regenerated(release: Path, models: Path, device: str, lines: list[str]) -> list[str]:
    """Faults of a few volumes, regenerated from the release's own record; a line on each is added to `lines`."""
    found = list(regenerate(release, choose_few(release, REGENERATED), models, device))
    lines += [volume.describe() for volume in found]
    return [f"must be regenerated alike, {volume.describe()}" for volume in found if not volume.alike]


def describe_environment(device: str, versions: Mapping[str, str]) -> str:
    """Python, system, kind of device and packages: nothing that names a machine."""
    python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    return ", ".join([python, f"device {device.partition(':')[0]}", *(f"{name} {versions[name]}" for name in versions)])


def describe_hyperparameters(study: Study, plan: Plan) -> dict[str, Any]:
    """Shapes of both networks, how they were trained, and the seed of split and trainings."""
    train = study.train
    parts = {
        "autoencoder": (plan.autoencoder, plan.autoencoder_training, train.autoencoder.learning_rate),
        "denoiser": (plan.denoiser, plan.denoiser_training, train.denoiser.learning_rate),
    }
    return {"seed": study.seed} | {
        name: _shape_and_training(shape, training) | {"learning_rate": rate}
        for name, (shape, training, rate) in parts.items()
    }


def _shape_and_training(shape: BaseModel, training: TrainingPlan) -> dict[str, Any]:
    return shape.model_dump(mode="json") | {"steps": training.steps, "batch": training.batch}


def _content(workspace: Workspace, audit: Audit, device: str) -> ReleaseContent:
    study = workspace.study.model_copy(update={"sampling": workspace.sampling})
    dataset, plan = Dataset.open(workspace.folder), load_plan(workspace.path("plan"))
    versions, settings = installed_versions(PACKAGES), shareable_settings(study)
    if study.sampling.precision == "bfloat16":  # on this kind its volumes are regenerated before it is published
        versions[INSTRUCTIONS] = require_bfloat16("sampling.precision", "cpu")
    cohort = pd.read_parquet(workspace.path("cohort"))
    kept = cohort.copy()
    kept["accepted"] &= ~kept["sample_id"].isin(audit.flagged)
    accepted, selection = int(cohort["accepted"].sum()), read_selection(workspace.path("denoiser"))
    cells = design_of(workspace).tally(kept.loc[kept["accepted"], "slot"])
    volumes = accepted_volumes(kept, workspace.path("candidates"))
    numbers = [number for number, _ in volumes.kept()]
    table = _public_table(kept[kept["accepted"]], dataset, study.cohort.extrapolation == "allow")
    return ReleaseContent(
        title=workspace.title,
        name=study.name,
        version=study.release.version,
        licence=study.release.licence,
        contact=study.release.contact,
        source=study.release.source,
        contract=dataset.contract,
        volumes=volumes,
        table=with_noises(with_batches(table, volumes.batches(), study.sampling.batch), numbers),
        gates=audit.gates,
        metrics=audit.metrics,
        histograms=audit.histograms,
        tables=audit.tables,
        curves=audit.curves,
        statements=audit.sentences,
        methods=describe_methods(
            study,
            plan,
            dataset.sizes(),
            selection,
            read_choice(workspace),
            load_predictors(workspace.path("predictors")).conditions,
        ),
        parents={name: record.digest for name, record in workspace.records().items() if name not in NO_PARENTS},
        study={name: settings[name] for name in PUBLIC_SECTIONS},
        versions=versions,
        preset=_preset(audit, changed=bool(study.audit.gates)),
        counts=_counts(cohort, audit),
        selection=selection,
        shortfall=_shortfall(study.cohort.size, accepted, len(audit.flagged), cells, _limit(study, cohort)),
        cells=cells,
        intended_use=study.release.intended_use,
        not_intended_for=study.release.not_intended_for,
        data_use=study.release.data_use,
        code_repository=study.release.code_repository,
        environment=study.release.environment or describe_environment(device, versions),
        guarantee=read_guarantee(workspace),
        hyperparameters=describe_hyperparameters(study, plan),
    )


def _counts(cohort: pd.DataFrame, audit: Audit) -> Counts:
    after_screening = screened(cohort)
    return Counts(
        candidates=len(after_screening),
        accepted=int(after_screening["accepted"].sum()),
        rejected={one.summary: one.count for one in count_rejections(after_screening)},
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
    """Requested and measured values of each volume, under the names of the released table."""
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
    """Limit that ended the cohort before it was full."""
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


MAKERS: dict[str, Maker] = {"release": package_release}
