"""Building, reading and restarting a data set."""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from meddiff_core.artefacts import digest_file, digest_tree
from meddiff_core.contract import CategoricalCondition, ContinuousCondition, Contract
from meddiff_core.data import dataset as module
from meddiff_core.data.conform import conform_case
from meddiff_core.data.dataset import Dataset, build_dataset, sides_of_dataset, write_refusals
from meddiff_core.data.fingerprint import Fingerprint, take_fingerprint
from meddiff_core.data.ingest import Inventory, discover
from meddiff_core.data.split.sides import Split, assign_sides, stratifying_covariates
from meddiff_core.data.store import chunk_path, create_store, create_volumes, digest_volume, open_array, read_volume
from meddiff_core.errors import IntegrityError
from meddiff_core.study import Study
from meddiff_core.types import Refusal, serial_map

Made = Callable[..., Any]


class Stand:
    """A cohort, its fingerprint and contract, ready to be built."""

    def __init__(self, folder: Path, study: Study, contract: Contract, finish: Made) -> None:
        self.folder, self.study, self.contract, self._finish = folder, study, contract, finish
        self.inventory: Inventory = discover(study.data, folder)
        self.fingerprint: Fingerprint = finish(take_fingerprint(self.inventory, study.data, serial_map))
        self.split: Split = assign_sides(None, stratifying_covariates(self.fingerprint), study.split, study.seed)

    def build(self, mapper: Any = serial_map, into: str = "out") -> list[Refusal]:
        folder = self.folder / into
        made = self.inventory.cases, self.fingerprint, self.contract, self.study.data, self.split
        return list(self._finish(build_dataset(folder, *made, mapper)))

    def open(self, into: str = "out") -> Dataset:
        return Dataset.open(self.folder / into)


@pytest.fixture
def stand(cohort: Made, study: Made, contract: Made, finish: Made) -> Callable[..., Stand]:
    """(count, data settings, **contract changes) -> Stand."""

    def _stand(count: int = 6, data: dict[str, Any] | None = None, **changes: Any) -> Stand:
        return Stand(cohort(count), study(data), contract(**changes), finish)

    return _stand


def test_every_case_is_found_again_in_its_row(stand: Made) -> None:
    made = stand()
    assert made.build() == []
    data = made.open()
    assert list(data.table["case"]) == [case.case for case in made.inventory.cases]
    assert data.contract == made.contract
    volumes = data.volumes(None)
    for row, (case, found) in enumerate(zip(made.inventory.cases, made.fingerprint.cases, strict=True)):
        conformed = conform_case(case, found, made.contract, made.study.data)
        np.testing.assert_array_equal(volumes.image(row), conformed.image)
        np.testing.assert_array_equal(volumes.label(row), conformed.label)
        assert data.table["voxels_sha256"][row] == digest_volume(conformed.image)
        assert data.table["label_voxels_sha256"][row] == digest_volume(conformed.label)
        assert data.table["image_sha256"][row] == digest_file(case.image)
        assert (made.folder / "out" / data.table["source"][row]).resolve() == case.image.resolve()


def test_sides_share_no_subject_and_leave_none_out(stand: Made) -> None:
    made = stand(12)
    made.build()
    data = made.open()
    sides = [data.rows(side) for side in ("train", "validation", "holdout")]
    assert sorted(row for rows in sides for row in rows) == data.rows(None) == list(range(12))
    assert [len(data.volumes(side)) for side in ("train", "validation", "holdout")] == [len(rows) for rows in sides]
    row = sides[0][-1]
    np.testing.assert_array_equal(data.volumes("train").image(len(sides[0]) - 1), data.volumes(None).image(row))


def test_every_subject_is_on_the_side_that_the_split_says(stand: Made) -> None:
    made = stand(12)
    made.build()
    assert sides_of_dataset(made.folder / "out") == made.split.sides
    assert made.open().sizes() == {"train": 8, "validation": 2, "holdout": 2}
    assert sides_of_dataset(made.folder) == {}


def test_another_split_is_another_data_set_though_all_voxels_are_the_same(stand: Made) -> None:
    made = stand(12)
    made.build(into="one")
    sides = made.split.sides
    (one, side), (other, _) = next(iter(sides.items())), next(item for item in sides.items() if item[1] != sides["s00"])
    made.split = made.split.model_copy(update={"sides": sides | {one: sides[other], other: side}})
    made.build(into="two")
    assert made.open("one").sizes() == made.open("two").sizes()
    assert made.open("one").digest() != made.open("two").digest()


def test_conditions_are_those_of_the_contract_in_the_order_of_the_volumes(stand: Made) -> None:
    age = ContinuousCondition(name="age", low=0, high=1, mean=0, std=1)
    sex = CategoricalCondition(name="sex", categories=("M",))
    made = stand(3, conditions=(sex, age))
    (made.folder / "participants.tsv").write_text("participant_id\tage\tsex\ns00\t30\tM\ns01\t\tF\ns02\t32\tn/a\n")
    made = Stand(made.folder, made.study, made.contract, made._finish)
    made.build()
    data = made.open()
    assert data.conditions(None) == [
        {"sex": "M", "age": 30.0},
        {"sex": None, "age": None},
        {"sex": None, "age": 32.0},
    ]
    assert [len(data.conditions(side)) for side in ("train", "holdout")] == [
        len(data.rows(s)) for s in ("train", "holdout")
    ]


def test_without_labels_there_is_no_label_array(stand: Made) -> None:
    made = stand(2, {"labels": None, "mask": "none", "label_groups": {}}, labels={}, mask="none")
    made.build()
    assert made.open().volumes(None).label(0) is None
    assert not (made.folder / "out" / "dataset.zarr" / "label").exists()


