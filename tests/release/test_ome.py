"""Other tools accept the store as it lies there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from meddiff_core.release.colours import label_colours
from meddiff_core.release.ome import halve_image, halve_label


@pytest.mark.parametrize(("modality", "labelled"), [("MR", True), ("CT", False)])
def test_the_validator_accepts_it(make_content: Any, build: Any, tmp_path: Path, modality: str, labelled: bool) -> None:
    yaozarrs = pytest.importorskip("yaozarrs")
    release = build(make_content(count=2, modality=modality, labelled=labelled, size=(15, 16, 17)), tmp_path)
    yaozarrs.validate_zarr_store(str(release / "cohort.ome.zarr"))
    if labelled:
        yaozarrs.validate_zarr_store(str(release / "cohort.ome.zarr/labels/structures"))


def test_the_validator_would_refuse_a_missing_level(content: Any, build: Any, tmp_path: Path) -> None:
    yaozarrs = pytest.importorskip("yaozarrs")
    store = build(content, tmp_path) / "cohort.ome.zarr"
    (store / "pyramid/1/zarr.json").unlink()
    with pytest.raises(Exception, match="pyramid"):
        yaozarrs.validate_zarr_store(str(store))


def test_xarray_opens_volumes_and_covariates_together(content: Any, released: Path) -> None:
    xarray = pytest.importorskip("xarray")
    cohort = xarray.open_zarr(released / "cohort.ome.zarr")
    assert cohort["image"].dims == ("sample", "z", "y", "x")
    np.testing.assert_array_equal(cohort["age"], content.table["age"])
    assert cohort["z"].values[0] == -4 * (18 - 1) / 2


def test_xarray_opens_the_label_maps(content: Any, released: Path) -> None:
    xarray = pytest.importorskip("xarray")
    store = released / "cohort.ome.zarr"
    labels = xarray.open_zarr(store, group="labels/structures", consolidated=False, drop_variables="1")
    assert labels["0"].dims == ("sample", "z", "y", "x")
    np.testing.assert_array_equal(labels["0"][1].values.T, content.volumes.label(1))


def test_a_volume_takes_no_folder(make_content: Any, build: Any, tmp_path: Path) -> None:
    """Chunks named with slashes took twelve folders a volume: 120,000 for 10,000 of them."""
    one, three = (build(make_content(count=count), tmp_path / str(count)) for count in (1, 3))
    files = [len([path for path in folder.rglob("*") if path.is_file()]) for folder in (one, three)]
    assert len([*one.rglob("*/")]) == len([*three.rglob("*/")])
    assert files[1] - files[0] == 2 * 4  # image, label map, and a smaller copy of each


def test_plain_zarr_reads_volume_row_and_attributes(content: Any, released: Path) -> None:
    cohort: Any = zarr.open_group(released / "cohort.ome.zarr", mode="r")
    assert cohort["image"].shape == (3, 18, 20, 16)
    assert cohort["image"].metadata.dimension_names == ("sample", "z", "y", "x")
    assert list(cohort["participant_id"][:]) == list(content.table["sample_id"])
    assert list(cohort["sex"][:]) == list(content.table["sex"])
    assert cohort.attrs["contract"]["intensity"]["high"] == 1000
    assert {condition["name"] for condition in cohort.attrs["contract"]["conditions"]} == {"age", "sex", "ventricles"}


def test_levels_share_one_place_in_the_world(released: Path) -> None:
    """The first small voxel covers the first two large ones, so their middles differ by half a voxel."""
    attributes: Any = zarr.open_group(released / "cohort.ome.zarr", mode="r").attrs["ome"]
    full, half = (d["coordinateTransformations"] for d in attributes["multiscales"][0]["datasets"])
    assert half[0]["scale"] == [1, 8, 8, 8]
    np.testing.assert_allclose(np.subtract(half[1]["translation"], full[1]["translation"]), [0, 2, 2, 2])


def test_thick_slices_keep_their_number_in_the_smaller_copy(make_content: Any, build: Any, tmp_path: Path) -> None:
    content = make_content(count=1, size=(16, 20, 6))
    thick = content.contract.model_copy(update={"spacing_mm": (1.0, 1.0, 6.0)})
    store = build(replace(content, contract=thick), tmp_path) / "cohort.ome.zarr"
    cohort: Any = zarr.open_group(store, mode="r")
    assert cohort["pyramid/1"].shape == (1, 6, 10, 8)
    assert cohort["labels/structures/1"].shape == (1, 6, 10, 8)
    full, half = (d["coordinateTransformations"] for d in cohort.attrs["ome"]["multiscales"][0]["datasets"])
    assert (full[0]["scale"], half[0]["scale"]) == ([1, 6, 1, 1], [1, 6, 2, 2])
    np.testing.assert_allclose(np.subtract(half[1]["translation"], full[1]["translation"]), [0, 0, 0.5, 0.5])
    np.testing.assert_allclose(np.diff(cohort["z"][:]), 6)
    np.testing.assert_allclose(np.diag(cohort.attrs["affine"]), [1, 1, 6, 1])
    assert cohort.attrs["contract"]["spacing_mm"] == [1.0, 1.0, 6.0]


def test_label_values_are_whole_numbers_with_a_colour_each(released: Path) -> None:
    meta: Any = zarr.open_group(released / "cohort.ome.zarr/labels/structures", mode="r").attrs["ome"]
    colours = meta["image-label"]["colors"]
    assert [type(colour["label-value"]) for colour in colours] == [int] * 3
    assert len({tuple(colour["rgba"]) for colour in colours}) == 3


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 4)] * 3), elements=st.integers(0, 3)))
def test_a_smaller_label_map_invents_no_value(label: Any) -> None:
    half = halve_label(label)
    assert half.shape == tuple((size + 1) // 2 for size in label.shape)
    assert set(np.unique(half)) <= set(np.unique(label))


def test_a_smaller_label_map_takes_the_majority() -> None:
    assert halve_label(np.array([[[1, 2], [2, 2]], [[0, 2], [2, 1]]], np.uint8)).tolist() == [[[2]]]


@settings(deadline=None)
@given(st.integers(-1000, 1000), st.tuples(*[st.integers(1, 5)] * 3))
def test_a_smaller_image_keeps_a_constant(value: int, shape: tuple[int, int, int]) -> None:
    assert np.unique(halve_image(np.full(shape, value, np.int16))).tolist() == [value]


def test_no_two_labels_share_a_colour() -> None:
    assert len(set(label_colours(150))) == 150
