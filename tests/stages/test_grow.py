"""A finished cohort grows by a night's volumes and one version, once, and study.yaml keeps all else that it holds."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from meddiff_core.errors import ConfigurationError
from meddiff_core.stages.grow import grow_cohort
from meddiff_core.workspace import Workspace

TEXT = """# A study, as a person wrote it.
name: heads  # names the releases
data: {images: scans}
cohort:
  size: 8   # to begin with
  seed: 3
release: {version: "1.4.2", licence: ours}
"""


class Finished(Workspace):
    """All of it was made."""

    def states(self, listing: str | None = None) -> list[Any]:
        return []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "study.yaml").write_text(TEXT)
    return tmp_path


def grow(folder: Path, due: datetime) -> str | None:
    return grow_cohort(Finished.open(folder), 4, due)


def test_size_and_version_are_written_and_nothing_else_is_touched(folder: Path) -> None:
    assert grow(folder, datetime.now(UTC)) == "study.yaml: cohort.size is 12 now, release.version 1.5.0"
    text = (folder / "study.yaml").read_text()
    assert text == TEXT.replace("size: 8", "size: 12").replace('"1.4.2"', "1.5.0")


def test_three_missed_nights_are_one_version_and_the_next_night_is_another(folder: Path) -> None:
    now = datetime.now(UTC)
    said = [grow(folder, now - timedelta(days=days)) for days in (3, 2, 1)]
    assert [line is not None for line in said] == [True, False, False]
    assert grow(folder, datetime.now(UTC)) is not None
    assert Workspace.open(folder).study.cohort.size == 16


def test_a_night_whose_forerunner_did_not_finish_grows_nothing(folder: Path) -> None:
    assert grow_cohort(Workspace.open(folder), 4, datetime.now(UTC)) is None
    assert (folder / "study.yaml").read_text() == TEXT


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  size: 8   # to begin with\n", ""),
        ("size: 8", "size: &eight 8\nsampling: {batch: *eight}\n#"),
        ("  seed: 3", "  cells: [{where: {sex: F}, count: 8}]"),
        ('version: "1.4.2", ', ""),
    ],
    ids=["no size", "an anchor", "counts that add up", "no version"],
)
def test_what_cannot_be_grown_is_refused_and_left_alone(folder: Path, old: str, new: str) -> None:
    assert old in TEXT
    (folder / "study.yaml").write_text(TEXT.replace(old, new))
    before = (folder / "study.yaml").read_text()
    with pytest.raises(ConfigurationError):
        grow(folder, datetime.now(UTC))
    assert (folder / "study.yaml").read_text() == before


@pytest.mark.parametrize("shown", [TEXT, yaml.safe_dump(yaml.safe_load(TEXT))], ids=["by hand", "by a program"])
def test_what_was_grown_is_a_study(folder: Path, shown: str) -> None:
    (folder / "study.yaml").write_text(shown)
    grow(folder, datetime.now(UTC))
    study = Workspace.open(folder).study
    assert (study.cohort.size, study.release.version, study.release.licence) == (12, "1.5.0", "ours")
