"""Small values keep their meaning between processes and between frames of reference."""

import pickle

import numpy as np
import pytest

from meddiff_core.errors import CaseRefused, ConfigurationError, DataRefused, GatesFailed, IntegrityError, MeddiffError
from meddiff_core.types import Mapper, Volume, serial_map


def test_spacing_is_read_off_the_columns_however_they_are_turned() -> None:
    turn = np.array([[0.0, -1, 0], [0.8, 0, -0.6], [0.6, 0, 0.8]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1.0, 2.0, 3.5])
    assert Volume(np.zeros((2, 2, 2), np.float32), affine).spacing_mm == pytest.approx((1, 2, 3.5))


def test_the_simplest_mapper_goes_in_order_and_raises_what_the_function_raises() -> None:
    assert isinstance(serial_map, Mapper)
    assert list(serial_map(len, ["a", "bbb", ""])) == [(0, 1), (1, 3), (2, 0)]
    with pytest.raises(TypeError):
        list(serial_map(len, [3]))


def test_a_refused_case_survives_the_way_between_processes() -> None:
    """A worker that could not send it would stop the run instead of the case."""
    refused = pickle.loads(pickle.dumps(CaseRefused("s01", "spacing must be > 0 mm, got 0")))
    assert (refused.case, refused.reason) == ("s01", "spacing must be > 0 mm, got 0")
    assert str(refused) == "spacing must be > 0 mm, got 0 (case s01)"


def test_every_kind_of_error_that_asks_for_another_action_has_its_own_exit_status() -> None:
    statuses = {error: error.exit_code for error in (ConfigurationError, DataRefused, GatesFailed)}
    assert sorted(statuses.values()) == [2, 3, 4]
    assert MeddiffError.exit_code == IntegrityError.exit_code == CaseRefused.exit_code == 1
