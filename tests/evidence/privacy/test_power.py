"""The copy test is tested: planted copies are stopped, honest cohorts pass, and the figures for both are exact."""

from dataclasses import dataclass

import numpy as np
import pytest

from meddiff_core.evidence.gates import apply_gates
from meddiff_core.evidence.intervals import Bootstrap, Estimate
from meddiff_core.evidence.privacy.copies import ALPHA, combined_score, copy_test, voxel_keys
from meddiff_core.evidence.privacy.oracle import (
    Oracle,
    chance_of_blocking,
    holdout_needed,
    measured_blocking,
    oracle_findings,
)
from meddiff_core.evidence.privacy.planting import DISGUISES, HALF, MIXTURE, plant_copies
from meddiff_core.evidence.privacy.power import (
    CopyGate,
    Planted,
    copy_gate,
    disguise_table,
    excess_metric,
    fewest_blocked,
    power_curve,
    power_metrics,
    power_table,
)
from meddiff_core.evidence.privacy.voxel_search import HALVES, WHOLE, fit_search
from meddiff_core.study import AuditConfig

CONFIG = AuditConfig()
BOOTSTRAP = Bootstrap(40, 0.95, 0)
VIEWS = (WHOLE, *HALVES)


def blocked(result, config=CONFIG):
    gates = apply_gates([excess_metric(result.excess)], config)
    return not next(gate.passed for gate in gates if gate.metric == "copies_excess")


@pytest.fixture(scope="module")
def people(make_heads, contract):
    """Heads of one population with their keys, to be dealt to the sides anew for every seed."""
    heads = make_heads(420, 0)
    return heads, np.stack([voxel_keys(image, contract) for image in heads.images])


@dataclass
class Case:
    """Copy scores of one deal: 60 train, 160 holdout, 200 synthetic, and two planted copies of each disguise."""

    null: np.ndarray
    synthetic: np.ndarray
    planted: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def first(people, contract):
    return deal(people, contract, 0)


@pytest.fixture(scope="module")
def cases(people, contract):
    return [deal(people, contract, seed) for seed in range(20)]


def deal(people, contract, seed):
    heads, keys = people
    order = np.random.default_rng(seed).permutation(420)
    train, holdout, synthetic = order[:60], order[60:220], order[220:]
    search = fit_search(keys[train, 0], contract)
    among = search.among_themselves(keys[train, 0])
    typical = [float(np.median(among[view].score)) for view in VIEWS]

    def score(query):
        found = search(query)
        return combined_score([found[view] for view in VIEWS], typical)[0]

    copies = plant_copies(heads.take(train), 18, contract, seed, heads.take(synthetic))
    scores = score(np.stack([voxel_keys(copies.image(index), contract) for index in range(18)]))
    names = np.array(copies.disguises)
    planted = {name: scores[names == name] for name in (*DISGUISES, HALF)}
    return Case(score(keys[holdout]), score(keys[synthetic]), planted)


def stopped(case, name):
    """Both copies among 200 volumes are flagged, or the gate blocks."""
    result = copy_test(np.concatenate([case.planted[name], case.synthetic[2:]]), case.null, ALPHA)
    return {0, 1} <= set(result.flagged.tolist()) or blocked(result)


def test_planted_copies_of_every_disguise_are_stopped_at_1_percent(first):
    assert {name: stopped(first, name) for name in first.planted} == dict.fromkeys((*DISGUISES, HALF), True)


@pytest.mark.slow
def test_planted_copies_of_every_disguise_are_stopped_20_of_20_at_1_percent(cases):
    for name in (*DISGUISES, HALF):
        assert sum(stopped(case, name) for case in cases) == 20, name


@pytest.mark.slow
def test_twelfth_of_copies_is_blocked_by_the_gate_itself_19_of_20(cases):
    stops = 0
    for case in cases:
        copies = np.concatenate(list(case.planted.values()))
        stops += blocked(copy_test(np.concatenate([copies, case.synthetic[16:]]), case.null, ALPHA))
    assert stops >= 19


@pytest.mark.slow
def test_oracle_passes_at_least_19_of_20(cases):
    assert sum(not blocked(copy_test(case.synthetic, case.null, ALPHA)) for case in cases) >= 19


def test_identical_sets_are_blocked_with_all_flagged(people, contract):
    _, keys = people
    search = fit_search(keys[:60, 0], contract)
    null, copies = search(keys[60:120])[WHOLE].score, search(keys[:60])[WHOLE].score
    result = copy_test(copies, null, ALPHA)
    assert len(result.flagged) == 60
    assert blocked(result)
    assert result.excess.low > 0.8


