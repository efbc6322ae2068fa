"""Writing a release: beside its final place, checked, and then moved there at once.

A reader finds a whole release or none. The same content gives the same bytes: no date, host, user or
random id goes in. Before the move the folder is searched for real names, and refused if one is found.
"""

from collections.abc import Callable, Generator, Iterable
from dataclasses import asdict, replace
from pathlib import Path

from meddiff_core.artefacts import write_json, write_text, writing_folder
from meddiff_core.errors import ConfigurationError, IntegrityError
from meddiff_core.parquet import write_parquet
from meddiff_core.release.content import ReleaseContent, check_content
from meddiff_core.release.croissant import describe_release
from meddiff_core.release.difference import CHANGES, changes_of
from meddiff_core.release.guard import find_leaks
from meddiff_core.release.healthdcat import describe_for_catalogues
from meddiff_core.release.manifest import FORMAT, Manifest, describe_file, list_files, read_manifest, write_manifest
from meddiff_core.release.ome import COHORT, write_cohort
from meddiff_core.release.participants_table import TABLE, TEXT, as_tsv, describe_columns, public_table
from meddiff_core.release.records import write_evidence
from meddiff_core.release.report import render_card, render_report
from meddiff_core.release.signing import Signer, check_signature, sign_manifest
from meddiff_core.release.verify import verify_release
from meddiff_core.types import Progress

CARD = "README.md"
"""The data set card, for readers and for hubs."""


def _nothing(folder: Path) -> list[str]:
    return []


def build_release(
    content: ReleaseContent,
    releases: Path,
    identifiers: Iterable[str] = (),
    prove: Callable[[Path], list[str]] = _nothing,
    signer: Signer | None = None,
) -> Generator[Progress, None, Path]:
    """Write `releases/<name>-<version>/` and return it; the very same release, whole, is left as it is.

    Args:
        content: What the release says and holds.
        releases: Folder of all releases of the study.
        identifiers: Subject ids, case names, file names and paths of the real scans: none may occur in any file.
        prove: Looks at the written folder before it is published, and says what is wrong with it.
        signer: Signs the manifest; without one the release is not signed, and its card says so.

    Raises:
        ConfigurationError: that version exists with other content, as a release is never overwritten; or its number
            is too low for what changed since the version before it.
        GatesFailed: a gate failed, or there is none.
        IntegrityError: a real name was found in it, or it does not hold together. Nothing is published.
    """
    check_content(content)
    content = replace(content, signed_by=signer.key_id if signer else None)
    final = releases / content.folder
    if final.exists():
        if _is_same(content, final, signer):
            return final
        raise ConfigurationError(f"release.version: must be new, {content.version} exists")
    changes = yield from changes_of(content, releases)
    with writing_folder(final) as partial:
        yield from _write(content, partial, changes)
        if signer:
            sign_manifest(partial, read_manifest(partial), signer)
        _refuse_faults(partial, identifiers, prove)
    return final


def _is_same(content: ReleaseContent, folder: Path, signer: Signer | None) -> bool:
    """Whether a release that exists is whole and of this content: its maker may have been killed right after."""
    try:
        card, manifest = (folder / CARD).read_text(), read_manifest(folder)
        vouched = check_signature(folder, manifest, signer.public_key if signer else None)
        return card == render_card(content) and manifest == _manifest(content, folder) and not vouched.faults
    except (OSError, IntegrityError):
        return False


def _write(content: ReleaseContent, folder: Path, changes: str | None) -> Generator[Progress, None, None]:
    table = public_table(content.table)
    yield from write_cohort(folder / COHORT, content.volumes, table, content.contract, content.title)
    write_text(folder / TEXT, as_tsv(table))
    write_parquet(folder / TABLE, table)
    write_json(folder / "participants.json", describe_columns(table.columns, content.contract))
    write_evidence(folder, content)
    write_json(folder / "healthdcat-ap.jsonld", describe_for_catalogues(content, table))
    write_json(folder / "croissant.json", describe_release(content, table, {TABLE: describe_file(folder / TABLE)}))
    yield Progress("writing the report", 0, 1)
    write_text(folder / "report.html", render_report(content))
    write_text(folder / CARD, render_card(content))
    if changes is not None:
        write_text(folder / CHANGES, changes)
    write_manifest(folder, _manifest(content, folder))
    yield Progress("writing the report", 1, 1)


def _manifest(content: ReleaseContent, folder: Path) -> Manifest:
    return Manifest(
        format=FORMAT,
        name=content.name,
        version=content.version,
        title=content.title,
        licence=content.licence,
        preset=content.preset,
        samples=len(content.volumes),
        counts=asdict(content.counts),
        parents=dict(sorted(content.parents.items())),
        study=dict(content.study),
        versions=dict(sorted(content.versions.items())),
        files=list_files(folder),
    )


def _refuse_faults(folder: Path, identifiers: Iterable[str], prove: Callable[[Path], list[str]]) -> None:
    if leaks := find_leaks(folder, identifiers):
        more = f" and {len(leaks) - 5} more" if len(leaks) > 5 else ""
        raise IntegrityError(
            f"a release must name nothing real, found {'; '.join(leaks[:5])}{more}; nothing was published"
        )
    if faults := verify_release(folder) or prove(folder):
        raise IntegrityError(f"the release does not hold together: {'; '.join(faults[:5])}")
