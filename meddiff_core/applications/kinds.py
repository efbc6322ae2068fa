"""The tasks by name: what each is for, which options it takes, and what its result does to the scan.

Declared once, for the command, the flow and Python alike, so that an option which a task does not know is refused
everywhere in the same words. Nothing heavy is imported here: `--help` is made of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from meddiff_core.errors import ConfigurationError

Replaces = Literal["whole", "hole", "change"]
"""What an intensity result takes the place of: all of the subject; the voxels of the mask; or nothing, but the change
that the models made is added to the scan, which keeps its own texture."""
SAMPLING = ("samples", "steps", "seed")
"""Options of tasks that sample."""
POSTERIOR = {"steps": "levels"}
"""Of tasks that sample volumes given a scan, which know `steps` under another name: each costs more there."""
COMMON = ("labels", "foreground", "participants", "known", "extrapolate", "force")
"""Options of every task."""


@dataclass(frozen=True)
class TaskKind:
    """One task as a user sees it."""

    name: str
    summary: str
    """First line of its help."""
    text: str
    """What a user should know before it is used."""
    measured: str = ""
    """How it did beside plain methods on held-out scans; a loss is said as plainly as a win. See `meddiff tasks`."""
    takes: tuple[str, ...] = ()
    """Options besides the common ones."""
    replaces: Replaces = "whole"
    needs_labels: bool = False
    """Whether the models must have been trained with label maps; its uncertainty is then one of labels."""
    unfamiliar: Literal["refused", "noted", "taken"] = "refused"
    """What becomes of a scan that the models do not know. What repairs scans says it, what scores them takes all."""
    sampling: tuple[str, ...] = SAMPLING
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Settings that have another name than their option."""

    @property
    def options(self) -> tuple[str, ...]:
        """All options that it takes."""
        return (*self.takes, *self.sampling, *COMMON)


_TASKS = (
    TaskKind(
        "segment",
        "Label map of a scan, from the joint model of image and labels.",
        "Samples what the labels can be, given the image; the map is the most likely value of each voxel, and the "
        "uncertainty says how far the samples agree.",
        measured="A U-Net that was trained for it on the same pairs is better: Dice 0.83 against 0.79 on 4 held-out "
        "brains (IXI, 4 mm).",
        needs_labels=True,
        renamed=POSTERIOR,
    ),
    TaskKind(
        "denoise",
        "A scan without its noise.",
        "The result is as sharp as the grid of the models, and no sharper.",
        takes=("noise",),
        unfamiliar="noted",
        renamed=POSTERIOR,
    ),
    TaskKind(
        "inpaint",
        "Fill the part of a scan that a mask marks, such as a lesion.",
        "The mask must lie on the grid of its scan. Voxels outside of it stay as they are, bit by bit.",
        measured="A regression U-Net that was trained for it is nearer to the truth in the hole, by 1.6 dB on 4 "
        "held-out brains (IXI, 4 mm); an estimate from age and sex is as near. The 80% band of its samples holds 73% "
        "of the truth.",
        takes=("mask",),
        renamed=POSTERIOR,
        replaces="hole",
    ),
    TaskKind(
        "super-resolve",
        "A scan of thick slices on the finer grid of the models.",
        "The factor follows from the two grids. The result has the scan's own axes and field of view; its thick axes "
        "are divided by a whole number, and what is finer than the models stays. A scan that is nowhere coarser than "
        "the models is refused.",
        replaces="change",
        unfamiliar="noted",
        renamed=POSTERIOR,
    ),
    TaskKind(
        "reconstruct",
        "A scan from a part of its k-space.",
        "Takes k-space on the grid of the models, (i, j, k) complex with zeros where nothing was measured, the lowest "
        "frequency first, as numpy.fft.fftn(image, norm='ortho') gives it: a .npy file or complex NIfTI, of an image "
        "without phase. Of a whole scan, lines are left out, to try it.",
        measured="On 4 held-out brains (IXI, 4 mm) 3.1 dB above total variation at 4 times fewer lines, 4.5 dB at 8.",
        takes=("undersampling",),
        unfamiliar="noted",
        renamed=POSTERIOR,
    ),
    TaskKind(
        "counterfactual",
        "A scan as it would be at another age, sex or volume of a structure.",
        "What the models change is added to the scan, which keeps its own texture. Where only volumes of structures "
        "are asked for, it fades out with the distance from them.",
        measured="A segmentation network that played no part sees 0.81 of an asked change of volume; linear models "
        "reach 0.36 and 0.58, with five times as much change elsewhere; in 2 of 8 the copy detector takes it for "
        "somebody else (4 held-out brains, IXI, 4 mm). On coarse phantoms, which no network segments well, it sees "
        "0.24, and 0.32 of linear models.",
        takes=("set",),
        renamed={"set": "asked"},
        replaces="change",
    ),
    TaskKind(
        "edit",
        "Variations of a scan: back to noise by some strength, and sampled again.",
        "What the models change is added to the scan, which keeps its own texture.",
        takes=("strength", "set"),
        renamed={"set": "asked"},
        replaces="change",
    ),
    TaskKind(
        "anomaly",
        "Where a scan differs from what the models would expect of a healthy one.",
        "A map of scores in standard deviations over healthy validation scans. An anomaly is no diagnosis.",
        measured="Finds bright and dark lesions about as a template given age and sex does, blurred and warped ones "
        "worse (two held-out phantoms).",
        sampling=("samples", "seed"),
    ),
    TaskKind(
        "score",
        "How well the models know a scan: log-likelihood, and whether it is from elsewhere.",
        "With --output TABLE.tsv: a row a scan, and the folders of results beside it in TABLE/.",
        unfamiliar="taken",
        sampling=(),
    ),
)
KINDS: dict[str, TaskKind] = {kind.name: kind for kind in _TASKS}


def kind_of(task: str) -> TaskKind:
    """The task of that name.

    Raises:
        ConfigurationError: there is none.
    """
    if task not in KINDS:
        raise ConfigurationError(f"task must be one of {', '.join(KINDS)}, is {task!r}")
    return KINDS[task]
