"""Conditions of a cohort: a function of the slot, like the training set, and nobody's row."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meddiff_core.contract import CategoricalCondition, Condition, ContinuousCondition, Contract
from meddiff_core.errors import ConfigurationError
from meddiff_core.generation.design import CohortDesign, read_requests
from meddiff_core.generation.region import is_extrapolated
from meddiff_core.models.conditions import encode_conditions
from meddiff_core.study import CohortConfig

NOWHERE = Path("nowhere")


def people(count: int = 200) -> list[Condition]:
    """Training rows in which women are older, and some values are not known."""
    random = np.random.default_rng(0)
    rows: list[Condition] = []
    for number in range(count):
        sex = "FM"[number % 2]
        age = float(np.clip(random.normal(60 if sex == "F" else 40, 5), 20, 80))
        rows.append({"age": None if number % 20 == 3 else age, "sex": None if number % 20 == 7 else sex})
    return rows


@pytest.fixture
def design(contract: Contract) -> Callable[..., CohortDesign]:
    """A design for the rows of `people`, with changes of the cohort's settings."""

    def make(train: list[Condition] | None = None, base: Path = NOWHERE, **changes: Any) -> CohortDesign:
        return CohortDesign(CohortConfig(**changes), contract.conditions, people() if train is None else train, base)

    return make


def sample_rows(design: CohortDesign, count: int) -> list[Condition]:
    return [design.condition(slot) for slot in range(count)]


def test_a_condition_is_a_function_of_its_slot(design: Callable[..., CohortDesign]) -> None:
    forwards = sample_rows(design(), 20)
    backwards = design()
    assert [backwards.condition(slot) for slot in reversed(range(20))] == forwards[::-1]
    assert len({str(condition) for condition in forwards}) > 15


def test_growing_a_cohort_leaves_its_first_slots_as_they_were(design: Callable[..., CohortDesign]) -> None:
    assert sample_rows(design(size=10), 10) == sample_rows(design(size=500), 500)[:10]


def test_another_seed_is_another_cohort(design: Callable[..., CohortDesign]) -> None:
    assert sample_rows(design(seed=1), 5) != sample_rows(design(seed=2), 5)


def test_a_condition_like_training_is_never_a_training_row(design: Callable[..., CohortDesign]) -> None:
    train = people()
    assert not [condition for condition in sample_rows(design(train), 1000) if condition in train]


def test_a_condition_like_training_is_complete_and_within_range(design: Callable[..., CohortDesign]) -> None:
    for condition in sample_rows(design(), 500):
        assert isinstance(condition["age"], float)
        assert 20 <= condition["age"] <= 80
        assert condition["sex"] in ("F", "M")


def test_conditions_like_training_have_its_moments_and_its_correlation(design: Callable[..., CohortDesign]) -> None:
    known = [row for row in people() if None not in row.values()]
    sampled = sample_rows(design(), 2000)

    def moments(rows: list[Condition]) -> tuple[float, float, float]:
        ages, women = np.array([row["age"] for row in rows]), np.array([row["sex"] == "F" for row in rows])
        return float(ages.mean()), float(women.mean()), float(np.corrcoef(ages, women)[0, 1])

    (age, women, correlation), (sampled_age, sampled_women, sampled_correlation) = moments(known), moments(sampled)
    assert sampled_age == pytest.approx(age, abs=1.5)
    assert sampled_women == pytest.approx(women, abs=0.05)
    assert 0.6 * correlation < sampled_correlation < correlation


@settings(deadline=None, max_examples=30)
@given(st.floats(-100, 100), st.floats(1.0, 1e6), st.integers(0, 99))
def test_rounding_never_leaves_the_range(low: float, width: float, slot: int) -> None:
    high = low + width
    if not low < high:
        return
    spec = ContinuousCondition(name="age", low=low, high=high, mean=low, std=width)
    train: list[Condition] = [{"age": low}, {"age": high}]
    for config in (CohortConfig(), CohortConfig(distributions={"age": [low, high]})):
        age = CohortDesign(config, (spec,), train, NOWHERE).condition(slot)["age"]
        assert isinstance(age, float)
        assert low <= age <= high


def test_categories_alone_may_repeat_a_row(design: Callable[..., CohortDesign]) -> None:
    """A sex alone names nobody, and every possible row exists."""
    spec = CategoricalCondition(name="sex", categories=("F", "M"))
    sampled = sample_rows(CohortDesign(CohortConfig(), (spec,), [{"sex": "F"}, {"sex": "M"}], NOWHERE), 50)
    assert {condition["sex"] for condition in sampled} == {"F", "M"}


def test_a_cohort_that_could_only_repeat_rows_is_refused() -> None:
    spec = ContinuousCondition(name="age", low=50, high=50, mean=50, std=0)
    with pytest.raises(ConfigurationError, match="exact training row; use distributions"):
        CohortDesign(CohortConfig(), (spec,), [{"age": 50.0}], NOWHERE).condition(0)


def test_a_study_without_conditions_asks_for_none() -> None:
    assert CohortDesign(CohortConfig(), (), [{}, {}], NOWHERE).condition(3) == {}


def test_distributions_are_sampled_in_their_shares(design: Callable[..., CohortDesign]) -> None:
    sampled = sample_rows(design(distributions={"age": [30, 40], "sex": {"F": 3, "M": 1}}), 2000)
    ages = np.array([condition["age"] for condition in sampled])
    assert 30 <= ages.min() < 30.1
    assert 39.9 < ages.max() <= 40
    assert ages.mean() == pytest.approx(35, abs=0.3)
    assert np.mean([condition["sex"] == "F" for condition in sampled]) == pytest.approx(0.75, abs=0.03)


