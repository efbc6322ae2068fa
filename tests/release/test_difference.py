"""A new version says what changed since the one before it, and has the number that its changes ask for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli import app
from meddiff_core.errors import ConfigurationError
from meddiff_core.release import open_release
from meddiff_core.release.difference import compare, describe_difference, version_of_release
from meddiff_core.release.verify import verify_release


@pytest.fixture
def small(make_content: Any) -> Any:
    return lambda count=2, **changes: make_content(count=count, histograms=(), **changes)


class Altered:
    """The same volumes, one voxel apart."""

    def __init__(self, volumes: Any, row: int = 0) -> None:
        self.volumes, self.row = volumes, row

    def __len__(self) -> int:
        return len(self.volumes)

    def image(self, index: int) -> Any:
        image = self.volumes.image(index).copy()
        image[0, 0, 0] += index == self.row
        return image

    def label(self, index: int) -> Any:
        return self.volumes.label(index)


def grown(content: Any, bigger: Any, version: str) -> Any:
    """A cohort with more volumes, whose first rows are those of the smaller one."""
    table = bigger.table.copy()
    table.iloc[: len(content.table)] = content.table
    return replace(bigger, table=table, version=version)


def test_the_first_version_has_no_changes(small: Any, build: Any, tmp_path: Path) -> None:
    assert not (build(small(), tmp_path) / "CHANGES.md").exists()


def test_a_grown_cohort_keeps_its_volumes_and_says_what_was_added(
    small: Any, build: Any, tmp_path: Path, finish: Any
) -> None:
    first = small()
    releases = [build(one, tmp_path) for one in (first, grown(first, small(3), "1.1.0"))]
    assert verify_release(releases[1]) == []
    text = (releases[1] / "CHANGES.md").read_text()
    assert "## 1.1.0, after 1.0.0" in text
    assert "- added: 1 (head-000002)" in text
    assert "- left out: 0" in text
    assert "- kept, voxel for voxel the same: 2" in text
    assert "| settings | cohort.size | 2 | 3 |" in text
    difference = finish(compare(*map(version_of_release, releases)))
    assert (difference.added, difference.removed, difference.altered) == (["head-000002"], [], [])
    assert (difference.kept, difference.restated) == (2, [])
    assert "settings  cohort.size: 2 -> 3" in describe_difference(difference)
    assert_kept(*releases)


def assert_kept(old: Path, new: Path) -> None:
    """Every volume of the old version is in the new one under its id, byte for byte, and reads the same."""
    before, after = open_release(old), open_release(new)
    rows = {name: row for row, name in enumerate(after.table["participant_id"])}
    for row, name in enumerate(before.table["participant_id"]):
        np.testing.assert_array_equal(before.image(row), after.image(rows[name]))
        np.testing.assert_array_equal(before.label(row), after.label(rows[name]))  # type: ignore[arg-type]
        for array in ("image", "pyramid/1", "labels/structures/0"):
            chunks = [one / "cohort.ome.zarr" / array / f"c.{at}.0.0.0" for one, at in ((old, row), (new, rows[name]))]
            assert chunks[0].read_bytes() == chunks[1].read_bytes()


def test_the_command_finds_what_the_release_wrote(small: Any, build: Any, tmp_path: Path, finish: Any) -> None:
    first = small()
    gates = (first.gates[0].model_copy(update={"threshold": 0.03}), *first.gates[1:])
    metrics = (first.metrics[0].model_copy(update={"value": 0.009}), *first.metrics[1:])
    other = replace(first, version="1.0.1", gates=gates, metrics=metrics, licence="CC0")
    releases = [build(one, tmp_path) for one in (first, other)]
    changes = finish(compare(*map(version_of_release, releases))).changes
    assert {(one.kind, one.name) for one in changes} == {
        ("papers", "licence"), ("gates", "copies_excess"), ("metrics", "copies_excess"),
    }  # fmt: skip
    text = (releases[1] / "CHANGES.md").read_text()
    assert all(f"| {one.kind} | {one.name} |" in text for one in changes)


@pytest.mark.parametrize(
    ("version", "what", "message"),
    [
        ("1.1.0", "altered", "its first number must grow, since 0 volumes of 1.0.0 are left out and 1 have other"),
        ("1.1.0", "removed", "its first number must grow, since 1 volumes of 1.0.0 are left out and 0 have other"),
        ("1.0.1", "added", "its second number must grow, since 1 volumes are added to 1.0.0"),
    ],
)
def test_a_number_that_promises_too_much_is_refused(
    small: Any, build: Any, tmp_path: Path, version: str, what: str, message: str
) -> None:
    first = small()
    build(first, tmp_path)
    changed = {
        "altered": replace(first, volumes=Altered(first.volumes), version=version),
        "removed": replace(small(1), table=first.table.iloc[:1], version=version),
        "added": grown(first, small(3), version),
    }[what]
    with pytest.raises(ConfigurationError, match=message):
        build(changed, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["heads-1.0.0"]
    higher = "2.0.0" if what != "added" else "1.1.0"
    text = (build(replace(changed, version=higher), tmp_path) / "CHANGES.md").read_text()
    assert ("- with other voxels: 1 (head-000000)" in text) == (what == "altered")
    assert ("- left out: 1 (head-000001)" in text) == (what == "removed")


def test_a_row_that_says_something_else_is_named(small: Any, build: Any, tmp_path: Path) -> None:
    first = small()
    table = first.table.assign(age=[first.table["age"][0], 33.3])
    release = build(replace(first, table=table, version="1.0.1"), (build(first, tmp_path)).parent)
    assert "- with other values in the table: 1 (head-000001)" in (release / "CHANGES.md").read_text()


def test_the_history_of_all_versions_is_carried_on(small: Any, build: Any, tmp_path: Path) -> None:
    for version in ("1.0.0", "1.0.1", "1.0.10"):
        release = build(
            small(1, version=version) if version == "1.0.0" else replace(small(1), version=version), tmp_path
        )
    text = (release / "CHANGES.md").read_text()
    assert text.index("## 1.0.10, after 1.0.1") < text.index("## 1.0.1, after 1.0.0")
    assert text.count("# Changes") == 1


def test_another_cohort_beside_it_is_no_version_of_it(small: Any, build: Any, tmp_path: Path) -> None:
    build(replace(small(1), name="heads-mr"), tmp_path)
    assert not (build(replace(small(1), version="2.0.0"), tmp_path) / "CHANGES.md").exists()


def test_the_command_prints_a_line_for_each_thing(released: Path) -> None:
    done = CliRunner().invoke(app, ["diff", str(released), str(released)])
    assert done.exit_code == 0
    assert [line.split(maxsplit=1) for line in done.stdout.splitlines()] == [
        ["added", "0"], ["removed", "0"], ["altered", "0"], ["kept", "3, voxel for voxel the same"],
        ["rows", "0 with other values in the table"],
    ]  # fmt: skip
