"""Each export, read with the format's own library, gives the voxels of the release at the same place in the body."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import zarr
from typer.testing import CliRunner

from flows import release_cli
from meddiff_core.artefacts import digest_tree, write_json
from meddiff_core.contract import CategoricalCondition, Contract, IntensityMapping
from meddiff_core.distribution.exports import destination as destinations
from meddiff_core.distribution.exports.bids import in_words_of_bids
from meddiff_core.distribution.exports.cohort import Cohort, Selection
from meddiff_core.distribution.exports.export import FORMATS, export_release
from meddiff_core.distribution.exports.labels import labels_of
from meddiff_core.distribution.exports.sides import parse_shares, split_volumes
from meddiff_core.errors import ConfigurationError, IntegrityError, MeddiffError
from meddiff_core.parquet import write_parquet
from meddiff_core.release import open_release
from meddiff_core.release.manifest import FORMAT, MANIFEST, Manifest, list_files
from meddiff_core.release.ome import COHORT, write_cohort
from meddiff_core.release.participants_table import TABLE

SIZE, SPACING = (12, 14, 10), (1.5, 1.25, 2.7)
MARKS = {"left": (1, 7, 5), "anterior": (6, 12, 5), "superior": (6, 7, 8)}
"""Voxel (i, j, k) of each mark; the fourth structure is nowhere."""
Read = Callable[[Path], tuple[Any, Any, Any]]
Export = Callable[..., Path]


class Marked:
    """A block of noise with a mark at its left, one in front and one on top."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def label(self, index: int) -> Any:
        label = np.zeros(SIZE, np.uint8)
        for value, place in enumerate(MARKS.values(), 1):
            label[place] = value
        return label

    def image(self, index: int) -> Any:
        random = np.random.default_rng(index).integers(40, 120, SIZE).astype(np.uint8)
        return np.where(self.label(index), 200 + 10 * self.label(index), random).astype(np.uint8)


def write_release(folder: Path, modality: str = "MR", count: int = 3, name: str = "marked") -> Path:
    contract = Contract(
        spacing_mm=SPACING, size=SIZE, mask="none",
        labels={name: (value,) for value, name in enumerate([*MARKS, "ignore"], 1)},
        conditions=(CategoricalCondition(name="sex", categories=("female", "male")),),
        intensity=IntensityMapping(
            modality=modality, low=-1000, high=1000, percentiles=(1, 99) if modality == "MR" else None
        ),
    )  # fmt: skip
    ids = [f"syn-{n:06d}-0" for n in range(count)]
    table = pd.DataFrame(
        {"participant_id": ids, "age": [33.5, np.nan, 70][:count], "sex": ["female", None, "male"][:count]}
    )
    for _ in write_cohort(folder / COHORT, Marked(count), table, contract, "Marked"):
        pass
    write_parquet(folder / TABLE, table)
    write_json(folder / "participants.json", {name: {"Description": f"The {name}."} for name in table.columns})
    (folder / "README.md").write_text("---\nconfigs: []\n---\n\n# Card of the whole\n")
    manifest = Manifest(
        format=FORMAT, name=name, version="1.0.0", title="Marked | <b>bodies</b>", licence="CC BY 4.0", preset="trial",
        samples=count, counts={}, parents={}, study={}, versions={"meddiff": "0.1.0"}, files=list_files(folder),
    )  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    return folder


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of three marked bodies. Read it only."""
    return write_release(tmp_path_factory.mktemp("marked") / "marked-1.0.0")


@pytest.fixture
def export(finish: Any, tmp_path: Path) -> Export:
    def run(release: Path, name: Any, to: str = "", **options: Any) -> Path:
        destination = tmp_path / (to or ("Dataset501_Marked" if name == "nnunet" else name))
        finish(export_release(open_release(release), destination, name, **options))
        return destination

    return run


def read_nifti(path: Path) -> tuple[Any, Any]:
    image = nibabel.load(path)
    header: Any = image.header
    assert int(header["qform_code"]) == int(header["sform_code"]) > 0
    assert np.array_equal(header.get_qform(), header.get_sform())
    assert header.get_xyzt_units()[0] == "mm"
    assert (image.dataobj.slope, image.dataobj.inter) == (1, 0)
    assert "nothing here is a real scan" in header.extensions[0].get_content().decode()
    return np.asarray(image.dataobj), image.affine


def read_pair(image: Path, label: Path) -> tuple[Any, Any, Any]:
    (voxels, affine), (values, other) = read_nifti(image), read_nifti(label)
    assert affine.tobytes() == other.tobytes()
    return voxels, values, affine


def read_folders(folder: Path) -> tuple[Any, Any, Any]:
    return read_pair(folder / "images/syn0000010.nii.gz", folder / "labels/syn0000010.nii.gz")


def read_bids(folder: Path) -> tuple[Any, Any, Any]:
    stem = folder / "sub-syn0000010/anat/sub-syn0000010"
    return read_pair(Path(f"{stem}_MR.nii.gz"), Path(f"{stem}_dseg.nii.gz"))


def read_nnunet(folder: Path) -> tuple[Any, Any, Any]:
    return read_pair(folder / "imagesTr/syn0000010_0000.nii.gz", folder / "labelsTr/syn0000010.nii.gz")


def read_series(folder: Path) -> tuple[Any, Any, Any]:
    """By pydicom, in the order of positions along the normal: voxels (column, row, slice), and their RAS affine."""
    import pydicom

    slices = [pydicom.dcmread(path) for path in folder.glob("image/*.dcm")]
    across, down = np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(across, down)
    slices.sort(key=lambda one: float(normal @ np.array(one.ImagePositionPatient, float)))
    rows, columns = map(float, slices[0].PixelSpacing)
    affine = np.eye(4)
    step = np.array(slices[1].ImagePositionPatient, float) - np.array(slices[0].ImagePositionPatient, float)
    assert np.allclose(step, normal * float(slices[0].SpacingBetweenSlices))
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = across * columns, down * rows, step
    affine[:3, 3] = slices[0].ImagePositionPatient
    assert {one.SyntheticData for one in slices} == {"YES"}
    return np.stack([one.pixel_array.T for one in slices], axis=2), slices, np.diag([-1, -1, 1, 1]) @ affine


def as_released(voxels: Any, affine: Any) -> tuple[Any, Any]:
    """The same volume with its first two axes counted to the right and to the front, as nibabel's canonical form."""
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(voxels, affine))
    return np.asarray(image.dataobj), image.affine


