"""What one trained model's tasks are worth beside plain baselines, as `meddiff tasks` measures them.

    python tests/benchmarks/applications.py [STUDY] [--only inpaint,denoise] [--scans 5] [--samples 4]

STUDY is the folder of a trained study. Without one, phantoms are made and a study is trained on them below --folder, in
some minutes on two cores, so that anybody can repeat the table. `tests/benchmarks/APPLICATIONS.md` shows what came out.
"""

import argparse
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeVar

import yaml

from meddiff_core.applications.measured.table import as_markdown
from meddiff_core.phantoms.cohort import write_phantoms
from meddiff_core.scaffold import ScaffoldOptions, scaffold_study
from meddiff_core.stages.chain import make_missing
from meddiff_core.stages.making import Resources
from meddiff_core.stages.measure_tasks import measure_study, read_tasks
from meddiff_core.types import Progress
from meddiff_core.workspace import CHAIN, Workspace

Result = TypeVar("Result")
UNTIL_TRAINED = tuple(CHAIN)[: list(CHAIN).index("predictors") + 1]
STEPS = (1000, 1000)
"""Of autoencoder and denoiser, on phantoms."""
SPACING_MM = 6.0
SPEAK_EVERY_S = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, nargs="?")
    parser.add_argument("--folder", type=Path, default=Path("applications-benchmark"), help="of the phantoms' study")
    parser.add_argument("--only", default="")
    parser.add_argument("--scans", type=int, default=5)
    parser.add_argument("--samples", type=int, default=4)
    options = parser.parse_args()
    study = options.study or phantom_study(options.folder, subjects=96, steps=STEPS)
    only = [name for name in options.only.split(",") if name]
    workspace = Workspace.open(study)
    finish(measure_study(workspace, Resources("cpu"), only, options.scans, options.samples))
    print(as_markdown(read_tasks(workspace.folder)))


def phantom_study(folder: Path, subjects: int, steps: tuple[int, int], augmented: bool = True) -> Path:
    """A study of brain phantoms with both models trained for so many steps, made where it is not there yet."""
    scans, study = folder / "scans", folder / "study"
    if not scans.exists():
        finish(write_phantoms(scans, subjects, spacing_mm=SPACING_MM))
    if not study.exists():
        options = ScaffoldOptions(
            labels=scans / "labels",
            participants=scans / "participants.tsv",
            groups=scans / "groups.yaml",
            volumes=("ventricles",),
            preset="trial",
        )
        path = scaffold_study(study, scans / "images", options).path
        settings = yaml.safe_load(path.read_text())
        for name, count in zip(("autoencoder", "denoiser"), steps, strict=True):
            settings["train"][name]["steps"] = count
        if not augmented:
            settings["train"]["denoiser"]["augmentations"] = []
        path.write_text(yaml.safe_dump(settings))
    finish(make_missing(Workspace.open(study), UNTIL_TRAINED, Resources("cpu")))
    return study


def finish(work: Generator[Any, None, Result]) -> Result:
    """The result; a line now and then says how far it is."""
    spoken = -SPEAK_EVERY_S
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            result: Result = end.value
            return result
        now = time.monotonic()
        if not isinstance(event, Progress):
            print(event.text, file=sys.stderr, flush=True)
        elif now - spoken >= SPEAK_EVERY_S:
            spoken = now
            print(f"{event.label}: {event.done} of {event.total}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
