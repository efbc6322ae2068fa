"""Authenticity and its relatives: copies have none, fresh draws have as much as the holdout."""

import numpy as np
import pytest

from meddiff_core.evidence.features.random_conv import RandomConvFeatures
from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.neighbours import rank_rows
from meddiff_core.evidence.privacy.authenticity import (
    RealVolumes,
    authentic,
    authenticity_evidence,
    closer_by_chance,
    closer_interval,
    closer_share,
    neighbour_ratios,
)

BOOTSTRAP = Bootstrap(100, 0.95, 0)


def normal(n, seed, d=8):
    return np.random.default_rng(seed).standard_normal((n, d))


def world(train, holdout, visits=1):
    people = np.concatenate([np.arange(len(train)) // visits, len(train) + np.arange(len(holdout))])
    real, pool = RealVolumes(people, len(train)), np.concatenate([train, holdout])
    among = rank_rows(train, pool, people, people[: len(train)])
    return real, pool, among


def test_ranking_is_that_of_explicit_loops_and_leaves_out_ones_own_subject():
    train, holdout = normal(30, 0), normal(10, 1)
    real, pool, among = world(train, holdout, visits=2)
    for row in range(30):
        others = np.flatnonzero(real.subjects != row // 2)
        expected = others[np.linalg.norm(pool[others] - train[row], axis=1).argsort()]
        np.testing.assert_array_equal(among.index[row][: len(expected)], expected)
    blocks = rank_rows(train, pool, real.subjects, real.subjects[:30], block=7)
    np.testing.assert_array_equal(blocks.index[:, :38], among.index[:, :38])


def test_copies_have_authenticity_0_and_ratio_0():
    train, holdout = normal(60, 0), normal(20, 1)
    real, pool, among = world(train, holdout)
    copies = rank_rows(train[np.arange(200) % 5] + 1e-6, pool, real.subjects)
    assert authentic(copies, among, real).mean() == 0
    assert neighbour_ratios(copies, real).max() < 1e-3


def test_copies_of_a_person_with_two_visits_are_no_more_authentic():
    first = normal(30, 0)
    train = np.repeat(first, 2, axis=0) + 1e-3 * normal(60, 5)
    real, pool, among = world(train, normal(20, 1), visits=2)
    copies = rank_rows(first, pool, real.subjects)
    assert authentic(copies, among, real).mean() == 0
    assert neighbour_ratios(copies, real).max() < 0.05


def test_fresh_draws_have_what_the_holdout_has():
    gaps, ratios = [], []
    for seed in range(20):
        train, holdout, fresh = normal(200, 3 * seed), normal(100, 3 * seed + 1), normal(100, 3 * seed + 2)
        real, pool, among = world(train, holdout)
        found = [rank_rows(fresh, pool, real.subjects), rank_rows(holdout, pool, real.subjects, real.subjects[200:])]
        shares = [authentic(one, among, real).mean() for one in found]
        assert 0.3 < shares[0] < 0.8  # and not 1
        gaps.append(shares[0] - shares[1])
        ratios.append(np.subtract(*(np.median(neighbour_ratios(one, real)) for one in found)))
    assert abs(np.mean(gaps)) < 0.05
    assert abs(np.mean(ratios)) < 0.02


def test_authenticity_is_that_of_explicit_loops():
    train, holdout, query = normal(25, 0), normal(5, 1), normal(40, 2)
    real, pool, among = world(train, holdout)
    expected = []
    for row in query:
        distances = np.linalg.norm(train - row, axis=1)
        nearest = distances.argmin()
        others = np.delete(np.linalg.norm(train - train[nearest], axis=1), nearest)
        expected.append(others.min() < distances[nearest])
    np.testing.assert_array_equal(authentic(rank_rows(query, pool, real.subjects), among, real), expected)


@pytest.mark.parametrize(("train", "holdout"), [(40, 12), (12, 40), (20, 20)])
def test_closer_share_is_the_mean_over_many_equal_subsamples(train, holdout):
    real, pool, _ = world(normal(train, 0), normal(holdout, 1))
    query, size = normal(50, 2), min(train, holdout)
    distances = np.linalg.norm(query[:, None] - pool, axis=2)
    rng, shares = np.random.default_rng(0), []
    for _ in range(3000):
        mine, other = rng.choice(train, size, replace=False), train + rng.choice(holdout, size, replace=False)
        shares.append((distances[:, mine].min(1) < distances[:, other].min(1)).mean())
    assert closer_share(rank_rows(query, pool, real.subjects), real) == pytest.approx(np.mean(shares), abs=0.01)


def test_fresh_draws_are_on_no_side_and_the_test_keeps_its_level():
    values, rejected, covered = [], 0, 0
    for seed in range(12):
        real, pool, _ = world(normal(108, 3 * seed), normal(18, 3 * seed + 1))
        query = rank_rows(normal(60, 3 * seed + 2), pool, real.subjects)
        found = closer_interval(query, real, BOOTSTRAP)
        values.append(found.value)
        rejected += (closer_by_chance(query, real, 0) >= found.value).mean() < 0.05
        covered += found.low <= 0.5 <= found.high
    assert np.mean(values) == pytest.approx(0.5, abs=0.05)
    assert rejected <= 3
    assert covered >= 9


def test_copycat_is_on_the_side_of_train():
    train, holdout = normal(60, 0), normal(30, 1)
    real, pool, _ = world(train, holdout)
    copies = rank_rows(train + 0.1 * normal(60, 2), pool, real.subjects)
    found = closer_interval(copies, real, BOOTSTRAP)
    assert found.value > 0.7
    assert (closer_by_chance(copies, real, 0) >= found.value).mean() == 0


def test_part_tells_copies_from_fresh_heads_in_every_view(make_heads, audit_of, contract, finish):
    heads, extractors = (
        {"train": make_heads(30, 0), "holdout": make_heads(12, 1)},
        [RandomConvFeatures(contract, width=4)],
    )
    cohorts = make_heads(15, 2), heads["train"].take(range(15))
    fresh, copies = (
        finish(authenticity_evidence(audit_of(heads, accepted=cohort, extractors=extractors), Bootstrap(20, 0.95, 0)))
        for cohort in cohorts
    )
    for section in (fresh, copies):
        assert all(metric.low <= metric.value <= metric.high for metric in section.metrics)
    found, copied = ({metric.name: metric.value for metric in section.metrics} for section in (fresh, copies))
    views = "voxels", "random-conv"
    assert set(found) == {f"{what}:{view}" for what in ("authenticity", "nndr", "closer_share") for view in views}
    for view in views:
        assert found[f"authenticity:{view}"] > 0.1
        assert copied[f"authenticity:{view}"] == 0
        assert found[f"nndr:{view}"] > 0.5 > 0.05 > copied[f"nndr:{view}"]
        assert copied[f"closer_share:{view}"] > found[f"closer_share:{view}"]
