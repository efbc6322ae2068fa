"""A downstream reader gets the voxels that were released, in a worker too, or an error."""

import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from monai.data import MetaTensor
from monai.transforms import Spacingd
from torch.utils.data import DataLoader

from meddiff_core.errors import ConfigurationError, IntegrityError
from meddiff_core.objects import checked
from meddiff_core.release import dataset as torch_datasets
from meddiff_core.release import open_release, reader
from meddiff_core.release.build import build_release
from meddiff_core.release.ome import affine_of
from meddiff_core.release.verify import verify_release

ROOT = Path(__file__).parents[2]
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


def test_an_item_says_which_volume_it_is_and_where_it_lies(content: Any, released: Path) -> None:
    item = open_release(released).dataset()[-1]
    assert item["participant_id"] == content.table["sample_id"].iloc[-1]
    assert item["affine"].dtype == torch.float64
    np.testing.assert_array_equal(item["affine"], affine_of(content.contract))
    for name in ("image", "label"):
        assert isinstance(item[name], MetaTensor)
        assert torch.equal(item[name].affine, item["affine"])
        assert item[name].meta["space"] == "RAS"


def test_spacing_transforms_give_the_grid_that_they_were_asked_for(
    make_content: Any, build: Any, tmp_path: Path
) -> None:
    """4 mm at 24x32x24 are 47x63x47 voxels of 2 mm. Without an affine MONAI took 4 mm for 1."""
    release = open_release(build(make_content(count=2, size=(24, 32, 24)), tmp_path))
    finer = Spacingd(["image", "label"], pixdim=(2, 2, 2), mode=("bilinear", "nearest"))
    batch = next(iter(DataLoader(release.dataset(finer), batch_size=2)))
    assert batch["image"].shape == batch["label"].shape == (2, 1, 47, 63, 47)
    assert batch["participant_id"] == ["head-000000", "head-000001"]
    spacing = batch["image"][0].affine if batch["image"].affine.ndim == 2 else batch["image"].affine[0]
    np.testing.assert_allclose(np.diag(spacing), [2, 2, 2, 1])


def test_without_monai_items_are_plain_tensors(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai.data.meta_tensor", None)
    torch_datasets._meta_tensor.cache_clear()
    try:
        item = open_release(released).dataset()[0]
    finally:
        torch_datasets._meta_tensor.cache_clear()
    assert type(item["image"]) is type(item["label"]) is torch.Tensor
    assert item["affine"].shape == (4, 4)


def test_a_negative_index_counts_from_the_end(released: Path) -> None:
    release = open_release(released)
    np.testing.assert_array_equal(release.image(-1), release.image(2))
    assert release.covariates(np.int64(-1)) == release.covariates(2)
    assert release.dataset(indices=[-1])[0]["participant_id"] == "head-000002"


@pytest.mark.parametrize("index", [3, -4])
def test_an_index_out_of_range_is_an_index_error(released: Path, index: int) -> None:
    release = open_release(released)
    for read in (release.image, release.label, release.covariates, release.dataset().__getitem__):
        with pytest.raises(IndexError, match=f"volumes 0 to 2, asked for {index}"):
            read(index)
    with pytest.raises(IndexError):
        release.dataset(indices=[0, index])


def test_a_loop_over_the_data_set_ends(released: Path) -> None:
    assert [item["participant_id"] for item in open_release(released).dataset()] == [f"head-00000{n}" for n in range(3)]


@pytest.mark.parametrize(
    "address", ["file:///heads", "data:,heads", "ftp://host/heads", "https:///heads", "s3:heads/a", "http://host/a#1"]
)
def test_an_address_of_another_kind_is_refused_in_a_line(address: str) -> None:
    with pytest.raises((ConfigurationError, IntegrityError), match="must"):
        open_release(address)


def test_a_url_as_a_path_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="as text"):
        open_release(Path("https://example.org/heads"))


def test_an_archive_is_refused_in_a_line() -> None:
    with pytest.raises(ConfigurationError, match=r"heads-1\.0\.0\.zip is a file: unpack it first"):
        open_release(GOLDEN)


