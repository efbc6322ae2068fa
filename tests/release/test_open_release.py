"""A downstream reader gets the voxels that were released, in a worker too, or an error."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from meddiff_core.errors import IntegrityError
from meddiff_core.release import open_release
from meddiff_core.release.verify import verify_release

GOLDEN = Path(__file__).parent / "golden" / "heads-1.0.0.zip"


@pytest.fixture
def copy(released: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(released, tmp_path / "copy"))


def test_volumes_come_back_right_anterior_superior(content: Any, released: Path) -> None:
    release = open_release(released)
    assert len(release) == 3
    for index in range(3):
        label = release.label(index)
        assert label is not None
        np.testing.assert_array_equal(label, content.volumes.label(index))
        np.testing.assert_array_equal(release.image(index), np.rint(content.volumes.image(index) / 255 * 1000))


def test_the_affine_puts_the_middle_of_the_grid_at_the_origin(released: Path) -> None:
    release = open_release(released)
    middle = [(size - 1) / 2 for size in release.contract["size"]]
    np.testing.assert_allclose(release.affine @ [*middle, 1], [0, 0, 0, 1], atol=1e-12)
    np.testing.assert_array_equal(np.diag(release.affine), [4, 4, 4, 1])


def test_labels_are_named(released: Path) -> None:
    assert open_release(released).labels == {"cortex": 1, "white_matter": 2, "ventricles": 3}


def test_an_item_is_ready_for_training(content: Any, released: Path) -> None:
    item = open_release(released).dataset()[2]
    assert (item["image"].dtype, item["label"].dtype) == (torch.float32, torch.uint8)
    assert item["image"].shape == item["label"].shape == (1, 16, 20, 18)
    assert item["covariates"]["age"] == content.table["age"].iloc[2]
    assert set(item["covariates"]) == set(content.table.columns) - {"sample_id"}


def test_a_transform_sees_every_item(released: Path) -> None:
    dataset = open_release(released).dataset(transform=lambda item: {"mean": item["image"].mean()})
    assert [list(item) for item in dataset.__getitems__([0, 1])] == [["mean"], ["mean"]]


def test_a_subset_keeps_its_order(content: Any, released: Path) -> None:
    dataset = open_release(released).dataset(indices=[2, 0])
    assert [item["covariates"]["seed"] for item in dataset.__getitems__([0, 1])] == list(
        content.table["seed"].iloc[[2, 0]]
    )


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_two_workers_read_what_one_reads(released: Path, start: str) -> None:
    release = open_release(released)
    dataset = release.dataset()
    alone = [dataset[index] for index in range(3)]  # opened here first, as a user would
    loader = DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context=start)
    batches = list(loader)
    images = torch.cat([batch["image"] for batch in batches])
    ages = torch.cat([batch["covariates"]["age"] for batch in batches])
    assert torch.equal(images, torch.stack([item["image"] for item in alone]))
    assert ages.tolist() == [item["covariates"]["age"] for item in alone]


def test_a_dataset_travels_without_its_data(released: Path) -> None:
    release = open_release(released)
    dataset = release.dataset()
    dataset[0], release.table
    assert len(pickle.dumps(dataset)) < 2_000


def test_a_release_without_labels_has_none(make_content: Any, build: Any, tmp_path: Path) -> None:
    release = open_release(build(make_content(count=2, modality="CT", labelled=False), tmp_path))
    assert release.label(0) is None
    assert "label" not in release.dataset()[0]
    assert release.contract["intensity"]["unit"] == "HU"


def test_missing_covariates_can_be_collated(make_content: Any, build: Any, tmp_path: Path) -> None:
    content = make_content(count=2)
    content.table.loc[0, ["age", "sex"]] = [np.nan, None]
    batch = next(iter(DataLoader(open_release(build(content, tmp_path)).dataset(), batch_size=2)))
    assert torch.isnan(batch["covariates"]["age"]).tolist() == [True, False]
    assert batch["covariates"]["sex"][0] == "n/a"


def test_a_missing_chunk_raises(copy: Path) -> None:
    (copy / "cohort.ome.zarr/image/c.1.0.0.0").unlink()
    dataset = open_release(copy).dataset()
    assert dataset[0]["image"].max() > 0
    with pytest.raises(IntegrityError, match="volume 1 is missing"):
        dataset[1]


def test_an_altered_chunk_raises(copy: Path) -> None:
    path = copy / "cohort.ome.zarr/labels/structures/0/c.1.0.0.0"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match="volume 1 is corrupt"):
        open_release(copy).label(1)


def test_what_is_no_release_does_not_open(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="must be a release"):
        open_release(tmp_path)


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("torch", "zarr", "pandas", "matplotlib")
    code = f"import sys, meddiff_core.release; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_release_of_the_first_version_opens(tmp_path: Path) -> None:
    """It was written by version 1 of the format and is never written anew: old releases must open.

    Kept as an archive, so that no formatter or line-end rule of git can change its bytes.
    """
    shutil.unpack_archive(GOLDEN, tmp_path)
    folder = tmp_path / "heads-1.0.0"
    assert verify_release(folder) == []
    release = open_release(folder)
    item = release.dataset()[1]
    assert item["image"].shape == (1, 16, 16, 16)
    assert (float(item["image"].min()), float(item["image"].max())) == (0, 867)
    assert item["label"].unique().tolist() == [0, 1, 2, 3]
    assert list(release.table["participant_id"]) == ["head-000000", "head-000001"]
