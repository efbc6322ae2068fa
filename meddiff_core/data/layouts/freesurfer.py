"""Subjects of FreeSurfer, FastSurfer and their kin: SUBJECT/mri/T1.mgz with aparc+aseg.mgz beside it.

A subject's folder holds one scan in a dozen stages of processing; taken as they come they would be a dozen
scans of different contrast.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from meddiff_core.data.layouts.listing import Found, Listing, plain
from meddiff_core.data.layouts.walking import Walk, relative
from meddiff_core.data.nifti import is_volume, stem_of

FOLDER = "mri"
IMAGES = ("T1", "orig", "orig_nu", "nu", "norm", "brain", "brainmask", "rawavg")
"""Stages that are images, the one that is used unless another is chosen first."""
LABELS = (
    "aparc+aseg", "aparc.DKTatlas+aseg.deep.withCC", "aparc.DKTatlas+aseg.mapped", "aparc.DKTatlas+aseg.deep",
    "aparc.DKTatlas+aseg", "aseg", "aseg.auto", "synthseg",
)  # fmt: skip
"""Parcellations, the finest of the usual ones first."""


def is_freesurfer(walk: Walk) -> bool:
    """Whether a folder holds such subjects, or is one."""
    return any(_is_stage(path) for path in walk.files)


def _is_stage(path: Path) -> bool:
    return path.parent.name == FOLDER and is_volume(path) and stem_of(path) in (*IMAGES, *LABELS)


def list_freesurfer(walk: Walk) -> Listing:
    """The images of each subject's `mri` folder by stage; all but the first kind are used only if chosen."""
    images = [path for path in walk.files if _is_stage(path) and stem_of(path) in IMAGES]
    there = {stem_of(path) for path in images}
    usual = next((stage for stage in IMAGES if stage in there), None)
    found = [_found(path, walk.root, stem_of(path) != usual) for path in images]
    return Listing(tuple(found), unread=walk.unread, layout="FreeSurfer subjects")


def _found(path: Path, root: Path, reserve: bool) -> Found:
    folder = path.parent.parent
    subject = plain(folder.name if folder != root else folder.resolve().name)
    return Found(
        case=f"{subject}_{stem_of(path)}",
        image=path,
        name=relative(path, root),
        stem=subject.partition(".long.")[2] or subject,
        kind=stem_of(path),
        reserve=reserve,
    )


def one_parcellation(labels: Sequence[Path]) -> list[Path]:
    """Of the label maps in each `mri` folder the finest one; all others as they are."""
    stages: defaultdict[Path, list[Path]] = defaultdict(list)
    for path in labels:
        if path.parent.name == FOLDER:
            stages[path.parent].append(path)
    chosen = {
        min(
            (path for path in paths if stem_of(path) in LABELS),
            key=lambda path: LABELS.index(stem_of(path)),
            default=None,
        )
        for paths in stages.values()
    }
    return [path for path in labels if path.parent.name != FOLDER or path in chosen]
