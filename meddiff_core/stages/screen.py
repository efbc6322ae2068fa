"""Candidates to verdicts, and new candidates for rejected ones."""

from collections.abc import Generator

import pandas as pd

from meddiff_core.artefacts import digest_file, writing_folder
from meddiff_core.data.dataset import Dataset
from meddiff_core.evidence.features.random_conv import RandomConvFeatures
from meddiff_core.evidence.features.records import extract
from meddiff_core.evidence.measurements import measure_all
from meddiff_core.evidence.screening.bounds import Reference, ReferenceArrays, fit_reference, save_reference
from meddiff_core.evidence.screening.outlier import MOST_FITTED, DenoisingErrors, Models, open_probe
from meddiff_core.evidence.screening.reconstructed import Reconstructed
from meddiff_core.evidence.screening.verdicts import next_attempt, open_slots, reject_duplicates, screen_shards
from meddiff_core.evidence.voxel_keys import all_keys_of, keys_of
from meddiff_core.generation.schedule import Shard
from meddiff_core.models.autoencoder import load_autoencoder
from meddiff_core.parquet import write_parquet
from meddiff_core.stages.generate import design_of, generate_shards, shards_of
from meddiff_core.stages.making import Made, Maker, Resources
from meddiff_core.study import Study
from meddiff_core.types import Message, Progress, Volumes, Work
from meddiff_core.workspace import Workspace


def fit_screen(workspace: Workspace, resources: Resources) -> Work[Made]:
    """Bounds from the training volumes, as they are and as the autoencoder gives them back."""
    reference, arrays = yield from _fit(workspace, resources.device)
    with writing_folder(workspace.replaced("reference")) as partial:
        save_reference(partial, reference, arrays)
    summary = {"bounds": len(reference.bounds), "expected_rejections": round(reference.expected_rejections, 3)}
    return Made(digest_file(workspace.path("reference") / "reference.json"), summary)


def _fit(workspace: Workspace, device: str) -> Generator[Progress, None, tuple[Reference, ReferenceArrays]]:
    dataset = Dataset.open(workspace.folder)
    contract, train, validation = dataset.contract, dataset.volumes("train"), dataset.volumes("validation")
    network, _ = load_autoencoder(workspace.path("autoencoder"))
    extractor = RandomConvFeatures(contract)
    copies = yield from Reconstructed.of(network, train, contract)
    train_features = yield from extract(extractor, train)
    validation_features = yield from extract(extractor, validation)
    copied_features = yield from extract(extractor, copies)
    measured = yield from measure_all("measure train", train, contract)
    measured += yield from measure_all("measure reconstructions", copies, contract)
    measured_validation = yield from measure_all("measure validation", validation, contract)
    return fit_reference(
        measured,
        measured_validation,
        train_features,
        validation_features,
        keys_of(train, contract),
        all_keys_of(validation, contract),
        workspace.study.screen,
        copied_features,
        dataset.subjects("train"),
        (yield from _denoise(_models(workspace, device), train, copies, validation))
        if workspace.study.screen.outliers
        else None,
    )


def _denoise(
    models: Models, train: Volumes, copies: Volumes, validation: Volumes
) -> Generator[Progress, None, DenoisingErrors]:
    """Errors of the denoiser on noisy real volumes."""
    probe = open_probe(models)
    return DenoisingErrors(
        train=(yield from probe.all_errors("train", train, MOST_FITTED)),
        reconstructed=(yield from probe.all_errors("reconstructions", copies, MOST_FITTED)),
        validation=(yield from probe.all_errors("validation", validation)),
    )


def _models(workspace: Workspace, device: str) -> Models:
    return Models(workspace.folder / "models", workspace.models_digest(), device)


def screen_candidates(workspace: Workspace, resources: Resources) -> Work[Made]:
    """Screen every candidate; try rejected slots again until the cohort is full or the budget is spent."""
    workspace.ledger.forget("verdicts")  # new attempts are about to replace the shards that they speak of
    workspace.path("cohort").unlink(missing_ok=True)  # it speaks of later attempts, which lie there too
    verdicts = yield from fill(workspace, resources, pd.DataFrame())
    write_parquet(workspace.path("verdicts"), verdicts)
    yield from report_shortfall(workspace, verdicts)
    accepted = int(verdicts["accepted"].sum())
    lacking = workspace.study.cohort.size - accepted
    summary = {"accepted": accepted, "rejected": len(verdicts) - accepted, "lacking": lacking}
    return Made(digest_file(workspace.path("verdicts")), summary)


def fill(workspace: Workspace, resources: Resources, verdicts: pd.DataFrame) -> Work[pd.DataFrame]:
    """The table with further attempts at every slot without an accepted volume, until all have one or the budget of
    candidates is spent.
    """
    size, most = workspace.study.cohort.size, most_candidates(workspace.study)
    contract = Dataset.open(workspace.folder).contract
    while slots := open_slots(verdicts, size, most):
        if attempt := next_attempt(verdicts):
            yield Message(f"attempt {attempt + 1}: {len(slots)} volumes in place of rejected ones")
            yield from generate_shards(workspace, resources, slots, attempt)
        screened = yield from _screen(workspace, resources, shards_of(workspace, slots, attempt))
        verdicts = pd.concat([verdicts, screened], ignore_index=True)
        verdicts = reject_duplicates(verdicts, workspace.path("candidates"), workspace.path("reference"), contract)
    return verdicts


def most_candidates(study: Study) -> int:
    """Candidates that may be sampled for the cohort."""
    return int(study.screen.budget * study.cohort.size)


def report_shortfall(workspace: Workspace, verdicts: pd.DataFrame) -> Work[None]:
    """A line for each part of the cohort that did not become full."""
    for cell in design_of(workspace).tally(verdicts.loc[verdicts["accepted"], "slot"]):
        if cell.accepted < cell.wanted:
            yield Message(f"{cell.name}: {cell.accepted} of {cell.wanted} accepted, and no more may be sampled")


def _screen(workspace: Workspace, resources: Resources, shards: list[Shard]) -> Work[pd.DataFrame]:
    contract, models = Dataset.open(workspace.folder).contract, _models(workspace, resources.device)
    candidates, reference = workspace.path("candidates"), workspace.path("reference")
    return (yield from screen_shards(shards, candidates, reference, contract, resources.mapper, models))


MAKERS: dict[str, Maker] = {"reference": fit_screen, "verdicts": screen_candidates}
