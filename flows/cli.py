"""The `meddiff` command. It imports nothing heavy until a subcommand needs it, so that `--help` is instant."""

import errno
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows import apply_cli, deploy_cli, lineage_cli, release_cli, tasks_cli
from flows.engines import engines
from flows.release_cli import Quiet

app = typer.Typer(
    name="meddiff",
    help="Turns a folder of 3D scans that may not be shared into a synthetic cohort that may.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
StudyPath = Annotated[Path, typer.Argument(help="The study.yaml of a study, or its folder.", show_default=False)]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show what the engines log, and whole tracebacks.")]


def main() -> None:
    """Run the command; what meddiff refuses ends as its lines of text and its exit status, not as a traceback."""
    from meddiff_core.errors import MeddiffError

    try:
        app()
    except MeddiffError as error:
        print(f"meddiff: {error.shown or error}", file=sys.stderr)
        if {"-v", "--verbose"} & set(sys.argv):
            raise
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"meddiff: no room is left on the disk: {error}; make some, and run again to continue", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if not _is_client() or (error.name or "").startswith(("flows", "tasks", "meddiff_core")):
            raise
        print(f"meddiff: this needs {error.name}: install meddiff, meddiff-client only reads releases", file=sys.stderr)
        sys.exit(1)


def _is_client() -> bool:
    """Whether this is the distribution that brings only what a reader of releases needs."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return bool(version("meddiff-client"))
    except PackageNotFoundError:
        return False


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the new study.", show_default=False)],
    images: Annotated[Path, typer.Option(help="Folder of scans, or a table with subject and image.")],
    labels: Annotated[Path | None, typer.Option(help="Folder of label maps.")] = None,
    participants: Annotated[Path | None, typer.Option(help="Table of covariates.")] = None,
    groups: Annotated[
        Path | None, typer.Option(help="YAML file of label groups, name to list of values; or `freesurfer`.")
    ] = None,
    volume: Annotated[
        list[str] | None, typer.Option(help="Label group whose volume becomes a condition; may be repeated.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Volumes that the cohort shall have.")] = None,
    budget_minutes: Annotated[float | None, typer.Option(min=0.1, help="Time for both trainings.")] = None,
    preset: Annotated[str | None, typer.Option(help="Gates: strict, research or trial.")] = None,
    mask: Annotated[str | None, typer.Option(help="Keep only what lies inside: none, label or brain.")] = None,
    spacing_mm: Annotated[float | None, typer.Option(min=0.01, help="Voxel size of the synthetic volumes.")] = None,
) -> None:
    """Write a commented study.yaml for some scans."""
    from meddiff_core.scaffold import ScaffoldOptions, scaffold_study
    from meddiff_core.stages.describe import describe_inventory

    options = ScaffoldOptions(
        labels, participants, groups, volume or (), size, budget_minutes, preset, mask, spacing_mm
    )
    new = scaffold_study(folder, images, options)
    print("\n".join(describe_inventory(new.inventory, examples=True)))
    for question in new.inventory.questions:
        print(f"\nopen    {question.key}: {question.text}")
    following = "answer in" if new.inventory.questions else "meddiff plan"
    print(f"\nstudy   {new.path}\nnext    {following} {new.path}")


@app.command()
def plan(study: StudyPath, verbose: Verbose = False, quiet: Quiet = False) -> None:
    """Look at the scans and decide everything; train nothing."""
    from meddiff_core.stages.describe import describe_inventory
    from meddiff_core.stages.inventory import look_at_scans
    from meddiff_core.workspace import Workspace

    print("\n".join(describe_inventory(look_at_scans(Workspace.open(study)), examples=True)), end="\n\n", flush=True)
    with engines(study, verbose, quiet):
        from flows.prepare import plan as flow
        from tasks.plan_summary import describe_plan

        flow(str(study))
        print(describe_plan(study))


@app.command()
def run(study: StudyPath, verbose: Verbose = False, quiet: Quiet = False) -> None:
    """Run all stages; run again to continue where it stopped."""
    if _is_finished(study, "run", quiet):
        from tasks.summary import describe_run

        print(describe_run(study))
        return
    with engines(study, verbose, quiet):
        from flows.synthesize import synthesize
        from tasks.summary import describe_run

        try:
            synthesize(str(study))
        finally:
            print(describe_run(study))


@app.command()
def status(study: StudyPath) -> None:
    """Say for each artefact whether it is done, stale (and why) or missing."""
    from tasks.summary import describe_status

    print(describe_status(study))


@app.command()
def track(study: StudyPath) -> None:
    """Send to MLflow what waits in a study, since the server was away."""
    from meddiff_core.stages.lock import locked
    from meddiff_core.workspace import Workspace
    from tasks.environment import prepare_environment
    from tasks.tracking.sender import send_what_waits

    folder = Workspace.open(study).folder
    prepare_environment(folder)
    with locked(folder):
        print(send_what_waits(folder))


def _stage_command(name: str, text: str) -> None:
    def command(study: StudyPath, verbose: Verbose = False, quiet: Quiet = False) -> None:
        _run_stage(study, name, verbose, quiet)

    app.command(name, help=text)(command)


def _run_stage(study: Path, name: str, verbose: bool, quiet: bool) -> None:
    from tasks.summary import describe_stage

    if not _is_finished(study, name, quiet):
        with engines(study, verbose, quiet):
            from importlib import import_module

            getattr(import_module(f"flows.{name}"), name)(str(study))
    print(describe_stage(study, name))


_stage_command("prepare", "Fingerprint, plan, conform and split the scans.")
_stage_command("train", "Train the autoencoder and the denoiser.")
_stage_command("generate", "Sample a first candidate for every slot of the cohort.")
_stage_command("screen", "Screen the candidates, and sample again in place of rejected ones.")


@app.command()
def audit(
    folder: Annotated[
        Path,
        typer.Argument(help="Study, or with --synthetic the folder to write to.", show_default=False),
    ],
    synthetic: Annotated[Path | None, typer.Option(help="A cohort from elsewhere: scans, or a release.")] = None,
    real: Annotated[Path | None, typer.Option(help="Real scans to hold it against.")] = None,
    train: Annotated[Path | None, typer.Option(help="Real scans that it was made from, if they are at hand.")] = None,
    groups: Annotated[Path | None, typer.Option(help="YAML file of label groups, or `freesurfer`.")] = None,
    spacing_mm: Annotated[float | None, typer.Option(min=0.01, help="Voxel size of the comparison.")] = None,
    preset: Annotated[str | None, typer.Option(help="Gates: strict, research or trial.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of splits and subsamples.")] = 0,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Measure the cohort against the sealed holdout and apply the gates.

    With --real and --synthetic: audit a cohort that somebody else made. Both are
    folders, tables with the columns subject and image, or a YAML file with `name`
    and `data` as in study.yaml. Everything is compared that needs no weights; the
    report says what could not be. What it writes is patient data.
    """
    if synthetic is None and real is None:
        _run_stage(folder, "audit", verbose, quiet)
        return
    from meddiff_core.scaffold import read_groups
    from meddiff_core.stages.external_sources import Sources, validated
    from meddiff_core.study import AuditConfig
    from tasks.external_audit import audit_folders

    if synthetic is None or real is None:
        raise typer.BadParameter("--real and --synthetic belong together")
    sources = Sources(real, synthetic, train, read_groups(groups) if groups else None, spacing_mm)
    config = validated(AuditConfig, {"preset": preset} if preset else {})
    print(audit_folders(sources, folder, config, seed, verbose=verbose, quiet=quiet))


_stage_command("release", "Write the release, or refuse and say which gate failed.")


@app.command()
def import_model(
    study: StudyPath,
    description: Annotated[Path, typer.Argument(help="YAML file that describes the models.", show_default=False)],
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Take MONAI-trained weights as the study's models.

    The description is YAML. It names both files of weights (safetensors, or
    torch files that hold tensors alone) and says what they do not. For the
    `autoencoder`: its `network` arguments, and the `image_range` it was shown.
    For the `denoiser`: `network`, `kind` (epsilon, v_prediction or
    rectified_flow), the noise `schedule`, the `scale_factor` of the latents.
    And the `contract`: spacing_mm, size, intensity, mask, labels, conditions,
    as in a plan.json. `bundle` names a MONAI bundle, from whose configs networks
    and schedule are read; nothing of it is run. README.md has an example.

    The study's plan follows the models. They are used as they are, unless the
    study gives train.denoiser.steps (and train.autoencoder.steps): so many
    steps are then trained on from them.
    """
    from meddiff_core.models.imported.description import read_description

    read_description(description)
    with engines(study, verbose, quiet):
        from flows.import_model import import_model as flow
        from tasks.summary import describe_stage

        flow(str(study), str(description.absolute()))
        print(describe_stage(study, "train"))


@app.command()
def tune_solver(
    study: StudyPath,
    samples: Annotated[
        int, typer.Option(min=8, help="Latents to sample each time; more resolve smaller differences.")
    ] = 64,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Find the solver and noise levels that need fewest evaluations.

    Every solver samples the same latents from the trained denoiser, with Karras's
    levels and with levels fitted to it. tuning.json and figures/solver.png hold
    what was measured; the lines for study.yaml are printed. Nothing is changed.
    """
    from meddiff_core.workspace import Workspace

    Workspace.open(study).require("denoiser")
    with engines(study, verbose, quiet):
        from flows.tune_solver import tune_solver as flow
        from meddiff_core.stages.tune import describe_solvers

        flow(str(study), samples)
        print(describe_solvers(study))


@app.command()
def phantoms(
    folder: Annotated[Path, typer.Argument(help="Folder to write to.", show_default=False)],
    subjects: Annotated[int, typer.Option(min=1, help="How many brains.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Changes every brain.")] = 0,
    spacing_mm: Annotated[float, typer.Option(min=1, max=12, help="Voxel size.")] = 4.0,
) -> None:
    """Write brain phantoms with labels, age and sex, to try meddiff on."""
    from meddiff_core.phantoms.cohort import write_phantoms
    from tasks.progress import console_for, show, speaking

    with speaking(console_for()):
        show(write_phantoms(folder, subjects, seed, spacing_mm))
    print(f"phantoms {folder}")


app.add_typer(apply_cli.app)
app.add_typer(tasks_cli.app)
app.add_typer(deploy_cli.app)
app.add_typer(release_cli.app)
app.add_typer(lineage_cli.app)


def _is_finished(study: Path, stage: str, quiet: bool) -> bool:
    """Whether a stage, or `run` for all, has nothing to do; then says so of each artefact. What is missing or wrong
    ends the command here, before any engine starts.
    """
    from tasks.finished import figures_if_finished
    from tasks.progress import console_for, speaking

    with speaking(console_for(quiet=quiet)):
        return figures_if_finished(study, stage) is not None


if __name__ == "__main__":
    main()
