"""The intensity mapping loses no more than its rounding, and contracts say what differs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meddiff_core.contract import CategoricalCondition, Contract, IntensityMapping, spacing_text


def contract(**changes: object) -> Contract:
    usual: dict[str, object] = {
        "spacing_mm": 2.0,
        "size": (16, 16, 16),
        "intensity": IntensityMapping(modality="CT", low=-1000, high=1000),
        "mask": "none",
        "labels": {"left": (1,), "right": (2, 3)},
        "conditions": (CategoricalCondition(name="sex", categories=("F", "M")),),
    }
    return Contract.model_validate(usual | changes)


@settings(deadline=None)
@given(
    st.floats(-2000, 1000),
    st.floats(1, 5000),
    st.sampled_from(["uint8", "uint16"]),
    st.lists(st.floats(0, 1), min_size=1),
)
def test_storing_loses_at_most_half_a_level(low: float, span: float, storage: str, shares: list[float]) -> None:
    mapping = IntensityMapping.model_validate({"modality": "CT", "low": low, "high": low + span, "storage": storage})
    physical = (low + span * np.array(shares)).astype(np.float32)
    back = mapping.physical(mapping.store(mapping.normalise(physical, mapping.low, mapping.high)))
    assert np.abs(back - physical).max() <= 0.5 * span / mapping.levels + 1e-6 * (abs(low) + span)


@pytest.mark.parametrize("storage", ["uint8", "uint16"])
def test_every_stored_value_comes_back(storage: str) -> None:
    mapping = IntensityMapping.model_validate({"modality": "MR", "low": 0, "high": 1, "storage": storage})
    values = np.arange(mapping.levels + 1).astype(storage)
    np.testing.assert_array_equal(mapping.store(mapping.unit(values)), values)


def test_what_lies_outside_the_window_is_clipped() -> None:
    mapping = IntensityMapping(modality="CT", low=-100, high=300)
    normalised = mapping.normalise(np.array([-4000, -100, 100, 300, 4000], np.float32), -100.0, 300.0)
    np.testing.assert_allclose(normalised, [0, 0, 0.5, 1, 1])


def test_channels_are_the_image_and_one_per_stored_label() -> None:
    assert contract().channels == 1 + 3
    assert contract(labels={}).channels == 1


def test_equal_contracts_have_no_differences() -> None:
    assert contract().differences(contract()) == []


def test_one_number_is_the_spacing_along_each_axis() -> None:
    assert contract(spacing_mm=2).spacing_mm == (2.0, 2.0, 2.0)
    old = contract().model_dump(mode="json") | {"spacing_mm": 2.0}
    assert Contract.model_validate(old) == contract()
    assert contract(spacing_mm=[1, 1, 6]).voxel_mm3 == 6


def test_spacing_is_written_once_where_it_is_the_same() -> None:
    assert [spacing_text(given) for given in [(1.2,) * 3, (0.43, 0.43, 6.5)]] == ["1.2 mm", "0.43 × 0.43 × 6.5 mm"]


def test_a_difference_names_the_field_and_both_values() -> None:
    assert contract().differences(contract(spacing_mm=1.5)) == ["spacing_mm: (2.0, 2.0, 2.0), not (1.5, 1.5, 1.5)"]


def test_the_order_of_label_groups_is_a_difference() -> None:
    """It decides what each stored value means."""
    other = contract(labels={"right": (2, 3), "left": (1,)})
    assert len(contract().differences(other)) == 1
