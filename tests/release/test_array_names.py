"""Covariates are called what people call them, and each has an array of its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from meddiff_core.contract import ContinuousCondition
from meddiff_core.release.array_names import LONGEST, RESERVED, array_names
from meddiff_core.release.verify import Depth, verify_release

NAMES = [
    "年齢",
    "性別",
    "a b",
    "a_b",
    "image",
    "labels",
    "pyramid",
    "z",
    "Größe",
    "Grosse",
    "Age",
    "AGE",
    "../sex",
    "c",
]


@pytest.mark.parametrize(
    ("column", "name"),
    [("age", "age"), ("image", "image_2"), ("a/b", "a_b"), ("../sex", "sex"), ("z", "z_2"), ("Größe", "Gro_e")],
)
def test_a_column_never_leaves_the_store_nor_hides_the_image(column: str, name: str) -> None:
    assert array_names([column]) == {column: name}


def test_a_column_that_can_keep_its_name_keeps_it() -> None:
    assert array_names(["a b", "a_b", "a?b"]) == {"a b": "a_b_2", "a_b": "a_b", "a?b": "a_b_3"}


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=80), unique=True, max_size=12))
def test_no_two_columns_share_an_array_on_any_disk(columns: list[str]) -> None:
    names = array_names(columns)
    assert list(names) == columns
    folded = {name.casefold() for name in names.values()}
    assert len(folded) == len(columns)
    assert not folded & RESERVED
    assert all(name.isascii() and "/" not in name and name[0] not in "_." for name in names.values())
    assert all(len(name) <= LONGEST + 4 for name in names.values())


def test_a_release_keeps_every_name_that_people_gave(content: Any, build: Any, tmp_path: Path) -> None:
    values = {name: np.arange(3) + 10.0 * place for place, name in enumerate(NAMES)}
    specs = [ContinuousCondition(name=name, low=0, high=200, mean=60, std=30) for name in NAMES]
    contract = content.contract.model_copy(update={"conditions": (*content.contract.conditions, *specs)})
    assert contract.name_conflicts() == []
    release = build(replace(content, contract=contract, table=content.table.assign(**values)), tmp_path)
    assert verify_release(release, Depth(1)) == []
    assert set(NAMES) <= set(pd.read_parquet(release / "participants.parquet").columns)
    store: Any = zarr.open_group(release / "cohort.ome.zarr", mode="r")
    arrays = {array.attrs["column"]: array for _, array in store.arrays() if "column" in array.attrs}
    for name, wanted in values.items():
        np.testing.assert_array_equal(arrays[name][:], wanted)


def test_a_covariate_that_is_known_for_no_volume_is_released(content: Any, build: Any, tmp_path: Path) -> None:
    table = content.table.assign(sex=None, age=np.nan, extrapolated=[True, False, True])
    assert verify_release(build(replace(content, table=table), tmp_path), Depth(1)) == []


@pytest.mark.parametrize(
    ("name", "group", "why"),
    [
        ("seed", None, "a column of its own"),
        ("cortex_mm3", None, "the volume of cortex"),
        ("cortex_mm3", "ventricles", "the volume of cortex"),
        ("measured_ventricles", None, "what ventricles measures"),
    ],
)
def test_a_condition_that_hides_a_column_is_named_with_what_to_do(
    content: Any, name: str, group: str | None, why: str
) -> None:
    spec = ContinuousCondition(name=name, low=0, high=1, mean=0, std=1, group=group)
    contract = content.contract.model_copy(update={"conditions": (*content.contract.conditions, spec)})
    (conflict,) = contract.name_conflicts()
    assert conflict == f"{name}: must have another name, a release calls {why} so; rename the column of the table"


def test_a_condition_may_be_called_what_it_measures(content: Any) -> None:
    spec = ContinuousCondition(name="cortex_mm3", low=0, high=1, mean=0, std=1, group="cortex")
    assert content.contract.model_copy(update={"conditions": (spec,)}).name_conflicts() == []


def test_two_conditions_of_one_name_are_refused(content: Any) -> None:
    age = content.contract.conditions[0]
    doubled = content.contract.model_copy(update={"conditions": (age, age)})
    assert doubled.name_conflicts() == ["age: must be the name of one condition"]


def test_a_plan_with_such_a_name_is_refused_before_training(plan: Any) -> None:
    from meddiff_core.errors import ConfigurationError
    from meddiff_core.models.plan import check_plan

    age = plan.contract.conditions[0].model_copy(update={"name": "seed"})
    contract = plan.contract.model_copy(update={"conditions": (age,)})
    with pytest.raises(ConfigurationError, match=r"plan\.json contract\.conditions: seed: must have another name"):
        check_plan(plan.model_copy(update={"contract": contract}))
