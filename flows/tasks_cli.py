"""The command that measures the tasks of a study's models."""

from pathlib import Path
from typing import Annotated

import typer

from flows.release_cli import Quiet

app = typer.Typer()


@app.command()
def tasks(
    study: Annotated[Path, typer.Argument(help="The study.yaml of a study, or its folder.", show_default=False)],
    only: Annotated[str | None, typer.Option(help="Tasks, such as inpaint,denoise; all by default.")] = None,
    scans: Annotated[int | None, typer.Option(min=2, help="Holdout scans, one a subject; default up to 24.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Posterior samples of each.")] = 4,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show what the engines log, and whole tracebacks.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Measure every task beside plain baselines, on the holdout.

    segment, inpaint, super-resolve, reconstruct, denoise, counterfactual, anomaly
    and score, each with intervals over subjects. A task that does not beat its
    best baseline is said to lose. tasks.json, tasks.md, tasks.tsv and
    figures/task-*.png are written to the study; the pictures show patients.

    The holdout is opened, as the audit opens it, after training: no setting may
    be chosen by what this says.
    """
    from flows.engines import engines
    from meddiff_core.workspace import Workspace

    Workspace.open(study).require("denoiser")
    names = [name.strip() for name in only.split(",")] if only else []
    with engines(study, verbose, quiet):
        from flows.measure_tasks import measure_tasks as flow
        from meddiff_core.applications.measured.measure import chosen
        from meddiff_core.stages.measure_tasks import describe_tasks

        chosen(names)
        flow(str(study), names, scans, samples)
        print(describe_tasks(study))
