"""Whose each volume is."""

import numpy as np
import pytest

from meddiff_core.evidence.subjects import first_of_each, mean_by_subject, numbered


def test_subjects_are_numbered_from_zero_and_rows_without_a_name_are_their_own():
    np.testing.assert_array_equal(numbered(["b", "a", "b"], 3), [1, 0, 1])
    np.testing.assert_array_equal(numbered(None, 3), [0, 1, 2])


def test_scans_of_one_subject_count_once():
    values = np.array([[1.0, np.nan], [3.0, 2.0], [5.0, np.nan]])
    np.testing.assert_array_equal(mean_by_subject(values, ["b", "b", "a"]), [[5, np.nan], [2, 2]])


@pytest.mark.parametrize("values", [np.full((4, 2), 0.1), np.array([[np.nan, 1.0]] * 4)])
def test_scans_that_agree_give_their_own_figures(values):
    np.testing.assert_allclose(mean_by_subject(values, ["1", "0", "1", "1"]), values[:2])


def test_the_first_scan_of_each_subject_stands_for_it():
    rows = [{"age": 1}, {"age": 2}, {"age": 3}]
    assert sorted(row["age"] for row in first_of_each(rows, ["b", "a", "b"])) == [1, 2]
