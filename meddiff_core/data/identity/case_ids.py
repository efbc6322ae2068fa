"""Names of cases: the file's own where that is unique, else with the folders above it.

Two visits are often `T1.nii.gz` in two folders. Refused for one name, neither would be used; renamed by their
order, a file that is added later would change who is called what.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from meddiff_core.artefacts import digest_of
from meddiff_core.data.identity.kinds import name_of
from meddiff_core.data.layouts.listing import FoundImage, plain
from meddiff_core.data.nifti import stem_of
from meddiff_core.types import Refusal


def with_unique_ids(images: Sequence[FoundImage]) -> tuple[list[FoundImage], list[Refusal]]:
    """Name cases by their paths where several files claim one id; a file that was named twice is refused."""
    files: defaultdict[tuple[Path, int | None], list[FoundImage]] = defaultdict(list)
    for image in images:
        files[image.image.resolve(), image.channel].append(image)
    refused = [
        Refusal(image.name, f"is the same file as {own[0].name}" if image.name != own[0].name else "is named twice")
        for own in files.values()
        for image in own[1:]
    ]
    found = [own[0] for own in files.values()]
    for name in (_case_of_path, _case_of_kind, _case_of_digest):
        counts = Counter(image.case for image in found)
        found = [replace(image, case=name(image)) if counts[image.case] > 1 else image for image in found]
    return found, refused


def _case_of_path(image: FoundImage) -> str:
    path = Path(image.name)
    return plain("_".join([*path.parts[:-1], stem_of(path)]))


def _case_of_kind(image: FoundImage) -> str:
    return f"{image.case}_{'_'.join(name_of(image).split())}"


def _case_of_digest(image: FoundImage) -> str:
    return f"{image.case}_{digest_of(image.name)[:8]}"