def test_two_builds_are_the_same_bytes_in_whatever_order_they_are_made(stand: Made) -> None:
    def backwards(function: Any, items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        for position in reversed(range(len(items))):
            yield position, function(items[position])

    made = stand()
    made.build(into="one")
    made.build(backwards, into="two")
    assert digest_tree(made.folder / "one") == digest_tree(made.folder / "two")
    assert made.open("one").digest() == made.open("two").digest()


def test_a_missing_chunk_raises(stand: Made) -> None:
    made = stand(2)
    made.build()
    chunk_path(open_array(made.folder / "out" / "dataset.zarr", "image"), 1).unlink()
    volumes = made.open().volumes(None)
    volumes.image(0)
    with pytest.raises(IntegrityError, match="chunk of volume 1 is missing"):
        volumes.image(1)


def test_a_table_of_another_build_is_distinguished(stand: Made, contract: Made) -> None:
    made = stand(3)
    made.build(into="out")
    made.contract = contract(spacing_mm=3.0)
    made.build(into="other")
    (made.folder / "other" / "cases.parquet").replace(made.folder / "out" / "cases.parquet")
    with pytest.raises(IntegrityError, match="must be of one build"):
        made.open()


def killed(function: Any, items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """A mapper that dies after the first result."""
    yield 0, function(items[0])
    raise KeyboardInterrupt


def test_a_restart_conforms_only_what_is_missing(stand: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    made = stand(9)
    with pytest.raises(KeyboardInterrupt):
        made.build(killed)
    assert not (made.folder / "out" / "dataset.zarr").exists()
    seen = []

    def counting(case: Any, *rest: Any) -> Any:
        seen.append(case.case)
        return conform_case(case, *rest)

    monkeypatch.setattr(module, "conform_case", counting)
    made.build()
    made.build(into="fresh")
    assert seen[:5] == [f"s{number:02d}_T1" for number in range(4, 9)]
    assert digest_tree(made.folder / "out") == digest_tree(made.folder / "fresh")


def test_a_restart_with_another_contract_keeps_nothing(stand: Made, contract: Made) -> None:
    made = stand(5)
    with pytest.raises(KeyboardInterrupt):
        made.build(killed)
    made.contract = contract(spacing_mm=3.0)
    made.build()
    made.build(into="fresh")
    assert digest_tree(made.folder / "out") == digest_tree(made.folder / "fresh")


def test_a_chunk_that_a_kill_left_broken_is_made_again(stand: Made) -> None:
    made = stand(5)
    with pytest.raises(KeyboardInterrupt):
        made.build(killed)
    chunk = chunk_path(open_array(made.folder / "out" / ".dataset.zarr.partial", "image"), 1)
    chunk.write_bytes(chunk.read_bytes()[:-9])
    chunk.with_suffix(".0123.partial").write_bytes(b"half")
    made.build()
    made.build(into="fresh")
    assert digest_tree(made.folder / "out") == digest_tree(made.folder / "fresh")


def test_a_batch_may_run_twice(stand: Made) -> None:
    def twice(function: Any, items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        for position, item in enumerate(items):
            function(item)
            yield position, function(item)

    made = stand()
    made.build(twice)
    made.build(into="fresh")
    assert digest_tree(made.folder / "out") == digest_tree(made.folder / "fresh")


def test_a_folder_without_a_data_set_says_so(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"must hold dataset\.zarr and cases\.parquet"):
        Dataset.open(tmp_path)


def test_nothing_is_left_beside_the_data_set(stand: Made) -> None:
    made = stand(2)
    made.build()
    assert sorted(path.name for path in (made.folder / "out").iterdir()) == ["cases.parquet", "dataset.zarr"]


def test_refusals_are_a_table_that_runs_no_formula(tmp_path: Path) -> None:
    write_refusals(tmp_path / "refused.csv", [Refusal("=1+1", 'has "no", label\nmap'), Refusal("ä b", "-x")])
    with (tmp_path / "refused.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["case", "reason"], ["'=1+1", 'has "no", label\nmap'], ["ä b", "'-x"]]


VOLUMES = st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=5)


@settings(max_examples=15, deadline=None)
@given(VOLUMES, st.sampled_from(["uint8", "uint16"]), st.randoms(use_true_random=False))
def test_what_is_stored_is_read_back_in_whatever_order_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, seeds: list[int], dtype: str, random: Any
) -> None:
    volumes = [np.random.default_rng(seed).integers(0, 256, (3, 4, 5)).astype(dtype) for seed in seeds]
    path = tmp_path_factory.mktemp("store") / "s.zarr"
    create_volumes(create_store(path), "image", len(volumes), (3, 4, 5), dtype)
    for index in random.sample(range(len(volumes)), len(volumes)):
        open_array(path, "image", mode="r+")[index] = volumes[index]
    for index, volume in enumerate(volumes):
        found = read_volume(open_array(path, "image"), index)
        assert found.dtype == volume.dtype
        np.testing.assert_array_equal(found, volume)


def test_a_flipped_bit_raises(tmp_path: Path) -> None:
    array = create_volumes(create_store(tmp_path / "s.zarr"), "image", 1, (8, 8, 8), "uint8")
    array[0] = np.random.default_rng(0).integers(0, 9, (8, 8, 8))
    chunk = chunk_path(array, 0)
    whole = bytearray(chunk.read_bytes())
    for place in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[place] ^= 4
        chunk.write_bytes(broken)
        with pytest.raises(IntegrityError):
            read_volume(zarr.open_group(tmp_path / "s.zarr", mode="r")["image"], 0)  # type: ignore[arg-type]
