"""Models and design to candidates, shard by shard."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from meddiff_core.artefacts import digest_of
from meddiff_core.data.dataset import Dataset
from meddiff_core.data.store import create_store
from meddiff_core.generation.design import CohortDesign
from meddiff_core.generation.schedule import Shard, plan_shards, read_slots
from meddiff_core.generation.shards import ShardJob, ShardMarker, make_shard
from meddiff_core.types import Mapper, Progress
from meddiff_core.workspace import Workspace
from tasks.caching import task
from tasks.cluster import beside_device, open_mapper
from tasks.device import choose_device
from tasks.progress import echo, show


@task(run_name="attempt-{attempt}-slots-{slots:.40}")
def draw_shards(folder: Path, slots: str, attempt: int, *, key: str) -> dict[str, Any]:
    """One attempt at some slots of the cohort, in ranges; shards that are there and whole are left as they are."""
    workspace, wanted = Workspace.open(folder), read_slots(slots)
    shards = shards_of(workspace, wanted, attempt)
    if attempt == 0:
        workspace.ledger.forget("candidates")  # the recorded shards are about to be replaced, one by one
        for note in design_of(workspace).notes():
            echo(note)
    runtime = workspace.study.runtime
    device = choose_device(runtime.device)
    with open_mapper(runtime, folder) as mapper:
        own_gpu = device != "cpu" and runtime.dask in ("local", "off")
        markers = show(_draw(workspace, shards, device, beside_device if own_gpu else mapper))
    wanted_batch = workspace.study.sampling.batch
    if (fewest := min((marker.batch for marker in markers), default=wanted_batch)) < wanted_batch:
        echo(f"memory was short: {fewest} instead of {wanted_batch} volumes were drawn at once")
    return {"digest": digest_of([marker.digests for marker in markers]), "summary": {"volumes": len(wanted)}}


def shards_of(workspace: Workspace, slots: Sequence[int], attempt: int) -> list[Shard]:
    """The shards of one attempt at some slots."""
    study = workspace.study
    return plan_shards(slots, attempt, study.sampling.shard, study.cohort.seed, design_of(workspace))


def design_of(workspace: Workspace) -> CohortDesign:
    """The cohort that the study asks for; ConfigurationError if there is no such cohort."""
    dataset = Dataset.open(workspace.folder)
    specs, conditions = dataset.contract.conditions, dataset.conditions("train")
    return CohortDesign(workspace.study.cohort, specs, conditions, workspace.folder)


def _draw(
    workspace: Workspace, shards: Sequence[Shard], device: str, mapper: Mapper
) -> Generator[Progress, None, list[ShardMarker]]:
    candidates = workspace.path("candidates")
    if not (candidates / "zarr.json").exists():
        create_store(candidates)
        for later in ("verdicts", "cohort"):  # they speak of later attempts, which lay here too
            workspace.path(later).unlink(missing_ok=True)
    inputs = workspace.inputs("candidates")
    models = digest_of([inputs["autoencoder"], inputs["denoiser"]])
    jobs = [
        ShardJob(shard, candidates, workspace.folder / "models", models, workspace.study.sampling, device)
        for shard in shards
    ]
    markers: dict[int, ShardMarker] = {}
    for position, marker in mapper(make_shard, jobs):
        markers[position] = marker
        yield Progress("draw shards", len(markers), len(jobs))
    return [markers[position] for position in sorted(markers)]
