"""Whoever changes a release and hashes it again is found by what no longer fits, or by the signature."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr

from meddiff_core.artefacts import digest_file
from meddiff_core.data.store import chunk_path
from meddiff_core.errors import ConfigurationError
from meddiff_core.release.checks.volume_checks import choose_volumes, share_of
from meddiff_core.release.manifest import read_manifest
from meddiff_core.release.ome import halve_image
from meddiff_core.release.signing import Signer, generate_keys, read_public_key, read_signer, sign_manifest
from meddiff_core.release.verify import Depth, check_release, verify_release
from meddiff_core.types import Progress

DEEP = Depth(volumes=1)
STORE = "cohort.ome.zarr"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return generate_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, finish: Any, released: Path, keys: tuple[Path, Path]) -> Path:
    """The release of three heads, signed."""
    folder = Path(shutil.copytree(released, tmp_path_factory.mktemp("signed") / "heads"))
    sign_manifest(folder, read_manifest(folder), read_signer(keys[0]))
    return folder


@pytest.fixture
def copy(signed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed, tmp_path / "copy"))


def cohort(folder: Path) -> Any:
    return zarr.open_group(folder / STORE, mode="r+", use_consolidated=False)


def edit_json(path: Path, edit: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def write_parquet(folder: Path, table: pd.DataFrame) -> None:
    """With its digest in the catalogue's metadata."""
    table.to_parquet(folder / "participants.parquet", index=False)

    def note(content: Any) -> None:
        content["distribution"][0]["sha256"] = digest_file(folder / "participants.parquet")

    edit_json(folder / "croissant.json", note)


def swap_volumes(folder: Path) -> None:
    image = cohort(folder)["image"]
    image[0], image[1] = image[1], image[0]


def empty_a_chunk(folder: Path) -> None:
    chunk_path(cohort(folder)["image"], 1).write_bytes(b"")


def exchange_rows(folder: Path) -> None:
    """In every copy of the table, all but the ids."""
    table = pd.read_parquet(folder / "participants.parquet")
    values = [name for name in table.columns if name != "participant_id"]
    table[values] = table[values].iloc[[1, 0, 2]].reset_index(drop=True)
    write_parquet(folder, table)
    table.to_csv(folder / "participants.tsv", sep="\t", index=False)
    for name in values:
        array = cohort(folder)[name]
        array[:] = np.asarray(array[:])[[1, 0, 2]]


def put_label_out_of_range(folder: Path) -> None:
    cohort(folder)["labels/structures/0"][0, 0, 0, 0] = 200


def flip_affine(folder: Path) -> None:
    def flip(content: Any) -> None:
        content["attributes"]["affine"][0] = [-number for number in content["attributes"]["affine"][0]]

    edit_json(folder / STORE / "zarr.json", flip)


def scale_wrongly(folder: Path) -> None:
    def scale(content: Any) -> None:
        datasets = content["attributes"]["ome"]["multiscales"][0]["datasets"]
        datasets[0]["coordinateTransformations"][0]["scale"] = [1.0, 1.0, 4.0, 4.0]

    edit_json(folder / STORE / "zarr.json", scale)


def change_parquet(folder: Path) -> None:
    table = pd.read_parquet(folder / "participants.parquet")
    table.loc[2, "age"] += 1
    write_parquet(folder, table)


def change_a_volume(folder: Path) -> None:
    """With its smaller copy, so that nothing in the release contradicts it."""
    store = cohort(folder)
    image = np.asarray(store["image"][0])
    image[9, 10, 8] = 1000 - image[9, 10, 8]
    store["image"][0], store["pyramid/1"][0] = image, halve_image(image)


ATTACKS = [
    (swap_volumes, "volume 0 must be the smaller copy of image"),
    (empty_a_chunk, "must be a zstd frame, is none"),
    (exchange_rows, "cortex_mm3: must be"),
    (put_label_out_of_range, "volume 0 must have values 0 to 3, has 200"),
    (flip_affine, "the affine must be that of the contract"),
    (scale_wrongly, "the scale is"),
    (change_parquet, "participants.tsv: age must be that of participants.parquet, in row 2 it is not"),
    (change_a_volume, None),
]


@pytest.mark.parametrize(("attack", "fault"), ATTACKS, ids=[attack.__name__ for attack, _ in ATTACKS])
def test_an_attack_with_all_hashes_redone_is_found(
    copy: Path, keys: tuple[Path, Path], reseal: Any, attack: Any, fault: str | None
) -> None:
    attack(copy)
    (copy / "manifest.dsse.json").unlink()
    reseal(copy)
    found = verify_release(copy, DEEP)
    assert any(fault in line for line in found) if fault else found == []
    unsigned = verify_release(copy, Depth(1, key=read_public_key(keys[1])))
    assert unsigned[0] == "manifest.dsse.json: must be there for --key, the release is not signed"


@pytest.mark.parametrize("attack", [attack for attack, _ in ATTACKS])
def test_no_attack_keeps_the_signature(copy: Path, keys: tuple[Path, Path], reseal: Any, attack: Any) -> None:
    attack(copy)
    reseal(copy)
    for key in (None, read_public_key(keys[1])):
        fault = verify_release(copy, Depth(key=key))[0]
        assert fault == "manifest.dsse.json: must be the signature of this manifest, is that of another"


