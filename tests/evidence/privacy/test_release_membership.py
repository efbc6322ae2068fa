"""Membership from the released volumes alone: trained-on subjects are found where they leak, and no others."""

import numpy as np
import pytest

from meddiff_core.evidence.features.random_conv import RandomConvFeatures
from meddiff_core.evidence.gates import apply_gates
from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.neighbours import nearest
from meddiff_core.evidence.presets import PRESETS
from meddiff_core.evidence.privacy.membership import Attacked, evaluate_attacks
from meddiff_core.evidence.privacy.release_membership import (
    density_scores,
    distance_scores,
    log_density,
    release_membership,
)
from meddiff_core.study import AuditConfig

BOOTSTRAP = Bootstrap(50, 0.95, 0)


def normal(n, seed, d=6):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def scores(query, released, reference):
    wide = [one.astype(np.float64) for one in (query, released, reference)]
    found = distance_scores(nearest(*wide[:2]), nearest(wide[0], wide[2]))
    return found | density_scores(query, released, reference)


def evaluated(released, seed, train, holdout, reference):
    sides = [
        Attacked([f"{side}{row}" for row in range(len(rows))], normal(len(rows), seed + at, 4).astype(np.float64),
                 {"release": scores(rows, released, reference)})
        for at, (side, rows) in enumerate((("t", train), ("h", holdout)))
    ]  # fmt: skip
    return evaluate_attacks("release", *sides, BOOTSTRAP)


def sets(seed):
    return normal(44, 10 * seed), normal(22, 10 * seed + 1), normal(22, 10 * seed + 2)


def test_members_whose_near_copies_are_released_are_found():
    train, holdout, reference = sets(0)
    released = np.concatenate([normal(150, 5), train + 0.1 * normal(44, 6)])
    found = evaluated(released, 7, train, holdout, reference)
    assert found.corrected.low > 0.8
    assert found.p < 0.01
    assert all(outcome.auc.value > 0.6 for outcome in found.outcomes)


def test_release_of_fresh_volumes_leaks_nothing_and_its_interval_says_so():
    values, held, passed = [], 0, 0
    for seed in range(1, 21):
        found = evaluated(normal(200, 10 * seed + 5), seed, *sets(seed)).corrected
        values.append(found.value)
        held += found.low <= 0.5 <= found.high
        passed += found.high <= 0.75
    assert np.mean(values) == pytest.approx(0.5, abs=0.05)
    assert held >= 18
    assert passed >= 17


def test_scores_do_not_depend_on_order_and_areas_not_on_scale():
    train, _, reference = sets(30)
    released = normal(60, 305)
    first = scores(train, released, reference)
    order = np.random.default_rng(0).permutation(60)
    again = scores(train, released[order], reference[::-1])
    scaled = scores(4 * train, 4 * released, 4 * reference)
    for name, column in first.items():
        np.testing.assert_allclose(again[name], column, rtol=1e-4, atol=1e-4)
        shift = scaled[name] - column
        np.testing.assert_allclose(shift, shift.mean(), atol=1e-3)


def test_density_integrates_to_1_and_is_that_of_its_kernels():
    sample, grid = np.array([[0.0], [1.0]]), np.linspace(-8, 9, 4001)[:, None]
    density = np.exp(log_density(grid, sample))
    assert density.sum() * (grid[1, 0] - grid[0, 0]) == pytest.approx(1, abs=1e-6)
    assert grid[density.argmax(), 0] == pytest.approx(0.5, abs=0.6)


def test_ratio_of_densities_is_high_where_volumes_crowd_beyond_the_reference():
    reference = normal(300, 0, 2)
    released = np.concatenate([normal(250, 1, 2), np.array([2.0, 2.0], np.float32) + 0.1 * normal(50, 2, 2)])
    (ratio,) = density_scores(np.array([[2.0, 2.0], [-1.0, 0.0]], np.float32), released, reference).values()
    assert ratio[0] > ratio[1] + 1
    assert density_scores(released, released, reference[:0]) == {}


def facts(audit_of, make_heads, contract, cohort):
    sides = {"train": make_heads(24, 0), "holdout": make_heads(12, 1), "validation": make_heads(10, 3)}
    return audit_of(sides, cohort, extractors=[RandomConvFeatures(contract, width=4)])


def test_power_is_shown_beside_a_cohort_that_betrays_nobody_and_one_that_does(audit_of, make_heads, contract, finish):
    honest = finish(release_membership(facts(audit_of, make_heads, contract, make_heads(30, 2)), BOOTSTRAP))
    found = {metric.name: metric for metric in honest.metrics}
    assert found["membership_release_power"].value > 0.85
    assert found["membership_release_auc"].low < 0.5
    assert len(honest.tables[0].rows) == 8
    train = make_heads(24, 0)
    leaking = finish(release_membership(facts(audit_of, make_heads, contract, train), BOOTSTRAP))
    found = {metric.name: metric for metric in leaking.metrics}
    assert found["membership_release_auc"].low > 0.75
    for preset in PRESETS:
        gates = apply_gates(leaking.metrics, AuditConfig(preset=preset))
        assert not next(gate.passed for gate in gates if gate.metric == "membership_release_auc")


def test_without_reference_volumes_distances_alone_are_used_and_it_is_said(audit_of, make_heads, contract, finish):
    sides = {"train": make_heads(16, 0), "holdout": make_heads(8, 1)}
    section = finish(release_membership(audit_of(sides, make_heads(12, 2)), BOOTSTRAP))
    assert [row[0] for row in section.tables[0].rows] == ["nearest, voxels", "nearest over the next, voxels"]
    assert "fewer than 8 validation volumes" in section.statements[0]