@pytest.mark.parametrize("large", [1, 2**30])
def test_batches_hold_what_single_reads_give(released: Path, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether by threads, as large volumes are read, or one by one."""
    monkeypatch.setattr(reader, "LARGE", large)
    release = open_release(released)
    images, labels = release.images([2, 0]), release.label_maps(np.array([True, False, True]))
    np.testing.assert_array_equal(images, np.stack([release.image(2), release.image(0)]))
    np.testing.assert_array_equal(labels, np.stack([release.label(0), release.label(2)]))  # type: ignore[arg-type]
    assert release.images().shape == (3, 16, 20, 18)
    dataset = release.dataset()
    for item, alone in zip(dataset.__getitems__([1, -1]), (dataset[1], dataset[2]), strict=True):
        assert item["participant_id"] == alone["participant_id"]
        assert torch.equal(item["image"], alone["image"])


def test_volumes_are_chosen_by_the_table(content: Any, released: Path) -> None:
    release, table = open_release(released), content.table
    middle = float(table["age"].median())
    assert release.where(age=(middle, None)) == np.flatnonzero(table["age"] >= middle).tolist()
    assert release.where(age=(None, middle), sex=["F", "M"]) == np.flatnonzero(table["age"] <= middle).tolist()
    women = release.where(sex="F")
    assert women == np.flatnonzero(table["sex"] == "F").tolist()
    chosen = release.dataset(indices=[2, 1, 0], where={"sex": "F"})
    assert [item["covariates"]["sex"] for item in chosen] == ["F"] * len(women)
    assert list(chosen.indices) == sorted(women, reverse=True)
    mask = (table["age"] >= middle).to_numpy()
    assert list(release.dataset(indices=mask).indices) == release.where(age=(middle, None))


def test_a_missing_value_fulfils_nothing(make_content: Any, build: Any, tmp_path: Path) -> None:
    content = make_content(count=3)
    content.table.loc[1, ["age", "sex"]] = [np.nan, None]
    release = open_release(build(content, tmp_path))
    assert release.where(age=(None, None)) == release.where(sex=["F", "M"]) == [0, 2]


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"agee": 1}, "must name columns of the table .*, got 'agee'"),
        ({"age": "old"}, "age holds numbers, got 'old'"),
        ({"sex": 1}, "sex holds words, got 1"),
        ({"sex": ("A", "F")}, "sex must be a number"),
        ({"age": (1, 2, 3)}, "from low to high"),
        ({"age": ("20", None)}, "age must be a number from low to high"),
    ],
)
def test_a_choice_that_cannot_be_meant_is_refused(released: Path, wanted: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        open_release(released).where(**wanted)


def test_a_mask_of_another_length_is_refused(released: Path) -> None:
    with pytest.raises(ConfigurationError, match="3 truths"):
        open_release(released).dataset(indices=np.array([True, False]))


def test_collating_in_the_order_of_the_disk_gives_the_same_batch(released: Path) -> None:
    dataset = open_release(released).dataset()
    ours = next(iter(DataLoader(dataset, batch_size=3, collate_fn=dataset.collate)))
    usual = next(iter(DataLoader(dataset, batch_size=3)))
    assert ours.keys() == usual.keys()
    for name in ("image", "label"):
        assert isinstance(ours[name], MetaTensor)
        assert torch.equal(ours[name].as_tensor(), usual[name].as_tensor())
        assert torch.equal(ours[name].affine, usual[name].affine)
    assert ours["image"].permute(0, 1, 4, 3, 2).is_contiguous()


@pytest.fixture(scope="module")
def dozen(tmp_path_factory: pytest.TempPathFactory, make_content: Any, finish: Any) -> Path:
    """A release of twelve tiny heads."""
    content = make_content(count=12, size=(8, 8, 8))
    return finish(build_release(content, tmp_path_factory.mktemp("dozen")))  # type: ignore[no-any-return]


def names_in(stream: Any, **options: Any) -> list[str]:
    return [name for batch in DataLoader(stream, batch_size=2, **options) for name in batch["participant_id"]]


def test_a_stream_gives_every_volume_once_and_blocks_stay_together(dozen: Path) -> None:
    release = open_release(dozen)
    ids = list(release.table["participant_id"])
    assert names_in(release.stream(shuffle=False, block=5)) == ids
    torch.manual_seed(3)
    stream = release.stream(block=4)
    first, second = names_in(stream), names_in(stream)
    assert sorted(first) == sorted(second) == ids
    assert len({tuple(first), tuple(second), tuple(ids)}) == 3
    blocks = [{ids.index(name) // 4 for name in first[start : start + 4]} for start in (0, 4, 8)]
    assert [len(block) for block in blocks] == [1, 1, 1]
    for again in (stream, release.stream(block=4)):
        torch.manual_seed(3)
        assert names_in(again) == first


def test_processes_stream_parts_of_their_own(dozen: Path) -> None:
    release = open_release(dozen)
    parts = [names_in(release.stream(indices=part)) for part in np.array_split(np.arange(12), 5)]
    assert sorted(name for part in parts for name in part) == list(release.table["participant_id"])


@pytest.mark.parametrize("block", [0, -1])
def test_a_block_without_a_volume_is_refused(dozen: Path, block: int) -> None:
    with pytest.raises(ConfigurationError, match=f"block must be at least 1 volume, is {block}"):
        open_release(dozen).stream(block=block)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_workers_share_a_stream_and_shuffle_anew_in_each_epoch(dozen: Path, persistent: bool) -> None:
    loader = DataLoader(
        open_release(dozen).stream(block=2),
        num_workers=2,
        multiprocessing_context="fork",
        persistent_workers=persistent,
    )
    epochs = [[batch["participant_id"][0] for batch in loader] for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == [f"head-{n:06d}" for n in range(12)]
    assert epochs[0] != epochs[1]


def test_a_transform_sees_every_item(released: Path) -> None:
    dataset = open_release(released).dataset(transform=lambda item: {"mean": item["image"].mean()})
    assert [list(item) for item in dataset.__getitems__([0, 1])] == [["mean"], ["mean"]]


def test_a_subset_keeps_its_order(content: Any, released: Path) -> None:
    dataset = open_release(released).dataset(indices=[2, 0])
    assert [item["covariates"]["seed"] for item in dataset.__getitems__([0, 1])] == list(
        content.table["seed"].iloc[[2, 0]]
    )


@pytest.mark.parametrize(
    "start",
    ["fork", *(pytest.param(start, marks=pytest.mark.slow) for start in ("forkserver", "spawn"))],  # import MONAI anew
)
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


def test_the_card_tells_hubs_that_the_table_is_the_data(content: Any, released: Path) -> None:
    """Without its header `datasets.load_dataset(folder)` took every zarr.json for a row."""
    _, header, _ = (released / "README.md").read_text().split("---\n", 2)
    (config,) = yaml.safe_load(header)["configs"]
    table = pd.read_parquet(released / config["data_files"])
    assert list(table["participant_id"]) == list(content.table["sample_id"])


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
    with pytest.raises(IntegrityError, match=r"^volume 1: cohort\.ome\.zarr/image/c\.1\.0\.0\.0: missing$"):
        dataset[1]


def test_an_altered_chunk_raises(copy: Path) -> None:
    path = copy / "cohort.ome.zarr/labels/structures/0/c.1.0.0.0"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    with pytest.raises(
        IntegrityError, match=r"structures/0/c\.1\.0\.0\.0: altered, it is not the file in the manifest"
    ):
        open_release(copy).label(1)
    with pytest.raises(IntegrityError, match=r"volume 1: .*structures/0/c\.1\.0\.0\.0: "):
        open_release(copy, check=False).label(1)


def swap(folder: Path, name: str, other: str) -> None:
    first, second = (folder / name).read_bytes(), (folder / other).read_bytes()
    (folder / name).write_bytes(second), (folder / other).write_bytes(first)


def test_swapped_volumes_are_found_by_the_reader_alone(content: Any, copy: Path) -> None:
    """Each chunk is whole, so that nothing but the manifest knows better."""
    swap(copy, "cohort.ome.zarr/image/c.0.0.0.0", "cohort.ome.zarr/image/c.1.0.0.0")
    with pytest.raises(IntegrityError, match=r"image/c\.0\.0\.0\.0: altered"):
        open_release(copy).image(0)
    unchecked = open_release(copy, check=False).image(0)
    np.testing.assert_array_equal(unchecked, np.rint(content.volumes.image(1) / 255 * 1000))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("participants.parquet", lambda release: release.table),
        ("cohort.ome.zarr/zarr.json", lambda release: release.affine),
        ("cohort.ome.zarr/image/zarr.json", lambda release: release.image(0)),
    ],
)
@pytest.mark.parametrize("damage", ["altered", "missing", "not in the manifest"])
def test_what_describes_the_volumes_is_checked_too(copy: Path, name: str, read: Any, damage: str) -> None:
    if damage == "altered":
        (copy / name).write_bytes((copy / name).read_bytes() + b" ")
    elif damage == "missing":
        (copy / name).unlink()
    else:
        manifest = json.loads((copy / "manifest.json").read_text())
        del manifest["files"][name]
        (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match=f"{name}: {damage}"):
        read(open_release(copy))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("participants.parquet", b"no parquet"),
        ("cohort.ome.zarr/zarr.json", b"[]"),
        ("cohort.ome.zarr/image/zarr.json", b'{"zarr_format": 3}'),
    ],
)
def test_nonsense_is_a_line_of_text_even_unchecked(copy: Path, name: str, content: bytes) -> None:
    (copy / name).write_bytes(content)
    release = open_release(copy, check=False)
    with pytest.raises(IntegrityError, match="must"):
        release.table, release.affine, release.image(0)


def test_a_file_is_hashed_once_in_a_process(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    sha256 = checked.hashlib.sha256
    monkeypatch.setattr(checked.hashlib, "sha256", lambda content: hashed.append(len(content)) or sha256(content))
    release = open_release(released)
    release.image(0), release.image(0), release.image(-3)
    assert len(hashed) == 3  # the metadata of the store and the array, and a chunk
    release.image(1)
    assert len(hashed) == 4


def test_what_is_no_release_does_not_open(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="must be a release"):
        open_release(tmp_path)


READ = """
import sys
from meddiff_core.release import open_release, reader, verify
release = open_release(sys.argv[1])
assert release.image(-1).shape == (16, 20, 18) and release.label(0).max() == 3
assert release.covariates(0)["sex"] in "FM" and release.where(sex=["F", "M"]) == [0, 1, 2]
assert verify.verify_release(release.path) == []
try:
    release.image(slice(0, 2))
except TypeError as error:
    print(error)
print([name for name in sys.argv[2:] if name in sys.modules])
"""


def test_reading_and_verifying_load_neither_torch_nor_scipy(released: Path) -> None:
    heavy = ["torch", "scipy", "monai", "sklearn", "matplotlib", "jaxtyping", "prefect", "mlflow", "nibabel"]
    done = subprocess.run([sys.executable, "-c", READ, released, *heavy], capture_output=True, text=True, check=False)
    refusal, loaded = done.stdout.strip().splitlines() or ("", done.stderr)
    assert refusal.startswith("a volume is named by one whole number, got slice(0, 2, None)")
    assert loaded == "[]"


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("torch", "zarr", "pandas", "matplotlib")
    code = f"import sys, meddiff_core.release; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_lines_in_the_readme_train_a_segmentation_network(dozen: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (code,) = [block for block in blocks if "open_release" in block]
    torch.manual_seed(0)
    found: dict[str, Any] = {}
    exec(code.replace("releases/my-study-1.0.0", str(dozen)), found)
    assert float(found["loss"].detach()) < 0.9  # chance is log(4) = 1.39


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
