"""The releases that lie in a folder: a page for people, and the same as JSON for whoever asks from elsewhere.

A folder that is served shows neither what is in it nor what was withdrawn. Whatever a release holds, its entry is one
line: one whose manifest cannot be read, or that lost files, is listed as refused with the reason, and hides no other.
Sizes of all files are compared, digests of what is quoted; `meddiff verify` looks at the rest.
"""

import hashlib
import os
import re
import stat
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from meddiff_core.artefacts import write_json, write_text
from meddiff_core.contract import Frozen
from meddiff_core.errors import ConfigurationError, IntegrityError
from meddiff_core.objects.checked import CheckedObjects
from meddiff_core.objects.local import LocalObjects
from meddiff_core.objects.source import ObjectSource
from meddiff_core.release.bounded import describe_error, first_fault, one_line, read_bounded
from meddiff_core.release.manifest import (
    MANIFEST,
    MOST_BYTES,
    TOMBSTONE,
    Manifest,
    Sha256,
    is_withdrawn,
    read_any_manifest,
)
from meddiff_core.release.signing import check_signature
from meddiff_core.release.templating import render
from meddiff_core.release.tombstone import read_reason
from meddiff_core.types import Progress

CATALOGUE, PAGE = "catalogue.json", "index.html"
FORMAT: Final = "meddiff-catalogue/1"
MOST_FOLDERS = 10_000
"""Folders that are looked into, those of releases apart."""
DEEPEST = 4
"""How far below the folder a release may lie."""
MOST_LISTED = 10_000
MOST_JSON = 32 << 20
"""Bytes of a catalogue."""
MOST_GATES = 1 << 24
MARK = "<!-- a catalogue by meddiff -->"
"""In a page of ours: another index.html is nobody's to overwrite."""
Line = Annotated[str, Field(max_length=1000)]


class Gates(Frozen):
    """How the cohort fared."""

    passed: Annotated[int, Field(ge=0)]
    waived: Annotated[int, Field(ge=0)]
    """Failed, and answered for by a named person."""


class Listed(Frozen):
    """A release in a catalogue."""

    path: Line
    """From the catalogue's folder."""
    status: Literal["released", "withdrawn", "refused"]
    reason: Line = ""
    """Why it was withdrawn, or what is wrong with it."""
    name: Line = ""
    version: Line = ""
    title: Line = ""
    licence: Line = ""
    preset: Line = ""
    """Of the gates."""
    part: Line = ""
    """Of a subset: what it is a part of, and how it was chosen. The gates are then those of the whole."""
    samples: Annotated[int, Field(ge=0)] = 0
    bytes: Annotated[int, Field(ge=0)] = 0
    manifest: Sha256 | None = None
    gates: Gates | None = None
    """None of a release that records none."""
    signature: Line = ""
    report: Line = ""
    """Path of the report, from the catalogue's folder."""


class Catalogue(Frozen):
    """catalogue.json."""

    format: Literal["meddiff-catalogue/1"]
    releases: Annotated[tuple[Listed, ...], Field(max_length=MOST_LISTED)]


class _Gate(BaseModel):
    passed: bool
    waiver: Any = None


_GATES = TypeAdapter(list[_Gate])