def read_dicom(folder: Path) -> tuple[Any, Any, Any]:
    import highdicom

    voxels, affine = as_released(*read_series(folder / "syn0000010")[::2])
    found = highdicom.seg.segread(folder / "syn0000010/segmentation.dcm").get_volume(combine_segments=True)
    label, other = as_released(found.array.transpose(2, 1, 0), np.diag([-1, -1, 1, 1]) @ found.affine[:, [2, 1, 0, 3]])
    assert np.abs(other - affine).max() < 1e-4
    return voxels, label, affine


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")
def read_webdataset(folder: Path) -> tuple[Any, Any, Any]:
    import webdataset

    samples = list(webdataset.WebDataset(str(folder / "volumes-000000.tar"), shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == ["syn0000000", "syn0000010", "syn0000020"]
    return samples[1]["image.npy"], samples[1]["label.npy"], np.array(samples[1]["json"]["affine"])


def read_ome_zarr(folder: Path) -> tuple[Any, Any, Any]:
    yaozarrs = pytest.importorskip("yaozarrs")
    yaozarrs.validate_zarr_store(str(folder / "syn0000010.ome.zarr"))
    group = zarr.open_group(folder / "syn0000010.ome.zarr", mode="r")
    levels: Any = group.attrs["ome"]
    scale, shift = (place for place in levels["multiscales"][0]["datasets"][0]["coordinateTransformations"])
    affine = np.diag([*scale["scale"][::-1], 1.0])
    affine[:3, 3] = shift["translation"][::-1]
    image, label = (np.asarray(group[name][:]).T for name in ("0", "labels/structures/0"))  # type: ignore[index]
    return image, label, affine


READERS: dict[str, Read] = {
    "nifti": read_folders, "bids": read_bids, "nnunet": read_nnunet, "dicom": read_dicom,
    "webdataset": read_webdataset, "ome-zarr": read_ome_zarr,
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")
def test_an_export_gives_the_voxels_and_the_place_of_the_release(name: str, marked: Path, export: Export) -> None:
    folder, release = export(marked, name), open_release(marked)
    image, label, affine = READERS[name](folder)
    assert image.dtype == np.int16
    assert np.array_equal(image, release.image(1))
    assert np.array_equal(label, release.label(1))
    assert np.abs(affine - release.affine).max() < (1e-4 if name == "dicom" else 1e-5)
    card, record = (folder / "README.md").read_text(), json.loads((folder / "export.json").read_text())
    assert "# Card of the whole" in card
    assert "<b>" not in card.partition("# Card")[0]
    assert record["manifest_sha256"] == hashlib.sha256((marked / MANIFEST).read_bytes()).hexdigest()
    assert (record["licence"], record["synthetic"]) == ("CC BY 4.0", True)
    table = pd.read_csv(folder / "participants.tsv", sep="\t")
    assert list(table["sample_id"]) == ["syn-000000-0", "syn-000001-0", "syn-000002-0"]
    assert set(json.loads((folder / "participants.json").read_text())) == set(table.columns)


def test_marks_at_left_front_and_top_are_there_in_dicom(marked: Path, export: Export) -> None:
    import highdicom
    import SimpleITK

    series = export(marked, "dicom") / "syn0000000"
    by_pydicom = read_series(series)[::2]
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series / "image")))
    image = reader.Execute()
    values = SimpleITK.GetArrayFromImage(image)
    volume = highdicom.get_volume_from_series(read_series(series)[1])
    for value, name in enumerate(MARKS, 1):
        marked_as = int(np.rint((200 + 10 * value) / 255 * 1000))
        voxels, affine = by_pydicom
        places = [
            (affine @ (*np.argwhere(voxels == marked_as)[0], 1))[:3] * (-1, -1, 1),
            image.TransformIndexToPhysicalPoint([int(n) for n in np.argwhere(values == marked_as)[0][::-1]]),
            (volume.affine @ (*np.argwhere(volume.array == marked_as)[0], 1))[:3],
        ]
        towards = {"left": (0, 1), "anterior": (1, -1), "superior": (2, 1)}[name]  # axis of LPS, and its sign
        where = (open_release(marked).affine @ (*MARKS[name], 1))[:3] * (-1, -1, 1)
        for place in places:
            assert np.abs(np.array(place) - where).max() < 1e-4
            assert towards[1] * place[towards[0]] > 4


