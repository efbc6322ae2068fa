"""The whole chain: from a folder of scans to a sealed release."""

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from tasks.finished import figures_if_finished, grow_study


@flow(name="synthesize")
def synthesize(study: str, grow: Annotated[int, Field(ge=0)] = 0) -> dict[str, Any]:
    """Every stage in order; each does only what is missing or out of date.

    Args:
        study: The study.yaml of a study, or its folder, as the worker sees it.
        grow: Where the study is finished: so many volumes more, and the next minor version of the release, are
            written into study.yaml first. Of several runs that were due before, only one does so.
    """
    if grow:
        grow_study(study, grow)
    if (figures := figures_if_finished(study, "run")) is not None:
        return {"release": figures["release"]}
    from flows.chain import run_chain

    return run_chain(study)