def list_releases(folder: Path, key: Ed25519PublicKey | None = None) -> Generator[Progress, None, Catalogue]:
    """What lies in a folder, sorted by path. With a key, what it did not sign is refused.

    Raises:
        ConfigurationError: it is no folder, is a release itself, or there are too many folders in it.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"a catalogue is made of a folder of releases, {folder} is none")
    if _is_release(folder):
        raise ConfigurationError(
            f"a catalogue is made of a folder of releases, {folder} is itself one: name its parent"
        )
    found = sorted(_find(folder))
    if len(found) > MOST_LISTED:
        raise ConfigurationError(f"a catalogue lists at most {MOST_LISTED} releases, {folder} has {len(found)}")
    listed = []
    for done, path in enumerate(found, start=1):
        listed.append(_describe(folder, path, key))
        yield Progress("listing releases", done, len(found))
    return Catalogue(format=FORMAT, releases=tuple(listed))


def write_catalogue(folder: Path, catalogue: Catalogue) -> None:
    """Write catalogue.json and index.html; the same releases give the same bytes.

    Raises:
        ConfigurationError: a file of that name lies there that no catalogue left.
    """
    for name, mark in ((CATALOGUE, f'"{FORMAT.partition("/")[0]}/'), (PAGE, MARK)):
        _check_ours(folder / name, mark)
    write_json(folder / CATALOGUE, catalogue)
    write_text(folder / PAGE, render_page(catalogue))


def read_catalogue(source: ObjectSource) -> Catalogue:
    """The catalogue that lies at an address.

    Raises:
        IntegrityError: there is none, or it has another form.
        Unreachable: the place does not answer.
    """
    try:
        return Catalogue.model_validate_json(source.read(CATALOGUE, MOST_JSON), strict=True)
    except ValidationError as error:
        raise IntegrityError(f"{CATALOGUE}: must follow {FORMAT}: {one_line(first_fault(error))}") from error


def render_page(catalogue: Catalogue) -> str:
    """index.html: one file, without a script."""
    groups = {status: [one for one in catalogue.releases if one.status == status] for status in
              ("released", "withdrawn", "refused")}  # fmt: skip
    released = sorted(groups["released"], key=lambda one: (one.name, [-int(part) for part in one.version.split(".")]))
    samples, size = sum(one.samples for one in released), sum(one.bytes for one in released)
    return render(
        "catalogue.html.j2",
        mark=MARK,
        released=[(one, size_text(one.bytes)) for one in released],
        withdrawn=groups["withdrawn"],
        refused=groups["refused"],
        samples=samples,
        size=size_text(size),
    )


def describe_catalogue(catalogue: Catalogue) -> list[str]:
    """A line for each release, for a person; the catalogue may be a stranger's."""
    lines = []
    for one in catalogue.releases:
        if one.status == "refused":
            lines.append(f"refused    {one.path}: {one.reason}")
            continue
        named = f"{one.name} {one.version}"
        if one.status == "withdrawn":
            lines.append(f"withdrawn  {one.path}: {named}: {one.reason}")
            continue
        facts = [
            f"{one.samples:,} volumes",
            size_text(one.bytes),
            f"licence {one.licence}",
            gates_text(one),
            one.signature,
        ]
        lines.append(f"released   {one.path}: {named}, {', '.join(facts)}" + (f" ({one.part})" if one.part else ""))
    return [one_line(line) for line in lines]


def gates_text(one: Listed) -> str:
    """How many gates passed, in words."""
    if one.gates is None:
        return "gates not recorded"
    of = " of the whole" if one.part else ""
    return f"{one.gates.passed} gates{of} passed" + (
        f", {one.gates.waived} failed and waived" if one.gates.waived else ""
    )