def test_a_segmentation_has_a_frame_for_every_slice_of_every_structure(marked: Path, export: Export) -> None:
    import pydicom

    found = pydicom.dcmread(export(marked, "dicom") / "syn0000000/segmentation.dcm")
    assert found.NumberOfFrames == SIZE[2] * 4
    assert [segment.SegmentLabel for segment in found.SegmentSequence] == [*MARKS, "ignore"]
    assert found.SyntheticData == "YES"


def test_a_slice_is_the_file_that_pydicom_writes(marked: Path, export: Export, tmp_path: Path) -> None:
    import pydicom

    path = export(marked, "dicom") / "syn0000000/image/0004.dcm"
    pydicom.dcmwrite(tmp_path / "again.dcm", pydicom.dcmread(path), enforce_file_format=True)
    assert path.read_bytes() == (tmp_path / "again.dcm").read_bytes()


def uids_of(folder: Path) -> set[str]:
    import pydicom

    found = set()
    for path in folder.rglob("*.dcm"):
        image = pydicom.dcmread(path)
        found |= {
            str(part.value)
            for part in image.iterall()
            if (part.VR == "UI" and str(part.value).startswith("2.25.")) or part.keyword == "PatientID"
        }
    return found


def test_two_exports_are_equal_and_two_releases_share_no_uid(marked: Path, export: Export, tmp_path: Path) -> None:
    one, again = export(marked, "dicom", "one"), export(marked, "dicom", "again")
    assert digest_tree(one) == digest_tree(again)
    other = export(write_release(tmp_path / "other", name="other", count=1), "dicom", "of-other")
    assert len(uids_of(one)) > 3 * SIZE[2]
    assert not uids_of(one) & uids_of(other)


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_nnunet_finds_what_its_rules_ask_for(modality: str, export: Export, tmp_path: Path) -> None:
    release = write_release(tmp_path / "release", modality)
    folder = export(release, "nnunet", selection=Selection(shares=parse_shares("1/3,1/3,1/3")))
    dataset = json.loads((folder / "dataset.json").read_text())
    images, labels = (sorted((folder / name).iterdir()) for name in ("imagesTr", "labelsTr"))
    assert re.fullmatch(r"Dataset\d{3}_\w+", folder.name)
    assert dataset["channel_names"] == {"0": modality}
    assert sorted(dataset["labels"].values()) == list(range(len(dataset["labels"])))
    assert dataset["labels"]["background"] == 0
    assert "ignore" not in dataset["labels"]
    assert dataset["numTraining"] == len(images) == len(labels) == 2
    for image, label in zip(images, labels, strict=True):
        assert image.name == label.name.replace(dataset["file_ending"], f"_0000{dataset['file_ending']}")
        _, values, _ = read_pair(image, label)
        assert set(np.unique(values)) <= set(dataset["labels"].values())
    (fold,) = json.loads((folder / "splits_final.json").read_text())
    assert {*fold["train"], *fold["val"]} == {path.name.removesuffix(".nii.gz") for path in labels}
    assert len(list((folder / "imagesTs").iterdir())) == 1
    if modality == "CT":
        assert np.array_equal(read_nifti(images[0])[0].min(), open_release(release).image(0).min())


