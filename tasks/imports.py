"""Models that were trained elsewhere, to a study whose plan follows them."""

from pathlib import Path
from typing import Any

from meddiff_core.artefacts import write_json
from meddiff_core.models.imported.adoption import IMPORTED, follow_models
from meddiff_core.models.imported.convert import convert_models
from meddiff_core.models.imported.description import read_description
from meddiff_core.models.plan import load_plan
from meddiff_core.models.preconditioning import check_sampling, clock_of
from meddiff_core.workspace import Workspace
from tasks.caching import task
from tasks.tracking import log_file


@task(retries=0)
def import_models(folder: Path, description: str, *, key: str) -> dict[str, Any]:
    """Convert both models, and let the plan follow them."""
    workspace, recipe = Workspace.open(folder), read_description(Path(description))
    study, path = workspace.study, workspace.path("plan")
    check_sampling(study.sampling, clock_of(recipe.denoiser.parametrisation).sigma_range)
    plan = follow_models(load_plan(path), recipe, study.train)
    convert_models(recipe, folder / IMPORTED)
    write_json(path, plan)
    log_file(path)
    return {"size": list(plan.contract.size), "kind": plan.denoiser.parametrisation.kind}
