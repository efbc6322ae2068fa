"""BIDS data sets and derivatives: subjects, sessions and contrasts by the entities of each name.

Phase, real and imaginary parts look like images and show no anatomy; they are never used unless a person
chooses them.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

from meddiff_core.data.layouts.listing import FoundImage, Listing, plain
from meddiff_core.data.layouts.walking import Walk, counted, relative
from meddiff_core.data.nifti import is_volume, stem_of
from meddiff_core.errors import ConfigurationError
from meddiff_core.types import Note

ASIDE = ("derivatives", "sourcedata", "code", "stimuli", "phenotype")
DATATYPES = ("anat", "ct")
"""Folders whose images show anatomy."""
TELLING = ("acq", "ce", "rec", "part", "echo", "flip", "inv", "mt", "hemi", "chunk", "space", "res", "desc")
"""Entities that distinguish kinds of image; session and run are repeats of one kind."""
NO_IMAGES = ("mask", "dseg", "probseg", "defacemask", "xfm", "bold", "dwi", "sbref", "epi")
NO_MAGNITUDE = ("phase", "real", "imag")


def bids_root(walk: Walk) -> Path | None:
    """Where the data set begins: the folder itself, or one below it; None where there is none.

    Raises:
        ConfigurationError: several folders hold one each.
    """
    roots = {parts for path in walk.files if (parts := _before_subject(path.relative_to(walk.root))) is not None}
    if () in roots:
        return walk.root
    below = sorted(parts[0] for parts in roots if len(parts) == 1)
    if len(below) > 1:
        raise ConfigurationError(
            f"data.images: must be one BIDS data set, holds {len(below)}: {', '.join(below[:3])}; name one of them"
        )
    return walk.root / below[0] if below else None


def _before_subject(path: PurePath) -> tuple[str, ...] | None:
    """Folders above the subject's, where a path is that of an anatomical image of BIDS."""
    folders = path.parts[:-1]
    place = next((number for number, part in enumerate(folders) if part.startswith("sub-")), None)
    if place is None or folders[-1] not in DATATYPES or not is_volume(Path(path)) or not _has_subject(path):
        return None
    above = folders[:place]
    return None if set(above) & set(ASIDE) else above


def _has_subject(path: PurePath) -> bool:
    return path.name.startswith("sub-")


def list_bids(walk: Walk, root: Path) -> Listing:
    """Anatomical images of a data set; images of other data types are counted in notes."""
    own = [path for path in walk.files if path.is_relative_to(root) and path.relative_to(root).parts[0] not in ASIDE]
    images = [path for path in own if is_volume(path)]
    chosen = [path for path in images if _is_anatomy(path)]
    tables = [folder / "participants.tsv" for folder in (root, *_source_of(root))]
    return Listing(
        found=tuple(_found(path, walk.root) for path in chosen),
        unread=walk.unread,
        notes=tuple(_left_out([path for path in images if not _is_anatomy(path)])),
        participants=next((table for table in tables if table.is_file()), None),
        layout="BIDS" if root == walk.root else f"BIDS in {relative(root, walk.root)}",
    )


def _source_of(derivative: Path) -> Sequence[Path]:
    """The data set that a folder below `derivatives` was made from."""
    return [parent.parent for parent in derivative.absolute().parents if parent.name == "derivatives"][:1]


def _is_anatomy(path: Path) -> bool:
    stem = stem_of(path)
    return (
        path.parent.name in DATATYPES
        and _has_subject(path)
        and stem.rsplit("_", 1)[-1] not in NO_IMAGES
        and "label" not in _entities(stem)
    )


def _entities(stem: str) -> dict[str, str]:
    return dict(part.split("-", 1) for part in stem.split("_")[:-1] if "-" in part)


def _found(path: Path, root: Path) -> FoundImage:
    stem = plain(stem_of(path))
    entities = _entities(stem)
    return FoundImage(
        case=stem,
        image=path,
        name=relative(path, root),
        subject=f"sub-{entities['sub']}",
        rule="BIDS entity `sub`",
        stem=stem,
        kind=_kind(stem),
        reserve=entities.get("part") in NO_MAGNITUDE,
    )


def _kind(stem: str) -> str:
    """The suffix and the entities that distinguish contrasts: `T1w ce-gad`."""
    entities = _entities(stem)
    telling = [
        f"{key}-{entities[key]}" for key in TELLING if key in entities and (key, entities[key]) != ("part", "mag")
    ]
    return " ".join([stem.rsplit("_", 1)[-1], *telling])


def _left_out(images: Sequence[Path]) -> list[Note]:
    counts = Counter((path.parent.name, stem_of(path).rsplit("_", 1)[-1]) for path in images)
    return [
        Note(f"{folder}/*_{suffix}", f"left out: {counted(number, 'file')} that {_verb(number)} no anatomical image")
        for (folder, suffix), number in sorted(counts.items())
    ]


def _verb(number: int) -> str:
    return "is" if number == 1 else "are"