def test_sex_and_missing_values_are_in_words_of_bids(marked: Path, export: Export) -> None:
    folder = export(marked, "bids")
    lines = (folder / "participants.tsv").read_text().splitlines()
    assert lines[1:] == [
        "sub-syn0000000\tsyn-000000-0\t33.5\tF",
        "sub-syn0000010\tsyn-000001-0\tn/a\tn/a",
        "sub-syn0000020\tsyn-000002-0\t70.0\tM",
    ]
    unknown = pd.DataFrame({"participant_id": ["sub-1"], "sex": ["2"], "age": ["90+"]})
    table, columns = in_words_of_bids(unknown, {name: {} for name in unknown.columns})
    assert list(table) == list(columns) == ["participant_id", "sex_of_release", "age_of_release"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [None, "T1w"])
def test_the_validator_of_bids_is_content(suffix: str | None, marked: Path, export: Export) -> None:
    validator = os.environ.get("MEDDIFF_BIDS_VALIDATOR") or shutil.which("bids-validator-deno")
    if not validator:
        pytest.skip("no bids-validator-deno: pip install it into an environment of its own")
    folder = export(marked, "bids", suffix=suffix)
    done = subprocess.run([validator, str(folder), "--ignoreWarnings"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_shards_are_those_of_the_index_and_hold_no_time(marked: Path, export: Export) -> None:
    shares = Selection(shares=parse_shares("1/3,2/3"), seed=4)
    folder, again = (
        export(marked, "webdataset", "one", selection=shares),
        export(marked, "webdataset", "two", selection=shares),
    )
    assert digest_tree(folder) == digest_tree(again)
    index = json.loads((folder / "index.json").read_text())
    assert {shard["url"]: shard["nsamples"] for shard in index["shardlist"]} == {
        "train-000000.tar": 1,
        "test-000000.tar": 2,
    }
    for shard in index["shardlist"]:
        content = (folder / shard["url"]).read_bytes()
        assert (shard["filesize"], shard["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        with tarfile.open(folder / shard["url"]) as tar:
            members = tar.getmembers()
        assert {(member.mtime, member.uid, member.uname) for member in members} == {(0, 0, "")}
        keys = json.loads((folder / shard["url"]).with_suffix(".json").read_text())["keys"]
        assert list(dict.fromkeys(member.name.partition(".")[0] for member in members)) == keys


@pytest.mark.parametrize(
    "ids",
    [["a-1", "a1"], ["A", "a"], ["../..", "ok"], ["", "x"], ["größe", "gre"], ["x" * 300, "y"], ["sub-01", "sub-02"]],
)
def test_labels_are_letters_and_digits_and_distinct_on_any_disk(ids: list[str]) -> None:
    labels = labels_of(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9]{1,64}", label) for label in labels)
    assert len({label.casefold() for label in labels}) == len(ids)


def test_a_split_is_stratified_and_follows_its_seed() -> None:
    people = {f"{n:03d}": {"sex": "FM"[n % 2], "age": float(n % 50)} for n in range(100)}
    shares = parse_shares("0.8, 0.1,0.1")
    sides = split_volumes(people, shares, 3)
    assert sides == split_volumes(dict(reversed(people.items())), shares, 3)
    assert sides != split_volumes(people, shares, 4)
    for side, count in {"train": 80, "validation": 10, "test": 10}.items():
        members = [person for person, where in sides.items() if where == side]
        assert len(members) == count
        assert sum(people[person]["sex"] == "F" for person in members) == count / 2
        young = sum(float(people[person]["age"]) < 25 for person in members)
        assert abs(young - count / 2) <= 2


@pytest.mark.parametrize("text", ["", "1", "0.5,0.6", "0.8,0.2,0", "a,b", "1/0,1", "0.25,0.25,0.25,0.25", "nan,1"])
def test_shares_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--split"):
        parse_shares(text)


def test_a_side_without_a_volume_is_refused(marked: Path) -> None:
    with pytest.raises(ConfigurationError, match="3 volumes leave none for test"):
        _ = Cohort(open_release(marked), Selection(shares=(Fraction(99, 100), Fraction(1, 100)))).volumes


def test_a_destination_that_is_not_free_is_refused(marked: Path, export: Export, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").write_text("mine")
    (tmp_path / ".other.partial").mkdir()
    (tmp_path / ".other.partial/mine.txt").write_text("mine")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    for name, why in {
        "full": "holds files",
        "link": "is a link",
        "file": "is a file",
        "other": "something else",
    }.items():
        with pytest.raises(ConfigurationError, match=why):
            export(marked, "nifti", name)
    inside = Path(shutil.copytree(marked, tmp_path / "release"))
    with pytest.raises(ConfigurationError, match="outside the release"):
        export(inside, "nifti", "release/new")
    assert sorted(path.name for path in tmp_path.rglob("*") if inside not in (path, *path.parents)) == before


def test_a_bad_volume_is_named_and_the_same_command_goes_on(
    marked: Path, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destinations, "SAFE_EVERY_S", -1)
    release = Path(shutil.copytree(marked, tmp_path / "release"))
    chunk = release / COHORT / "image/c.2.0.0.0"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=r"volume 2: .*image/c\.2\.0\.0\.0: altered"):
        export(release, "nifti", "cut")
    assert not (tmp_path / "cut").exists()
    first = tmp_path / ".cut.partial/images/syn0000000.nii.gz"
    written = first.stat().st_mtime_ns
    chunk.write_bytes(whole)
    cut, fresh = export(release, "nifti", "cut"), export(release, "nifti", "fresh")
    assert (cut / "images/syn0000000.nii.gz").stat().st_mtime_ns == written
    assert digest_tree(cut) == digest_tree(fresh)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_another_export_is_not_continued(marked: Path, export: Export, tmp_path: Path) -> None:
    work = export_release(open_release(marked), tmp_path / "cut", "nifti")
    [next(work) for _ in range(2)]
    work.close()
    assert (tmp_path / ".cut.partial/images/syn0000000.nii.gz").is_file()
    folder = export(marked, "nifti", "cut", selection=Selection(rows=(1,)))
    assert [path.name for path in (folder / "images").iterdir()] == ["syn0000010.nii.gz"]


def test_a_full_disk_is_a_line_that_says_what_to_do(
    marked: Path, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nibabel, "save", full)
    with pytest.raises(MeddiffError, match="No space left on device; what was written lies in"):
        export(marked, "nifti")


def test_the_command_exports_what_the_filter_keeps(marked: Path, tmp_path: Path) -> None:
    command = ["export", str(marked), str(tmp_path / "part"), "--format", "webdataset", "--where", "age > 40"]
    done = CliRunner().invoke(release_cli.app, command)
    assert done.exit_code == 0, done.output
    assert "1 of 3 volumes as WebDataset" in done.output
    record = json.loads((tmp_path / "part/export.json").read_text())
    assert (record["where"], record["volumes"]) == ("age > 40", 1)


def test_what_a_format_cannot_hold_is_refused(marked: Path, export: Export) -> None:
    with pytest.raises(ConfigurationError, match="DatasetNNN_NAME"):
        export(marked, "nnunet", "anything")
    with pytest.raises(ConfigurationError, match="must be one of T1w"):
        export(marked, "bids", suffix="t1")
    with pytest.raises(ConfigurationError, match="is for --format bids"):
        export(marked, "nifti", suffix="T1w")
