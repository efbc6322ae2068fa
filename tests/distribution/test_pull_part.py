"""A filtered pull is what `subset` makes of the whole, and transfers no volume that it leaves out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from meddiff_core.artefacts import digest_tree
from meddiff_core.distribution.plan import Choice
from meddiff_core.distribution.pull import part_of, pull_release, whole_release
from meddiff_core.distribution.subset import make_subset
from meddiff_core.errors import ConfigurationError, IntegrityError
from meddiff_core.objects.addresses import open_source
from meddiff_core.release import open_release
from meddiff_core.release.verify import verify_release
from tests.serving import Server


def test_a_part_by_url_is_the_subset_of_the_whole(served: Server, golden: Path, tmp_path: Path, finish: Any) -> None:
    choice = Choice(where=f"age >= {open_release(golden).table['age'].max()}")
    finish(pull_release(open_source(served.url), tmp_path / "part", planner=part_of(choice)))
    finish(make_subset(golden, tmp_path / "subset", choice))
    assert digest_tree(tmp_path / "part") == digest_tree(tmp_path / "subset")
    assert verify_release(tmp_path / "part") == []
    (kept,) = open_release(golden).where(age=open_release(golden).table["age"].max())
    assert [path for path in served.asked if "/image/c" in path] == [f"/cohort.ome.zarr/image/c/{kept}/0/0/0"]
    image = zarr.open_group(tmp_path / "part/cohort.ome.zarr", mode="r")["image"]
    np.testing.assert_array_equal(image[0].T, open_release(golden).image(kept))
    assert image.shape[0] == 1


def test_a_part_goes_on_after_a_fault(served: Server, golden: Path, tmp_path: Path, finish: Any) -> None:
    def refuse(handler: Any, _: bytes) -> bool:
        handler.answer(404, b"")
        return True

    def pull() -> None:
        finish(pull_release(open_source(served.url), tmp_path / "part", planner=part_of(Choice(limit=1))))

    served.misbehave = {"image/c/0/0/0/0": refuse}
    with pytest.raises(IntegrityError, match="image/c/0/0/0/0: missing"):
        pull()
    served.misbehave = {}
    served.asked.clear()
    pull()
    assert served.count("image/c/0/0/0/0") == served.count("report.html") + 1 == 1
    assert verify_release(tmp_path / "part") == []


def test_a_whole_release_does_not_come_into_the_folder_of_a_part(served: Server, tmp_path: Path, finish: Any) -> None:
    finish(pull_release(open_source(served.url), tmp_path / "it", planner=part_of(Choice(limit=1))))
    before = digest_tree(tmp_path / "it")
    with pytest.raises(ConfigurationError, match="something else"):
        finish(pull_release(open_source(served.url), tmp_path / "it", planner=whole_release))
    assert digest_tree(tmp_path / "it") == before


def test_a_filter_that_keeps_nothing_transfers_nothing(served: Server, tmp_path: Path, finish: Any) -> None:
    with pytest.raises(ConfigurationError):
        finish(pull_release(open_source(served.url), tmp_path / "it", planner=part_of(Choice(where="age > 900"))))
    assert served.count("report.html") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["served"]
