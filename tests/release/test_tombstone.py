"""A release that was withdrawn is gone, and says so wherever it is asked for."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from typer.testing import CliRunner

from flows.cli import app
from meddiff_core.artefacts import digest_file
from meddiff_core.data.ingest import Inventory
from meddiff_core.errors import ConfigurationError, IntegrityError
from meddiff_core.release import open_release
from meddiff_core.release.tombstone import yank_release
from meddiff_core.release.verify import verify_release
from meddiff_core.types import CaseRef


@pytest.fixture
def copy(released: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(released, tmp_path / "heads-1.0.0"))


def test_data_go_and_manifest_and_reason_stay(copy: Path) -> None:
    digest = digest_file(copy / "manifest.json")
    yank_release(copy, "A source subject\nwithdrew *consent*.")
    assert sorted(path.name for path in copy.iterdir()) == ["TOMBSTONE.md", "manifest.json"]
    assert digest_file(copy / "manifest.json") == digest
    text = (copy / "TOMBSTONE.md").read_text()
    assert text.startswith("# Synthetic heads 1.0.0 was withdrawn\n\nA source subject withdrew &#42;consent&#42;.\n")


def test_a_signature_over_the_manifest_stays_with_it(copy: Path) -> None:
    (copy / "manifest.dsse.json").write_text("{}")
    yank_release(copy, "Consent was withdrawn.")
    assert (copy / "manifest.dsse.json").exists()


def test_who_opens_compares_or_verifies_it_is_told_in_one_line(
    copy: Path, released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yank_release(copy, "Consent was withdrawn.")
    said = "heads-1.0.0 was withdrawn, its TOMBSTONE.md says why"
    assert verify_release(copy) == [said]
    with pytest.raises(IntegrityError, match=said):
        open_release(copy)
    with pytest.raises(IntegrityError, match=said):
        yank_release(copy, "Again.")
    for arguments in (["diff", str(copy), str(released)], ["diff", str(released), str(copy)]):
        assert str(CliRunner().invoke(app, arguments).exception) == said
    monkeypatch.chdir(copy)
    done = CliRunner().invoke(app, ["verify", "."])
    assert (done.exit_code, done.output) == (1, f"{said}\n")


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        (" \n ", "must say why"),
        ("Gone.\x1b[2J", r"must be a line of printable text, is Gone\.\\x1b\[2J"),
        ("\u202e.enoG", "printable text"),
        ("caf\udce9", "printable text"),
        ("x" * 501, "at most 500 characters, has 501"),
    ],
)
def test_a_reason_is_a_line_of_text(copy: Path, reason: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        yank_release(copy, reason)
    assert verify_release(copy) == []


def test_markup_in_a_reason_stays_text(copy: Path) -> None:
    yank_release(copy, "<script>alert(1)</script> [here](https://example.org)")
    reason = (copy / "TOMBSTONE.md").read_text().splitlines()[2]
    assert not set(reason) & set("<>[]`*")


def test_a_withdrawal_that_was_killed_half_way_is_finished(copy: Path) -> None:
    shutil.copytree(copy / "evidence", copy.parent / "evidence")
    yank_release(copy, "Consent was withdrawn.")
    (copy.parent / "evidence").rename(copy / "evidence")
    yank_release(copy, "Again.")
    assert sorted(path.name for path in copy.iterdir()) == ["TOMBSTONE.md", "manifest.json"]
    assert "Consent was withdrawn." in (copy / "TOMBSTONE.md").read_text()


def test_a_folder_with_a_tombstone_alone_is_left_alone(tmp_path: Path) -> None:
    for name in ("TOMBSTONE.md", "notes.txt"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(IntegrityError, match="must be a release"):
        yank_release(tmp_path, "Consent was withdrawn.")
    assert (tmp_path / "notes.txt").exists()


def test_a_reason_names_no_subject(copy: Path) -> None:
    with pytest.raises(ConfigurationError, match="must name no real subject") as caught:
        yank_release(copy, "Ixi012-HH-1211 withdrew consent.", ["IXI012-HH-1211"])
    assert "1211" not in str(caught.value)
    assert verify_release(copy) == []


def test_what_is_no_release_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(IntegrityError, match="must be a release"):
        yank_release(tmp_path, "Consent was withdrawn.")
    assert (tmp_path / "notes.txt").exists()


def test_a_withdrawn_version_is_not_made_again_and_the_next_is_compared_with_the_one_before(
    make_content: Any, build: Any, tmp_path: Path
) -> None:
    content = make_content(count=1, histograms=())
    build(content, tmp_path)
    yank_release(build(replace(content, version="1.0.1"), tmp_path), "A fault.")
    with pytest.raises(ConfigurationError, match=r"must be new, 1\.0\.1 exists"):
        build(replace(content, version="1.0.1"), tmp_path)
    assert "## 1.0.2, after 1.0.0" in (build(replace(content, version="1.0.2"), tmp_path) / "CHANGES.md").read_text()


def test_the_command_knows_the_names_of_the_study_around_a_release(released: Path, tmp_path: Path) -> None:
    release = Path(shutil.copytree(released, tmp_path / "releases" / "heads-1.0.0"))
    (tmp_path / "study.yaml").write_text("{name: heads, data: {images: scans}}")
    cases = (CaseRef(case="meier_T1", subject="meier", image=Path("/archive/meier_T1.nii.gz")),)
    inventory = TypeAdapter(Inventory).dump_json(Inventory(cases=cases, refused=(), notes=()))
    (tmp_path / "inventory.json").write_bytes(inventory)
    refused = CliRunner().invoke(app, ["yank", str(release), "--reason", "Meier withdrew consent."])
    assert isinstance(refused.exception, ConfigurationError)
    assert verify_release(release) == []
    done = CliRunner().invoke(app, ["yank", str(release), "--reason", "A subject withdrew consent."])
    assert (done.exit_code, done.output) == (0, f"{release}: withdrawn; its manifest and the reason stay\n")
    assert "A subject withdrew consent." in (release / "TOMBSTONE.md").read_text()


def test_a_release_outside_a_study_is_withdrawn_as_well(copy: Path) -> None:
    assert CliRunner().invoke(app, ["yank", str(copy), "--reason", "A fault."]).exit_code == 0
