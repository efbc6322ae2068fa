"""Models and design to candidates, shard by shard."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from meddiff_core.artefacts import digest_of
from meddiff_core.data.dataset import Dataset
from meddiff_core.data.store import create_store
from meddiff_core.generation.design import CohortDesign
from meddiff_core.generation.schedule import Shard, plan_shards
from meddiff_core.generation.shards import ShardJob, ShardMarker, make_shard
from meddiff_core.stages.making import Made, Maker, Resources
from meddiff_core.types import Item, Mapper, Message, Progress, Result, Work
from meddiff_core.workspace import Workspace


def generate_candidates(workspace: Workspace, resources: Resources) -> Work[Made]:
    """A first candidate for every slot of the cohort."""
    slots = range(workspace.study.cohort.size)
    workspace.ledger.forget("candidates")  # the recorded shards are about to be replaced, one by one
    for note in design_of(workspace).notes():
        yield Message(note)
    markers = yield from generate_shards(workspace, resources, slots, attempt=0)
    return Made(digest_of([marker.digests for marker in markers]), {"volumes": len(slots)})


def generate_shards(
    workspace: Workspace, resources: Resources, slots: Sequence[int], attempt: int
) -> Work[list[ShardMarker]]:
    """One attempt at some slots of the cohort; shards that are there and whole are left as they are."""
    _prepare_store(workspace)
    jobs = _jobs(workspace, resources.device, shards_of(workspace, slots, attempt))
    found: dict[int, ShardMarker] = {}
    for position, marker in _mapper(workspace, resources)(make_shard, jobs):
        found[position] = marker
        yield Progress("generate shards", len(found), len(jobs))
    markers, wanted = [found[position] for position in sorted(found)], workspace.study.sampling.batch
    if (fewest := min((marker.batch for marker in markers), default=wanted)) < wanted:
        yield Message(f"memory was short: {fewest} instead of {wanted} volumes were sampled at once")
    return markers


def shards_of(workspace: Workspace, slots: Sequence[int], attempt: int) -> list[Shard]:
    """The shards of one attempt at some slots."""
    study = workspace.study
    return plan_shards(slots, attempt, study.sampling.shard, study.cohort.seed, design_of(workspace))


def design_of(workspace: Workspace) -> CohortDesign:
    """The cohort that the study asks for; ConfigurationError if there is no such cohort."""
    dataset = Dataset.open(workspace.folder)
    specs, conditions = dataset.contract.conditions, dataset.conditions("train")
    return CohortDesign(workspace.study.cohort, specs, conditions, workspace.folder)


def _prepare_store(workspace: Workspace) -> None:
    candidates = workspace.path("candidates")
    if not (candidates / "zarr.json").exists():
        create_store(candidates)
        for later in ("verdicts", "cohort"):  # they speak of later attempts, which lay here too
            workspace.path(later).unlink(missing_ok=True)


def _jobs(workspace: Workspace, device: str, shards: Sequence[Shard]) -> list[ShardJob]:
    models, digest, sampling = workspace.folder / "models", workspace.models_digest(), workspace.sampling
    return [ShardJob(shard, workspace.path("candidates"), models, digest, sampling, device) for shard in shards]


def _mapper(workspace: Workspace, resources: Resources) -> Mapper:
    own_gpu = resources.device != "cpu" and workspace.study.runtime.dask in ("local", "off")
    return beside_device if own_gpu else resources.mapper


def beside_device(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result]]:
    """A `Mapper` of two threads here, for work that waits in turn for a GPU of this machine: while one item is
    on it, the one before is written. No more than two are in memory.
    """
    with ThreadPoolExecutor(2) as pool:
        futures = {pool.submit(function, item): position for position, item in enumerate(items)}
        try:
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)


MAKERS: dict[str, Maker] = {"candidates": generate_candidates}
