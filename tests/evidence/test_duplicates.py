"""Near-duplicates in a cohort: what is found in blocks is what a plain comparison of all pairs finds."""

import numpy as np
import pytest

from meddiff_core.evidence.duplicates import near_duplicates
from meddiff_core.evidence.neighbours import to_length_one


def naive(keys, centre, threshold):
    units = to_length_one(keys - centre)
    alike = 1 - units @ units.T < threshold
    kept = []
    for row in range(len(units)):
        if not alike[row, kept].any():
            kept.append(row)
    return set(range(len(units))) - set(kept)


def cohort(n, p=300, seed=0):
    """Keys whose deviations fall off over directions as those of anatomy do; a tenth repeats an earlier one."""
    rng = np.random.default_rng(seed)
    keys = (rng.standard_normal((n, p)) / np.arange(1, p + 1)).astype(np.float32)
    again = rng.permutation(np.arange(n // 2, n))[: n // 10]
    keys[again] = keys[rng.integers(0, n // 2, len(again))] + 1e-4 * rng.standard_normal((len(again), p))
    return keys


@pytest.mark.parametrize("threshold", [1e-3, 0.1, 0.5])
def test_3000_keys_give_the_naive_answer(threshold):
    keys = cohort(3000)
    found = near_duplicates(keys, keys.mean(0), threshold)
    assert found == naive(keys, keys.mean(0), threshold)
    assert len(found) >= 300


def test_answer_does_not_depend_on_the_block():
    keys = cohort(500)
    answers = [near_duplicates(keys, keys.mean(0), 0.2, block) for block in (1, 7, 1024)]
    assert answers[0] == answers[1] == answers[2]


def test_collapsed_cohort_keeps_one_and_distinct_ones_stay():
    keys = cohort(40)
    same = np.repeat(keys[:1], 30, 0)
    assert near_duplicates(same, keys.mean(0), 0.01) == set(range(1, 30))
    assert near_duplicates(np.eye(50, dtype=np.float32), np.zeros(50, np.float32), 0.5) == set()