def test_gate_blocks_from_exactly_the_count_that_is_said():
    null = np.random.default_rng(0).random(160)
    fewest = fewest_blocked(200, len(null), CONFIG, BOOTSTRAP)
    for count, expected in ((fewest - 1, False), (fewest, True)):
        scores = np.where(np.arange(200) < count, null.min() - 1, null.max() + 1)
        assert blocked(copy_test(scores, null, ALPHA, BOOTSTRAP.confidence, BOOTSTRAP.seed)) is expected


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_power_is_that_of_the_whole_test_on_drawn_mixtures(share):
    rng = np.random.default_rng(0)
    null, synthetic = rng.random(60), rng.random(200)
    planted = rng.random(400) * np.where(rng.random(400) < 0.9, 0.1, 10) * np.quantile(null, 0.05)
    result = copy_test(synthetic, null, ALPHA)
    caught = float((planted < result.threshold).mean())
    gate = copy_gate(200, len(result.flagged), 60, CONFIG, BOOTSTRAP)
    every, blocks, either = [], [], []
    for _ in range(150):
        copies = rng.choice(planted, gate.planted(share))
        mixture = np.concatenate([copies, rng.choice(synthetic, 200 - len(copies), replace=False)])
        found = copy_test(mixture, null, ALPHA)
        every.append(len(copies) == (found.flagged < len(copies)).sum())
        blocks.append(len(found.flagged) >= gate.fewest_blocked)
        either.append(every[-1] or blocks[-1])
    for drawn, exact in ((every, gate.every_copy_flagged), (blocks, gate.blocks), (either, gate.stopped)):
        assert np.mean(drawn) == pytest.approx(exact(share, caught), abs=0.12)


def test_power_rises_with_what_is_caught_and_is_1_for_a_perfect_test():
    gate = CopyGate(200, 8, 19)
    for share in (0.01, 0.05, 0.2, 0.5):
        chances = [gate.stopped(share, caught) for caught in (0.1, 0.5, 0.9, 1.0)]
        assert chances == sorted(chances)
        assert chances[-1] == pytest.approx(1)
    assert CopyGate(200, 8, 201).blocks(0.5, 1.0) == 0
    assert CopyGate(200, 50, 19).blocks(0.01, 0.0) == 1


def test_blind_test_has_no_power_and_its_interval_counts_subjects():
    gate = CopyGate(200, 8, 19)
    subjects = [f"s{row // 4}" for row in range(120)]
    blind = Planted(np.zeros(120, bool), ["none"] * 120, subjects).share(0.95)
    assert (blind.value, blind.n) == (0, 30)
    assert blind.high == pytest.approx(0.116, abs=0.01)
    metrics = {metric.name: metric for metric in power_metrics(gate, blind)}
    assert set(metrics) == {"power:0.01", "power:0.05", "power:0.2"}
    assert all(metric.value < 0.02 for metric in metrics.values())


def test_mixtures_are_shown_and_do_not_count_and_few_subjects_are_not_shown():
    names = ["none"] * 10 + ["flip"] * 4 + [MIXTURE] * 10
    planted = Planted(np.arange(24) < 14, names, [f"s{row}" for row in range(24)])
    assert planted.share(0.95).value == 1
    rows = {row[0]: row for row in disguise_table(CopyGate(200, 8, 19), planted, 0.95).rows}
    assert list(rows) == ["none", "flip", MIXTURE]
    assert rows["none"][1:3] == (10, 1.0)
    assert rows["flip"][1:] == (4, None, None, None, None)
    assert rows[MIXTURE][2] == 0


def test_table_and_curve_agree_at_1_percent():
    gate, caught = CopyGate(200, 8, 19), Estimate(0.97, 0.9, 1.0, 60)
    curve = {line.name: line for line in power_curve(gate, caught).lines}
    row = power_table(gate, caught).rows[0]
    at = curve["stopped"].x.index(1.0)
    assert row[:2] == ("1%", 2)
    assert row[2:5] == tuple(curve[name].y[at] for name in ("every copy flagged", "gate blocks", "stopped"))
    assert curve["stopped"].low[at] <= row[4] <= curve["stopped"].high[at]


@pytest.mark.parametrize("null_size", [18, 60])
def test_chance_of_blocking_an_honest_cohort_is_that_of_drawn_ones(null_size):
    rng = np.random.default_rng(0)
    gate = copy_gate(200, 0, null_size, CONFIG, BOOTSTRAP)
    drawn = [
        len(copy_test(rng.random(200), rng.random(null_size), ALPHA).flagged) >= gate.fewest_blocked for _ in range(200)
    ]
    assert np.mean(drawn) == pytest.approx(chance_of_blocking(gate, null_size), abs=0.1)


def test_holdout_that_is_called_enough_is_enough_and_less_is_not():
    needed = holdout_needed(200, CONFIG, BOOTSTRAP)
    assert needed is not None
    for subjects, enough in ((needed, True), (needed - 20, False)):
        gate = copy_gate(200, 0, subjects, CONFIG, BOOTSTRAP)
        assert (chance_of_blocking(gate, subjects) <= 0.05) is enough


def test_oracle_sees_a_validation_side_that_was_learnt_by_heart():
    rng = np.random.default_rng(0)
    honest, learnt = Oracle(rng.random(60), rng.random(60)), Oracle(rng.random(60), 0.01 * rng.random(60))
    gate = copy_gate(200, 0, 60, CONFIG, BOOTSTRAP)
    assert measured_blocking(honest, gate, BOOTSTRAP).value < 0.35
    rows = {row[0]: row for row in oracle_findings(learnt, 200, CONFIG, BOOTSTRAP).table.rows}
    assert rows["validation"][2] > 0.8
    assert rows["validation"][3] > rows["validation"][5]


def test_oracle_without_validation_uses_halves_and_says_how_many_subjects_are_needed():
    found = oracle_findings(Oracle(np.random.default_rng(0).random(18), np.zeros(0)), 200, CONFIG, BOOTSTRAP)
    assert found.metric.low <= found.metric.value <= found.metric.high
    assert "About 159 would bring it to at most 0.05" in found.statements[0]
    assert "validation" not in {row[0] for row in found.table.rows}