def test_a_signed_release_is_good(signed: Path, keys: tuple[Path, Path]) -> None:
    assert verify_release(signed, Depth(1, key=read_public_key(keys[1]))) == []


def test_a_release_without_label_maps_is_checked_as_deep(make_content: Any, build: Any, tmp_path: Path) -> None:
    release = build(make_content(count=2, modality="CT", labelled=False), tmp_path)
    assert verify_release(release, DEEP) == []
    cohort(release)["image"][1] = 0
    assert len(verify_release(release, DEEP)) == 1  # the hash


def edit_array(folder: Path, name: str, **changes: Any) -> None:
    """In its own metadata and in the consolidated copy."""
    edit_json(folder / STORE / name / "zarr.json", lambda content: content.update(changes))
    edit_json(
        folder / STORE / "zarr.json",
        lambda content: content["consolidated_metadata"]["metadata"][name].update(changes),
    )


def shift_cells(folder: Path) -> None:
    """pandas takes the cell too many for an index; others read each value under the name of the one before it."""
    head, *rows = (folder / "participants.tsv").read_text().splitlines()
    (folder / "participants.tsv").write_text("\n".join([head, *(f"x\t{row}" for row in rows), ""]))


def move_all_levels(folder: Path) -> None:
    moved = [{"type": "scale", "scale": [1.0, 2.0, 2.0, 2.0]}]
    edit_json(
        folder / STORE / "zarr.json",
        lambda content: content["attributes"]["ome"]["multiscales"][0].update(coordinateTransformations=moved),
    )


def hide_a_column(folder: Path) -> None:
    """Another array is marked as the column that a reader by name finds in `age`."""
    copied, plain = folder / STORE / "age_2", folder / STORE / "age"
    shutil.copytree(plain, copied)
    content = json.loads((copied / "zarr.json").read_text())
    edit_json(
        folder / STORE / "zarr.json", lambda root: root["consolidated_metadata"]["metadata"].update(age_2=content)
    )
    edit_array(folder, "age", attributes={})


def name_a_value_twice(folder: Path) -> None:
    name = "labels/structures"

    def add(content: Any) -> None:
        content["attributes"]["ome"]["image-label"]["properties"].insert(0, {"label-value": 3, "name": "cortex"})

    edit_json(folder / STORE / name / "zarr.json", add)
    edit_json(folder / STORE / "zarr.json", lambda content: add(content["consolidated_metadata"]["metadata"][name]))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda folder: edit_array(folder, "image", attributes={"scale_factor": 2.0}), "must have no attributes"),
        (lambda folder: edit_array(folder, "image", attributes={"_FillValue": 500}), "must have no attributes"),
        (lambda folder: edit_array(folder, "age", dimension_names=["z"]), "must lie along sample"),
        (lambda folder: edit_array(folder, "x", attributes={"add_offset": 9}), "must lie along x"),
        (move_all_levels, "in multiscales alone, has coordinateTransformations"),
        (hide_a_column, "age_2: must be a level, a column or an axis, is none"),
        (name_a_value_twice, "the values must mean what they mean in the contract"),
        (shift_cells, "must have 7 cells in each line, has others in line 2"),
    ],
)
def test_what_another_reader_would_take_otherwise_is_found(
    copy: Path, reseal: Any, change: Callable[[Path], None], fault: str
) -> None:
    """xarray scales by attributes, viewers by multiscales: all voxels and hashes are right, and they show others."""
    change(copy)
    (copy / "manifest.dsse.json").unlink()
    reseal(copy)
    assert any(fault in line for line in verify_release(copy))


def turn_axes(array: Any) -> None:
    array["shape"] = [3, 20, 18, 16]
    array["chunk_grid"]["configuration"]["chunk_shape"] = [1, 20, 18, 16]


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (lambda array: array["codecs"][0]["configuration"].update(endian="big"), "stored little-endian"),
        (lambda array: array["codecs"][1]["configuration"].update(checksum=False), "zstd with checksum"),
        (lambda array: array.update(shape=[3, 20, 18, 16]), "must have chunks within its shape"),
        (turn_axes, "must hold 3 volumes of (18, 20, 16)"),
        (lambda array: array.update(fill_value=7), "must have the fill value 0, has 7"),
        (lambda array: array.update(data_type="uint16"), "must be int16 along"),
        (lambda array: array.update(dimension_names=["sample", "x", "y", "z"]), "must be int16 along"),
        (lambda array: array.update(shape=[2, 18, 20, 16]), "must be a chunk of its array, is none"),
        (lambda array: array.update(shape=[4, 18, 20, 16]), "the chunk of volume 3 is missing"),
    ],
)
def test_an_array_that_is_not_what_the_contract_says_is_found(copy: Path, reseal: Any, edit: Any, fault: str) -> None:
    """In the consolidated copy alone, and in both."""
    root, own = copy / STORE / "zarr.json", copy / STORE / "image" / "zarr.json"
    edit_json(root, lambda content: edit(content["consolidated_metadata"]["metadata"]["image"]))
    (copy / "manifest.dsse.json").unlink()
    reseal(copy)
    (found,) = verify_release(copy)
    assert found.startswith(f"{STORE}/image: the consolidated metadata must be its own, differs in ")
    edit_json(own, edit)
    reseal(copy)
    assert any(fault in line for line in verify_release(copy))


