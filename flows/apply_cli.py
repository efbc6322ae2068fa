"""The commands `meddiff apply TASK`: each takes the options of its task and no others, as `kinds` declares them.

Nothing heavy is imported before the command line was understood, so that `--help` and mistakes are instant.
"""

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.release_cli import Quiet
from meddiff_core.applications.kinds import KINDS, TaskKind

app = typer.Typer(
    name="apply",
    help="Segment, denoise, inpaint and more: every task on a scan of a person, by the two models of a trained study.",
    no_args_is_help=True,
)
StudyPath = Annotated[
    Path, typer.Argument(help="The study.yaml of a trained study, or its folder.", show_default=False)
]
Scans = Annotated[
    list[str],
    typer.Argument(metavar="SCAN...", help="NIfTI, MGH, a folder (also of DICOM), or a pattern.", show_default=False),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for results; patient data.", show_default=False)]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show whole tracebacks.")]
ResultPath = Annotated[Path, typer.Argument(help="Folder of one result, OUT/CASE.", show_default=False)]
PAIRS = ("known", "set")
"""Options that are conditions, NAME=VALUE each."""
OPTIONS: dict[str, Any] = {
    "noise": Annotated[
        float | None, typer.Option(min=0.001, max=1, help="Of the noise: standard deviation as a share of the range.")
    ],
    "mask": Annotated[Path, typer.Option(help="Mask of what is to be filled, or a folder of them.")],
    "undersampling": Annotated[
        int | None, typer.Option(min=2, max=16, help="Of a scan: keep one line of so many of its k-space.")
    ],
    "strength": Annotated[
        float | None, typer.Option(min=0.01, max=1, help="How far back to noise; at 1 nothing of the scan is left.")
    ],
    "set": Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A condition of the result, such as age=75.")
    ],
    "labels": Annotated[Path | None, typer.Option(help="Label map of the scan, or a folder of them, if there are.")],
    "foreground": Annotated[
        Path | None, typer.Option(help="Mask of the brain or body, or a folder of them, if there is no label map.")
    ],
    "participants": Annotated[Path | None, typer.Option(help="Table of what is known of the subjects.")],
    "known": Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="What is known of the subject, such as age=63.")
    ],
    "samples": Annotated[int | None, typer.Option(min=1, max=256, help="Samples; their spread is the uncertainty.")],
    "steps": Annotated[int | None, typer.Option(min=2, max=1000, help="Noise levels.")],
    "seed": Annotated[int | None, typer.Option(min=0, help="Changes every sample.")],
    "extrapolate": Annotated[bool, typer.Option("--extrapolate", help="Allow values that training never saw.")],
    "force": Annotated[bool, typer.Option("--force", help="Take scans that the models do not know.")],
}
"""Every option of a task: how the command takes it."""
FLAGS = ("extrapolate", "force")


def _add(kind: TaskKind) -> None:
    """A command whose parameters are those of one task."""

    def command(study: Path, scans: list[str], output: Path, verbose: bool, quiet: bool, **options: Any) -> None:
        _run(kind, study, scans, output, options, verbose=verbose, quiet=quiet)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters: dict[str, tuple[Any, Any]] = {"study": (StudyPath, ...), "scans": (Scans, ...), "output": (Output, ...)}
    for name in kind.options:
        empty = ... if name == "mask" else False if name in FLAGS else None
        parameters[name] = (OPTIONS[name], empty)
    parameters |= {"verbose": (Verbose, False), "quiet": (Quiet, False)}
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                name, keyword, annotation=hint, default=inspect.Parameter.empty if value is ... else value
            )
            for name, (hint, value) in parameters.items()
        ]
    )
    command.__annotations__ = {name: hint for name, (hint, _) in parameters.items()}
    app.command(kind.name, help="\n\n".join(filter(None, (kind.summary, kind.text, kind.measured))))(command)


for _kind in KINDS.values():
    _add(_kind)


def _run(
    kind: TaskKind,
    study: Path,
    scans: list[str],
    output: Path,
    given: dict[str, Any],
    *,
    verbose: bool,
    quiet: bool,
) -> None:
    from meddiff_core.applications.files.intake import read_options
    from meddiff_core.applications.files.known import parse_conditions, read_contract
    from meddiff_core.applications.files.writing import check_output, output_places
    from meddiff_core.workspace import Workspace

    contract = read_contract(Workspace.open(study).path("autoencoder"))
    options = {name: value for name, value in given.items() if value not in (None, False, [])}
    for name in PAIRS:
        if name in options:
            pairs, extrapolate = options[name], bool(given["extrapolate"])
            options[name] = parse_conditions(pairs, contract.conditions, f"--{name}", extrapolate)
    read_options(kind, options, contract)
    check_output(output_places(kind, output.absolute())[0], [Path(scan) for scan in scans])
    from tasks.apply import apply_here

    print(apply_here(study, kind.name, scans, output, options, verbose=verbose, quiet=quiet))


@app.command()
def regenerate(
    result: ResultPath,
    study: Annotated[Path | None, typer.Option(help="The study, where it is another than result.json names.")] = None,
    quiet: Quiet = False,
) -> None:
    """Make a result again from its result.json, and say whether it is the same.

    Needs the models and the scan that it was made from. Nothing is written.
    """
    from tasks.apply import regenerate_here

    found = regenerate_here(result, study, quiet=quiet)
    print("\n".join(one.describe() for one in found))
    if any(one.share for one in found):
        raise typer.Exit(1)
