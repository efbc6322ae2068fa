"""A subset of a release as a release of its own: written beside its place, checked as any other, and then moved there.

It names the whole, the filter, and the place of each volume in the whole, so that whoever has the whole can prove it.
"""

import hashlib
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from meddiff_core.artefacts import write_bytes, writing_folder
from meddiff_core.distribution.plan import Choice, SubsetPlan, plan_again, plan_subset
from meddiff_core.errors import ConfigurationError, IntegrityError, MeddiffError
from meddiff_core.objects.checked import CheckedObjects
from meddiff_core.objects.local import LocalObjects
from meddiff_core.objects.location import Location, RemotePath
from meddiff_core.objects.source import ObjectSource
from meddiff_core.release.bounded import one_line
from meddiff_core.release.manifest import (
    MANIFEST,
    Manifest,
    digest_manifest,
    manifest_bytes,
    parse_manifest,
    read_manifest,
)
from meddiff_core.release.signing import Signer, sign_manifest
from meddiff_core.release.verify import Depth, check_release
from meddiff_core.types import Progress

EVERY = 64
"""Files that are copied in the time of a line of progress."""


def make_subset(
    release: Path, destination: Path, choice: Choice, signer: Signer | None = None
) -> Generator[Progress, None, Manifest]:
    """Write the part of a release that somebody wants to a new folder, and give its manifest.

    Raises:
        ConfigurationError: there is something at the destination, or nothing is chosen, or no volume is left.
        IntegrityError: the release does not hold together. Nothing is written then.
    """
    _check_free(release, destination)
    read_manifest(release)  # says of a release that was withdrawn that it was
    raw = manifest_bytes(release)
    manifest = parse_manifest(raw)
    objects = CheckedObjects(LocalObjects(release), manifest.files)
    plan = plan_subset(objects.read, manifest, hashlib.sha256(raw).hexdigest(), choice)
    with _told(destination), writing_folder(destination.absolute()) as partial:
        _check_free(release, destination)  # nobody else of us can come now
        yield from _write(plan, objects, partial)
        if signer:
            sign_manifest(partial, plan.manifest, signer)
        found = yield from check_release(partial, Depth())
        if found.faults:
            raise IntegrityError(f"the release does not hold together, see `meddiff verify`: {found.faults[0]}")
    return plan.manifest


@contextmanager
def _told(destination: Path) -> Iterator[None]:
    """A full disk, and the like, as a line."""
    try:
        yield
    except OSError as error:
        raise MeddiffError(f"{destination} cannot be written: {error.strerror}") from error


def _check_free(release: Path, destination: Path) -> None:
    if os.path.lexists(destination):
        raise ConfigurationError(f"DEST: must be new, {destination} exists")
    if destination.resolve().is_relative_to(release.resolve()):
        raise ConfigurationError(f"DEST: must lie outside the release, {destination} lies in it")


def _write(plan: SubsetPlan, objects: CheckedObjects, folder: Path) -> Generator[Progress, None, None]:
    total = len(plan.taken) + len(plan.written)
    for name, content in plan.written.items():
        write_bytes(folder / name, content)
    for done, one in enumerate(plan.taken, start=len(plan.written) + 1):
        path = folder / one.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(objects.read(one.source))
        if done % EVERY == 0 or done == total:
            yield Progress("copying volumes", done, total)


def compare_with_whole(release: Location, whole: ObjectSource) -> list[str]:
    """What is wrong with a subset that should be a part of another release. The rest is for `check_release` to say."""
    try:
        manifest, of = read_manifest(release), read_manifest(RemotePath(whole))
        if manifest.subset is None:
            return [f"{MANIFEST}: must be that of a subset for --whole, is that of a whole release"]
        if (digest := digest_manifest(RemotePath(whole))) != manifest.subset.manifest:
            return [f"--whole: must be the release with the manifest {manifest.subset.manifest}, has {digest}"]
        again = plan_again(CheckedObjects(whole, of.files).read, of, manifest.subset)
        return _differences(again.manifest, manifest)
    except (IntegrityError, ConfigurationError) as error:
        return [one_line(str(error))]


def _differences(wanted: Manifest, found: Manifest) -> list[str]:
    names = sorted(wanted.files.keys() | found.files.keys())
    unlike = [name for name in names if wanted.files.get(name) != found.files.get(name)]
    faults = [one_line(f"{name}: must be what the whole gives, is not") for name in unlike]
    if not unlike and wanted != found:
        faults = [f"{MANIFEST}: must say what the whole gives, says something else"]
    return faults
