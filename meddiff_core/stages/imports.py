"""Models that were trained elsewhere, to a study whose plan follows them."""

from pathlib import Path

from meddiff_core.artefacts import write_json
from meddiff_core.models.imported.adoption import IMPORTED, follow_models
from meddiff_core.models.imported.convert import convert_models
from meddiff_core.models.imported.description import read_description
from meddiff_core.models.plan import load_plan
from meddiff_core.models.preconditioning import check_sampling, clock_of
from meddiff_core.stages.making import Made, Resources
from meddiff_core.types import Message, Work
from meddiff_core.workspace import Workspace


def import_models(workspace: Workspace, resources: Resources, description: Path) -> Work[Made]:
    """Convert both models, and let the plan follow them."""
    recipe, study, path = read_description(description), workspace.study, workspace.path("plan")
    check_sampling(study.sampling, clock_of(recipe.denoiser.parametrisation).sigma_range)
    plan = follow_models(load_plan(path), recipe, study.train)
    yield Message(f"models: converted into {workspace.folder / IMPORTED}; the plan follows them")
    convert_models(recipe, workspace.folder / IMPORTED)
    write_json(path, plan)
    summary = {"size": list(plan.contract.size), "kind": plan.denoiser.parametrisation.kind}
    return Made(workspace.plan_digest(), summary, (path,))