def test_what_no_distribution_names_is_left_to_the_model(design: Callable[..., CohortDesign]) -> None:
    assert sample_rows(design(distributions={"sex": {"M": 1.0}}), 3) == [{"age": None, "sex": "M"}] * 3


@pytest.mark.parametrize(
    ("distributions", "message"),
    [
        ({"weight": [1, 2]}, r"cohort\.distributions\.weight: must be one of \['age', 'sex'\]"),
        ({"age": [10, 40]}, r"distributions\.age: must be \[low, high\] within \[20, 80\], is \[10, 40\]"),
        ({"age": [40, 30]}, r"distributions\.age: must be \[low, high\]"),
        ({"age": [30]}, r"distributions\.age: must be \[low, high\]"),
        ({"age": {"F": 1}}, r"distributions\.age: must be \[low, high\]"),
        ({"age": [float("nan"), 40]}, r"distributions\.age: must be \[low, high\]"),
        ({"sex": {"X": 1}}, r"distributions\.sex: must be shares of \['F', 'M'\], is \{'X': 1\}"),
        ({"sex": {}}, r"distributions\.sex: must be shares"),
        ({"sex": [0, 1]}, r"distributions\.sex: must be shares"),
        ({"sex": {"F": 0, "M": 0}}, r"distributions\.sex: shares must be numbers above 0"),
        ({"sex": {"F": -1, "M": 2}}, r"distributions\.sex: shares must be numbers above 0"),
        ({"sex": {"F": float("nan")}}, r"distributions\.sex: shares must be numbers above 0"),
        ({"sex": {"F": float("inf")}}, r"distributions\.sex: shares must be numbers above 0"),
        ({"sex": {"F": "half"}}, r"distributions\.sex: shares must be numbers above 0"),
    ],
)
def test_a_distribution_that_cannot_be_sampled_is_refused_by_its_key(
    design: Callable[..., CohortDesign], distributions: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        design(distributions=distributions)


@pytest.mark.parametrize(("name", "separator"), [("wanted.csv", ","), ("wanted.csv", ";"), ("wanted.tsv", "\t")])
def test_requests_are_read_row_by_row_and_repeat(
    tmp_path: Path, design: Callable[..., CohortDesign], name: str, separator: str
) -> None:
    rows = [["sex", "age"], ["M", "30"], ["", "44.5"], ["F", "n/a"]]
    (tmp_path / name).write_text("\n".join(separator.join(row) for row in rows))
    expected = [{"sex": "M", "age": 30}, {"sex": None, "age": 44.5}, {"sex": "F", "age": None}]
    assert sample_rows(design(base=tmp_path, requests=name), 4) == [*expected, expected[0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("age,weight\n30,70\n", r"cohort\.requests: column must be one of \['age', 'sex'\], is 'weight'"),
        ("age\n30\n90\n", r"cohort\.requests row 2: age must be in \[20, 80\], is 90"),
        ("age\ninf\n", r"cohort\.requests row 1: age must be in \[20, 80\], is inf"),
        ("age\nold\n", r"cohort\.requests row 1: age must be a number, is 'old'"),
        ("sex\nF\nX\n", r"cohort\.requests row 2: sex must be in \['F', 'M'\], is 'X'"),
        ("age,sex\n", r"cohort\.requests: must hold a row per volume, wanted\.csv is empty"),
        ("", r"cohort\.requests: wanted\.csv must be a table"),
    ],
)
def test_requests_that_cannot_be_met_are_refused_by_their_row(
    tmp_path: Path, contract: Contract, content: str, message: str
) -> None:
    (tmp_path / "wanted.csv").write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        read_requests(tmp_path / "wanted.csv", contract.conditions)


def test_requests_outside_the_training_range_name_the_way_to_allow_them(tmp_path: Path, contract: Contract) -> None:
    (tmp_path / "wanted.csv").write_text("age\n30\n90\n")
    with pytest.raises(ConfigurationError, match=r"row 2: age must be in \[20, 80\], is 90; `cohort.extrapol"):
        read_requests(tmp_path / "wanted.csv", contract.conditions)


def test_what_is_outside_the_training_range_may_be_asked_for(
    tmp_path: Path, contract: Contract, design: Callable[..., CohortDesign]
) -> None:
    (tmp_path / "wanted.csv").write_text("age\n30\n90\n")
    rows = sample_rows(design(base=tmp_path, requests="wanted.csv", extrapolation="allow"), 2)
    assert rows == [{"age": 30}, {"age": 90}]
    assert [is_extrapolated(row, contract.conditions) for row in rows] == [False, True]
    assert encode_conditions(rows, contract.conditions)[:, 0].tolist() == [-2, 4]
    sampled = sample_rows(design(distributions={"age": [85, 95]}, extrapolation="allow"), 20)
    assert all(85 <= row["age"] <= 95 for row in sampled)  # type: ignore[operator]
    (tmp_path / "wanted.csv").write_text("age\ninf\n")
    with pytest.raises(ConfigurationError, match=r"row 1: age must be in \[20, 80\], is inf"):
        read_requests(tmp_path / "wanted.csv", contract.conditions, extrapolate=True)


def test_requests_must_exist(tmp_path: Path, contract: Contract) -> None:
    with pytest.raises(ConfigurationError, match=r"cohort\.requests: must exist"):
        read_requests(tmp_path / "wanted.csv", contract.conditions)
