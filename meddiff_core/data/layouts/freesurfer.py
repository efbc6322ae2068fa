"""Subjects of FreeSurfer, FastSurfer and their kin: SUBJECT/mri/T1.mgz with aparc+aseg.mgz beside it.

A subject's folder holds one scan in a dozen stages of processing; taken as they come they would be a dozen
scans of different contrast. In the longitudinal stream each visit is there twice (`V1`, `V1.long.BASE`), and the
average of a person's visits too (`BASE`): as folders they would be several persons.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from meddiff_core.data.layouts.listing import FoundImage, Listing, plain
from meddiff_core.data.layouts.walking import Walk, relative
from meddiff_core.data.nifti import is_volume, stem_of
from meddiff_core.types import Note

FOLDER = "mri"
LONG = ".long."
TEMPLATE = "fsaverage"
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
    stages = [path for path in walk.files if _is_stage(path) and stem_of(path) in IMAGES]
    images = [path for path in stages if not _folder_of(path, walk.root).startswith(TEMPLATE)]
    there = {stem_of(path) for path in images}
    usual = next((stage for stage in IMAGES if stage in there), None)
    base_of = _bases([_folder_of(path, walk.root) for path in images])
    found = [_found(path, walk.root, stem_of(path) != usual, base_of) for path in images]
    notes = [Note(TEMPLATE, "left out: FreeSurfer's template is no subject")] if len(images) < len(stages) else []
    return Listing(tuple(found), unread=walk.unread, notes=tuple(notes), layout="FreeSurfer subjects")


def _folder_of(path: Path, root: Path) -> str:
    folder = path.parent.parent
    return plain(folder.name if folder != root else folder.resolve().name)


def _bases(folders: Sequence[str]) -> dict[str, str]:
    """The base by the folder of a visit, for the longitudinal stream."""
    return {visit: base for visit, mark, base in (folder.partition(LONG) for folder in folders) if mark}


def _found(path: Path, root: Path, reserve: bool, base_of: Mapping[str, str]) -> FoundImage:
    folder, stage = _folder_of(path, root), stem_of(path)
    stream = " longitudinal" if LONG in folder else " base" if folder in base_of.values() else ""
    base = folder if folder in base_of.values() else base_of.get(folder.partition(LONG)[0])
    return FoundImage(
        case=f"{folder}_{stage}",
        image=path,
        name=relative(path, root),
        subject=base,
        rule="base of FreeSurfer's longitudinal stream" if base else "",
        stem=folder,
        kind=stage + stream,
        reserve=reserve or bool(stream),
    )


def one_parcellation(labels: Sequence[Path]) -> list[Path]:
    """Of the label maps in and below each `mri` folder the finest one; all others as they are."""
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
    return [path for path in labels if path in chosen or FOLDER not in path.parts[:-1]]
