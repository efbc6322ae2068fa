"""The copy test: a copycat is caught, an honest cohort passes."""

from functools import cache

import numpy as np
import pytest

from meddiff_core.evidence.intervals import Bootstrap, from_count
from meddiff_core.evidence.neighbours import nearest, nearest_voxels
from meddiff_core.evidence.privacy.canaries import HALF, MIXTURE, TRANSFORMATIONS, plant_canaries
from meddiff_core.evidence.privacy.copies import (
    NullRank,
    closer_to_train,
    combined_score,
    copy_test,
    copy_threshold,
    excess_of,
    false_alarms,
    level_of,
)
from meddiff_core.evidence.privacy.voxel_search import WHOLE, fit_search, match_voxels
from meddiff_core.evidence.subjects import one_of_each
from meddiff_core.evidence.voxel_keys import keys_of, voxel_key, voxel_keys

BOOTSTRAP = Bootstrap(400, 0.95, 0)
NONE = np.zeros(0)
"""No planted copies: the threshold is on the null."""


def normal(n, seed, d=16):
    return np.random.default_rng(seed).standard_normal((n, d))


def test_nearest_is_that_of_explicit_loops():
    query, reference = normal(9, 0), normal(20, 1)
    found = nearest(query, reference, block=4)
    for row in range(9):
        distances = np.sort(np.linalg.norm(reference - query[row], axis=1))
        assert found.distance[row] == pytest.approx(distances[0])
        assert found.local[row] == pytest.approx(distances[1:11].mean())
        assert np.linalg.norm(reference[found.index[row]] - query[row]) == pytest.approx(distances[0])


def test_a_volume_is_not_its_own_neighbour():
    rows = normal(30, 0)
    found = nearest(rows, rows, exclude_self=True, block=7)
    assert np.all(found.index != np.arange(30))
    assert found.distance.min() > 0.1


def test_first_of_the_keys_is_the_volume_as_it_is(make_heads, contract):
    image = make_heads(1, 0).image(0)
    keys = voxel_keys(image, contract)
    assert keys.shape == (54, 12**3)
    np.testing.assert_allclose(keys[0], voxel_key(image, contract), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(keys, axis=1), 1, rtol=1e-5)


def test_keys_hold_every_flip_and_shift_by_a_voxel(make_heads, contract):
    image = np.pad(make_heads(1, 0).image(0)[2:-2, 2:-2, 2:-2], 2)
    transformed = np.roll(image[::-1], (1, -1, 1), (0, 1, 2))
    assert (voxel_keys(transformed, contract) @ voxel_key(image, contract)).max() == pytest.approx(1, abs=1e-5)
    assert voxel_key(transformed, contract) @ voxel_key(image, contract) < 0.99


def test_keys_of_large_volumes_stay_small(contract):
    large = contract.model_copy(update={"size": (130, 96, 70)})
    image = np.random.default_rng(0).integers(0, 255, (130, 96, 70)).astype(np.uint8)
    assert voxel_keys(image, large).shape[1] <= 12**3


@pytest.mark.parametrize("seed", [0, 1])
def test_canaries_of_every_transformation_are_caught(make_heads, contract, finish, seed):
    train, holdout = make_heads(42, seed), make_heads(20, 100 + seed)
    search = fit_search(keys_of(train, contract), contract)
    null = finish(match_voxels(holdout, contract, search))[WHOLE]
    canaries = plant_canaries(train, 42, contract, seed)
    found = finish(match_voxels(canaries, contract, search))[WHOLE]
    caught = found.score < copy_threshold(null.score, NONE).value
    assert set(canaries.transformations) == set(TRANSFORMATIONS)
    assert caught.all()
    np.testing.assert_array_equal(found.index, canaries.rows)


def test_canaries_are_the_same_at_every_reading_and_transform_their_labels(make_heads, contract):
    train = make_heads(14, 0)
    canaries = plant_canaries(train, 36, contract, 3, make_heads(5, 9))
    assert {canaries.transformation(index) for index in range(36)} == {*TRANSFORMATIONS, HALF, MIXTURE}
    for index in range(36):
        np.testing.assert_array_equal(canaries.image(index), canaries.image(index))
        label = canaries.label(index)
        background = canaries.image(index)[label == 0]
        assert (background < 60).mean() > 0.95 or canaries.transformation(index) == MIXTURE, canaries.transformation(
            index
        )


def test_where_volumes_are_few_each_is_planted_under_every_transformation_once(make_heads, contract):
    train = make_heads(9, 0)
    canaries = plant_canaries(train, 500, contract, 0, make_heads(3, 1))
    pairs = {(row, canaries.transformation(index)) for index, row in enumerate(canaries.rows)}
    assert len(canaries) == len(pairs) == 9 * 9