def size_text(size: int) -> str:
    """Bytes for a person."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if isinstance(size, float) else f"{size} {unit}"
        size = size / 1000  # type: ignore[assignment]
    return f"{size:.3g} TB"


def _find(folder: Path) -> Iterator[str]:
    """Paths of releases below a folder. No link is followed, and what is hidden is not looked into."""
    waiting, seen = [("", 0)], 0
    while waiting:
        inside, depth = waiting.pop()
        seen += 1
        if seen > MOST_FOLDERS:
            raise ConfigurationError(f"a catalogue is made of at most {MOST_FOLDERS} folders, {folder} has more")
        try:
            entries = [entry for entry in os.scandir(folder / inside) if not entry.name.startswith(".")]
        except OSError:  # nobody else's to open
            continue
        for entry in entries:
            path = f"{inside}/{entry.name}".lstrip("/")
            if not entry.is_dir(follow_symlinks=False):
                continue
            if _is_release(folder / path):
                yield path
            elif depth + 1 < DEEPEST and not (folder / path / "zarr.json").exists():
                waiting.append((path, depth + 1))


def _is_release(folder: Path) -> bool:
    return any(os.path.lexists(folder / name) for name in (MANIFEST, TOMBSTONE))


def _describe(folder: Path, path: str, key: Ed25519PublicKey | None) -> Listed:
    """The entry of a release; whatever it holds, one line."""
    shown = one_line(path)
    try:
        raw = read_bounded(folder / path / MANIFEST, MOST_BYTES)
        manifest = read_any_manifest(folder / path)
        known = _known(shown, manifest, hashlib.sha256(raw).hexdigest())
        if is_withdrawn(folder / path):
            return Listed(status="withdrawn", reason=read_reason(folder / path), **known)
        return _released(folder / path, path, manifest, known, key)
    except IntegrityError as error:
        return Listed(path=shown, status="refused", reason=one_line(str(error)))
    except Exception as error:  # a file made to break it is a fault as well
        return Listed(path=shown, status="refused", reason=one_line(f"cannot be read: {describe_error(error)}"))


def _known(path: str, manifest: Manifest, digest: str) -> dict[str, Any]:
    return {
        "path": path,
        "name": manifest.name,
        "version": manifest.version,
        "title": one_line(manifest.title),
        "licence": one_line(manifest.licence),
        "preset": one_line(manifest.preset),
        "part": one_line(manifest.subset.describe()) if manifest.subset else "",
        "samples": manifest.samples,
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "manifest": digest,
    }


def _released(
    release: Path, path: str, manifest: Manifest, known: dict[str, Any], key: Ed25519PublicKey | None
) -> Listed:
    vouched = check_signature(release, manifest, key)
    if faults := [*_other_sizes(release, manifest), *vouched.faults]:
        raise IntegrityError(faults[0])
    report = f"{manifest.papers}report.html"
    return Listed(
        status="released",
        gates=_gates(release, manifest),
        signature=one_line(re.split("[:;]", vouched.text)[0]),
        report=one_line(f"{path}/{report}") if report in manifest.files else "",
        **known,
    )


def _other_sizes(release: Path, manifest: Manifest) -> list[str]:
    """Whether each file is there, and has its size."""
    unlike = [name for name, entry in manifest.files.items() if _size(release / name) != entry.bytes]
    if not unlike:
        return []
    more = f" and {len(unlike) - 1} more" if len(unlike) > 1 else ""
    return [f"{unlike[0]}{more}: missing or of another size, `meddiff verify` says more"]


def _size(path: Path) -> int | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _gates(release: Path, manifest: Manifest) -> Gates | None:
    """Counted from the file in the manifest, without the libraries that made them."""
    name = f"{manifest.papers}evidence/gates.json"
    if (entry := manifest.files.get(name)) is None:
        return None
    if entry.bytes > MOST_GATES:
        raise IntegrityError(f"{name}: must have at most {MOST_GATES} bytes, has {entry.bytes}")
    content = CheckedObjects(LocalObjects(release), manifest.files).read(name)
    try:
        gates = _GATES.validate_json(content, strict=True)
    except ValidationError as error:
        raise IntegrityError(f"{name}: must hold gates: {first_fault(error)}") from error
    waived = sum(not gate.passed and gate.waiver is not None for gate in gates)
    if failed := sum(not gate.passed for gate in gates) - waived:
        raise IntegrityError(f"{name}: a release must have passed its gates or have them waived, {failed} failed")
    return Gates(passed=len(gates) - waived, waived=waived)


def _check_ours(path: Path, mark: str) -> None:
    if not os.path.lexists(path):
        return
    try:
        ours = mark in read_bounded(path, 4 * MOST_JSON).decode("utf-8", "replace")[: 1 << 16]
    except IntegrityError:
        ours = False
    if not ours:
        raise ConfigurationError(f"{path.name}: must be new or that of a catalogue, {path} is another: move it first")