def test_an_array_that_only_the_consolidated_metadata_know_is_found(copy: Path, reseal: Any) -> None:
    def rename(content: Any) -> None:
        arrays = content["consolidated_metadata"]["metadata"]
        arrays["agee"] = arrays.pop("age")

    edit_json(copy / STORE / "zarr.json", rename)
    (copy / "manifest.dsse.json").unlink()
    reseal(copy)
    start = f"{STORE}/zarr.json: the consolidated metadata"
    assert verify_release(copy) == [f"{start} lacks age", f"{start} invents agee"]


@pytest.mark.parametrize(("name", "value"), [("age", 1.5), ("sex", "X"), ("seed", 5), ("x", 0.25)])
def test_an_array_unlike_its_column_or_grid_is_found(copy: Path, reseal: Any, name: str, value: Any) -> None:
    array = cohort(copy)[name]
    values = np.asarray(array[:]).copy()
    values[1] = value
    array[:] = values
    (copy / "manifest.dsse.json").unlink()
    reseal(copy)
    (fault,) = verify_release(copy)
    assert fault.startswith(f"{STORE}/{name}: must hold ")


def test_label_values_with_other_names_are_found(copy: Path, reseal: Any) -> None:
    def rename(properties: Any) -> None:
        properties[0]["name"], properties[1]["name"] = properties[1]["name"], properties[0]["name"]

    edit_json(
        copy / STORE / "labels/structures/zarr.json",
        lambda content: rename(content["attributes"]["ome"]["image-label"]["properties"]),
    )
    edit_json(
        copy / STORE / "zarr.json",
        lambda content: rename(
            content["consolidated_metadata"]["metadata"]["labels/structures"]["attributes"]["ome"]["image-label"][
                "properties"
            ]
        ),
    )
    (copy / "manifest.dsse.json").unlink()
    reseal(copy)
    assert verify_release(copy) == [f"{STORE}/labels: the values must mean what they mean in the contract, do not"]


def test_a_digest_of_voxels_in_the_table_is_checked(content: Any, build: Any, tmp_path: Path, reseal: Any) -> None:
    from dataclasses import replace

    from meddiff_core.data.store import digest_volume
    from meddiff_core.release.ome import released_image

    images = [released_image(content.volumes.image(index), content.contract) for index in range(3)]
    table = content.table.assign(image_sha256=[digest_volume(image) for image in images])
    release = build(replace(content, table=table), tmp_path)
    assert verify_release(release, DEEP) == []
    change_a_volume(release)
    reseal(release)
    assert verify_release(release, DEEP) == [
        "image_sha256: the image of volume 0 must have the digest in the table, has another"
    ]


def test_a_share_of_the_volumes_is_the_same_for_the_same_seed() -> None:
    assert choose_volumes(1000, 0.05, 3) == choose_volumes(1000, 0.05, 3) != choose_volumes(1000, 0.05, 4)
    assert len(set(choose_volumes(1000, 0.05, 3))) == 50
    assert len(choose_volumes(3, 0.05, 0)) == 1
    assert choose_volumes(3, 1, 9) == [0, 1, 2]


def test_only_the_share_is_decoded(copy: Path, reseal: Any) -> None:
    (copy / "manifest.dsse.json").unlink()
    empty_a_chunk(copy)
    reseal(copy)
    found = {seed: verify_release(copy, Depth(0.33, seed)) for seed in range(8)}
    assert {bool(faults) for faults in found.values()} == {True, False}
    assert all(bool(faults) == (choose_volumes(3, 0.33, seed) == [1]) for seed, faults in found.items())


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.5", 0.5), ("100%", 1)])
def test_a_share_is_given_in_percent_or_as_a_number(text: str, share: float) -> None:
    assert share_of(text) == share


@pytest.mark.parametrize("text", ["0", "101%", "-5%", "nan", "some", ""])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--sample: must be a share such as 5%"):
        share_of(text)


def test_progress_is_reported_for_files_and_volumes(signed: Path) -> None:
    steps = [step for step in check_release(signed, DEEP) if isinstance(step, Progress)]
    volumes = [(step.done, step.total) for step in steps if step.label == "checking volumes"]
    assert volumes == [(1, 3), (2, 3), (3, 3)]
    assert [step.done for step in steps if step.label == "checking files"][-1] == len(read_manifest(signed).files)


def test_a_private_key_shows_nothing(keys: tuple[Path, Path]) -> None:
    import pickle

    signer = read_signer(keys[0])
    assert repr(signer) == "Signer()"
    with pytest.raises(TypeError, match="does not travel"):
        pickle.dumps(signer)
    assert isinstance(signer, Signer)