def test_half_of_a_copy_is_exactly_half(make_heads, contract):
    train, partners = make_heads(9, 0), make_heads(1, 1)
    canaries = plant_canaries(train, 81, contract, 0, partners)
    for index in [index for index in range(81) if canaries.transformation(index) == HALF]:
        image, original = canaries.image(index), train.image(canaries.rows[index])
        kept = image == original
        assert kept.reshape(-1).mean() >= 0.5
        assert (kept | (image == partners.image(0))).all()
        assert not kept.all()


def test_threshold_flags_its_nominal_share_of_fresh_volumes():
    """The distribution-free law k / (n + 1), on which everything rests."""
    rng = np.random.default_rng(0)
    for n in (8, 19, 20, 60):
        shares = [
            (rng.exponential(size=400) < copy_threshold(rng.exponential(size=n), NONE).value).mean() for _ in range(800)
        ]
        assert np.mean(shares) == pytest.approx(level_of(n).highest_share, rel=0.15)


def test_honest_cohort_passes_and_mixture_of_a_tenth_of_copies_does_not():
    passes, stopped, covered = 0, 0, 0
    for seed in range(30):
        train, holdout, fresh = normal(300, 3 * seed), normal(100, 3 * seed + 1), normal(300, 3 * seed + 2)
        mixture = fresh.copy()
        mixture[:30] = train[:30] + 0.05 * normal(30, 1000 + seed)
        null = nearest(holdout, train).score
        clean = copy_test(nearest(fresh, train).score, copy_threshold(null, NONE), Bootstrap(1, 0.95, seed))
        dirty = copy_test(nearest(mixture, train).score, copy_threshold(null, NONE), Bootstrap(1, 0.95, seed))
        passes += clean.excess.high <= 0.1
        stopped += dirty.excess.high > 0.1
        covered += clean.excess.low <= 0 <= clean.excess.high
        assert set(range(30)) <= set(dirty.flagged.tolist())
    assert passes >= 26
    assert stopped == 30
    assert covered >= 26


def test_no_flag_still_leaves_three_in_n_open():
    result = copy_test(np.full(100, 2.0), copy_threshold(np.full(10_000, 1.0), NONE), BOOTSTRAP)
    assert result.share.value == 0
    assert result.share.high == pytest.approx(3.6 / 100, rel=0.05)


def test_copycat_is_closer_to_train_and_honest_cohort_is_not_at_unequal_sizes():
    values = []
    for seed in range(20):
        train, holdout, fresh = normal(400, 3 * seed), normal(60, 3 * seed + 1), normal(200, 3 * seed + 2)
        subjects = np.arange(400), np.arange(60)
        found = closer_to_train(nearest(fresh, train), nearest(fresh, holdout), *subjects, Bootstrap(200, 0.95, seed))
        values.append(found.value)
    assert np.mean(values) == pytest.approx(0.5, abs=0.05)
    copies = train[:200] + 0.05 * normal(200, 999)
    found = closer_to_train(nearest(copies, train), nearest(copies, holdout), *subjects, Bootstrap(200, 0.95, 0))
    assert found.low > 0.95


def test_interval_of_side_counts_subjects_and_not_their_scans():
    train, holdout, fresh = normal(100, 0), normal(40, 1), normal(200, 2)
    sides = nearest(fresh, train), nearest(fresh, holdout)
    alone = closer_to_train(*sides, np.arange(100), np.arange(40), BOOTSTRAP)
    families = closer_to_train(*sides, np.arange(100) // 20, np.arange(40) // 8, BOOTSTRAP)
    thrice = [np.repeat(np.arange(len(set_)), 3) for set_ in (train, holdout)]
    scans = nearest(fresh, np.repeat(train, 3, 0)), nearest(fresh, np.repeat(holdout, 3, 0))
    repeated = closer_to_train(*scans, *thrice, BOOTSTRAP)
    assert families.value == alone.value == pytest.approx(repeated.value)
    assert (repeated.low, repeated.high) == pytest.approx((alone.low, alone.high))


def test_second_scan_of_the_copied_subject_does_not_hide_the_copy():
    train = normal(60, 0)
    scans = np.vstack([train, train + 0.02 * normal(60, 1), train + 0.02 * normal(60, 2)])
    subjects = [f"s{row % 60}" for row in range(180)]
    copy = train[:5] + 0.01 * normal(5, 3)
    by_row, by_subject = nearest(copy, scans), nearest(copy, scans, subjects=subjects)
    assert by_subject.score.max() < 0.05
    assert (by_row.score > 1.15 * by_subject.score).all()
    np.testing.assert_array_equal(by_row.index, by_subject.index)
    np.testing.assert_allclose(by_subject.score, nearest(copy, train).score, rtol=0.05)
    among = nearest(scans, scans, exclude_self=True, subjects=subjects, block=50)
    assert among.distance.min() > 0.5
    assert all(subjects[row] != subjects[found] for row, found in enumerate(among.index))


def test_threshold_keeps_its_level_for_subjects_with_many_scans():
    """Scores of one subject are alike: taken as they are, three scans of each would say that there are 57 of 19."""
    rng = np.random.default_rng(0)
    shares = []
    for trial in range(1500):
        person = rng.standard_normal(19)
        scans = np.repeat(person, 3) + 0.1 * rng.standard_normal(57)
        subjects = [f"s{row // 3}" for row in range(57)]
        fresh = rng.standard_normal(200) + 0.1 * rng.standard_normal(200)
        chosen = one_of_each(subjects, 57, trial)
        assert len({subjects[row] for row in chosen}) == len(chosen) == 19
        shares.append((fresh < copy_threshold(scans[chosen], NONE).value).mean())
    assert np.mean(shares) == pytest.approx(level_of(19).highest_share, rel=0.1)


def test_average_volumes_are_near_to_many_and_no_copies(make_heads, contract, finish):
    """Distance alone flags them; the score does not, nor does a key relative to the mean."""
    train, holdout, fresh = make_heads(60, 0), make_heads(20, 1), make_heads(40, 2)
    averages = ((fresh.images.astype(int) + np.roll(fresh.images, 1, 0)) // 2).astype(np.uint8)
    search = fit_search(keys_of(train, contract), contract)
    null = finish(match_voxels(holdout, contract, search))[WHOLE]
    found = finish(match_voxels(type(fresh)(averages), contract, search))[WHOLE]
    assert (found.score < copy_threshold(null.score, NONE).value).mean() < 0.15


def test_combined_score_is_the_worst_view():
    train, query = normal(50, 0), normal(10, 1)
    fooled, seeing = nearest(query, train), nearest(np.vstack([train[3:4], query[1:]]), train)
    score, rows = combined_score([fooled, seeing], [1.0, 1.0])
    assert score[0] < 1e-6
    assert rows[0] == 3
    np.testing.assert_allclose(score[1:], fooled.score[1:])


def test_false_alarms_are_near_their_nominal_share():
    scores = normal(100, 0, 1)[:, 0]
    found = false_alarms(scores, NONE, BOOTSTRAP)
    assert found.value == pytest.approx(level_of(50).highest_share, rel=0.2)


def test_constant_volume_is_at_a_defined_distance(make_heads, contract):
    reference = keys_of(make_heads(5, 0), contract)
    keys = voxel_keys(np.zeros((24, 24, 24), np.uint8), contract)
    found = nearest_voxels(keys[None], reference, reference.mean(0))
    assert np.isfinite(found.distance).all()


def lognormal(centre, spread):
    return lambda rng, size: centre * np.exp(spread * rng.standard_normal(size))


def with_kin(rng, size):
    """Held-out people a few of whom have a relative among the training subjects."""
    return np.where(rng.random(size) < 0.04, rng.uniform(0.1, 0.5, size), lognormal(0.8, 0.2)(rng, size))


def as_brains(rng, size):
    """Seven transformations, of which one puts all the others together."""
    kind = rng.integers(7, size=size)
    return np.where(kind == 6, lognormal(0.085, 0.25)(rng, size), np.where(kind < 3, 0.0, lognormal(0.015, 0.4)(rng, size)))  # fmt: skip  # noqa: E501


FRESH = {
    "narrow": lognormal(0.8, 0.15), "as brains": lognormal(0.8, 0.3), "wide": lognormal(0.8, 0.4),
    "skewed": lambda rng, size: 0.8 * rng.gamma(8, 0.125, size),
    "uniform": lambda rng, size: rng.uniform(0.3, 1.2, size),
    "kin": with_kin,
}  # fmt: skip
COPIES = {"as brains": as_brains, "noisy": lognormal(0.12, 0.2)}
PLAIN = [(fresh, copies) for fresh in FRESH for copies in COPIES if (fresh, copies) != ("kin", "noisy")]
"""Where hardly a copy scores as fresh volumes do."""
COHORT = 200


@cache
def fewest_blocked(held_out, is_exact):
    """Flagged volumes from which on the gate on an excess of at most 0.1 blocks."""
    null = level_of(held_out) if is_exact else NullRank(held_out, 1, 0.5)
    return next(count for count in range(COHORT) if excess_of(count, COHORT, null, BOOTSTRAP).high > 0.1)


def blocked_share(fresh, copies, held_out, share, trials=400):
    """Of cohorts with such a share of copies, how many the gate blocks."""
    rng, count, blocked = np.random.default_rng(held_out), int(share * COHORT), 0
    for _ in range(trials):
        threshold = copy_threshold(fresh(rng, held_out), copies(rng, 75))
        cohort = np.concatenate([copies(rng, count), fresh(rng, COHORT - count)])
        flagged = int((cohort < threshold.value).sum())
        blocked += flagged >= fewest_blocked(held_out, threshold.null.is_exact)
    return blocked / trials


@pytest.mark.parametrize("held_out", [18, 22, 41])
@pytest.mark.parametrize(("fresh", "copies"), PLAIN)
def test_honest_cohorts_pass_and_twice_the_allowed_copies_do_not(fresh, copies, held_out):
    assert blocked_share(FRESH[fresh], COPIES[copies], held_out, 0.0) <= 0.05
    assert blocked_share(FRESH[fresh], COPIES[copies], held_out, 0.2, 100) >= 0.9


@pytest.mark.parametrize("held_out", [18, 41])
def test_where_copies_score_like_fresh_volumes_the_threshold_is_that_of_the_null(held_out):
    rng = np.random.default_rng(0)
    for _ in range(50):
        null, planted = FRESH["as brains"](rng, held_out), lognormal(0.6, 0.4)(rng, 75)
        null[0] = planted[planted < np.quantile(null, 0.5)].min()
        assert copy_threshold(null, planted) == copy_threshold(null, NONE)
        assert copy_threshold(null, planted).value == np.sort(null)[level_of(held_out).rank - 1]


def test_threshold_follows_the_scale_of_the_scores_and_not_their_order():
    rng = np.random.default_rng(0)
    for copies in (COPIES["as brains"](rng, 75), lognormal(0.6, 0.4)(rng, 75)):
        null = FRESH["as brains"](rng, 22)
        found = copy_threshold(null, copies)
        scaled = copy_threshold(7 * rng.permutation(null), 7 * rng.permutation(copies))
        assert scaled.value == pytest.approx(7 * found.value)
        assert scaled.null.fraction == pytest.approx(found.null.fraction)
        assert found.value <= np.sort(null)[level_of(22).rank - 1]


def test_threshold_lies_between_copies_and_fresh_volumes_that_are_apart():
    found = copy_threshold(np.linspace(0.4, 1, 22), np.full(40, 0.1))
    assert found.value == pytest.approx(0.2)
    assert (found.null.size, found.null.rank, found.null.fraction) == (22, 1, pytest.approx(0.5))
    assert not found.null.is_exact
    assert copy_threshold(np.linspace(0.4, 1, 22), NONE).null == level_of(22)


def test_lower_threshold_loses_no_planted_copy():
    rng = np.random.default_rng(0)
    for held_out in (18, 41, 160):
        for planted in (as_brains(rng, 75), lognormal(0.3, 0.5)(rng, 75)):
            null = FRESH["as brains"](rng, held_out)
            lower, on_null = (copy_threshold(null, copies).value for copies in (planted, NONE))
            assert lower <= on_null
            assert (planted < lower).sum() == (planted < on_null).sum()


def test_bounds_below_the_null_hold_the_excess_of_copies_and_count_no_fresh_volume_away():
    below, on = NullRank(22, 1, 0.5), level_of(22)
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        fresh = 0.5 * rng.beta(1, 22)  # of scores that get no rarer towards 0, the most that there can be
        flagged = rng.binomial(COHORT, 0.1 + 0.9 * fresh)
        found = excess_of(int(flagged), COHORT, below, BOOTSTRAP)
        held += found.low <= (0.1 + 0.9 * fresh) - fresh <= found.high
    assert held >= 285
    assert excess_of(10, COHORT, below, BOOTSTRAP).high > excess_of(10, COHORT, on, BOOTSTRAP).high
    assert excess_of(10, COHORT, below, BOOTSTRAP).value == 10 / COHORT


def test_caught_share_of_the_planted_copies_that_set_the_threshold_bounds_that_of_others():
    """A threshold above nearly all planted copies catches as many others as the interval of these says (Wilks 1941)."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        planted = lognormal(0.12, 0.5)(rng, 75)
        threshold = copy_threshold(FRESH["uniform"](rng, 40), planted).value
        low = from_count(int((planted < threshold).sum()), 75, 0.95).low
        held += (lognormal(0.12, 0.5)(rng, 4000) < threshold).mean() >= low
    assert held >= 385
