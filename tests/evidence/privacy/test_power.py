"""The copy test is tested: canaries are stopped, honest cohorts pass, and the figures for both are exact."""

from dataclasses import dataclass

import numpy as np
import pytest

from meddiff_core.evidence.gates import apply_gates
from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.privacy.canaries import HALF, MIXTURE, TRANSFORMATIONS, SearchedCanaries, plant_canaries
from meddiff_core.evidence.privacy.copies import (
    NullRank,
    combined_score,
    copy_test,
    copy_threshold,
    excess_metric,
    level_of,
)
from meddiff_core.evidence.privacy.negative_control import (
    NegativeControl,
    chance_of_blocking,
    control_section,
    measured_blocking,
    subjects_needed,
)
from meddiff_core.evidence.privacy.power import CopyGate, copy_gate, power_section
from meddiff_core.evidence.privacy.voxel_search import HALVES, WHOLE, fit_search
from meddiff_core.evidence.voxel_keys import voxel_keys
from meddiff_core.study import AuditConfig

CONFIG = AuditConfig()
BOOTSTRAP = Bootstrap(40, 0.95, 0)
VIEWS = (WHOLE, *HALVES)


def blocked(result, config=CONFIG):
    gates = apply_gates([excess_metric(result.excess)], config)
    return not next(gate.passed for gate in gates if gate.metric == "copies_excess")


@pytest.fixture(scope="module")
def population(make_heads, contract):
    """Heads of one population with their keys, to be split anew for every seed."""
    heads = make_heads(420, 0)
    return heads, np.stack([voxel_keys(image, contract) for image in heads.images])


@dataclass
class Case:
    """Copy scores of one deal: 60 train, 160 holdout, 200 synthetic, and two canaries of each transformation."""

    null: np.ndarray
    synthetic: np.ndarray
    canaries: dict[str, np.ndarray]

    @property
    def planted(self) -> np.ndarray:
        """Scores of copies of whole volumes."""
        return np.concatenate([self.canaries[name] for name in TRANSFORMATIONS])


@pytest.fixture(scope="module")
def first(population, contract):
    return deal(population, contract, 0)


@pytest.fixture(scope="module")
def cases(population, contract):
    return [deal(population, contract, seed) for seed in range(20)]


NONE = np.zeros(0)
"""No planted copies: the threshold is on the null."""


def found_in(scores, null, planted):
    return copy_test(scores, copy_threshold(null, planted), BOOTSTRAP)


def deal(population, contract, seed):
    heads, keys = population
    order = np.random.default_rng(seed).permutation(420)
    train, holdout, synthetic = order[:60], order[60:220], order[220:]
    search = fit_search(keys[train, 0], contract)
    among = search.among_themselves(keys[train, 0])
    typical = [float(np.median(among[view].score)) for view in VIEWS]

    def score(query):
        found = search(query)
        return combined_score([found[view] for view in VIEWS], typical)[0]

    copies = plant_canaries(heads.take(train), 18, contract, seed, heads.take(synthetic))
    scores = score(np.stack([voxel_keys(copies.image(index), contract) for index in range(18)]))
    names = np.array(copies.transformations)
    canaries = {name: scores[names == name] for name in (*TRANSFORMATIONS, HALF)}
    return Case(score(keys[holdout]), score(keys[synthetic]), canaries)


def stopped(case, name):
    """Both copies among 200 volumes are flagged, or the gate blocks."""
    result = found_in(np.concatenate([case.canaries[name], case.synthetic[2:]]), case.null, case.planted)
    return {0, 1} <= set(result.flagged.tolist()) or blocked(result)


def test_canaries_of_every_transformation_are_stopped_at_1_percent(first):
    assert {name: stopped(first, name) for name in first.canaries} == dict.fromkeys((*TRANSFORMATIONS, HALF), True)


@pytest.mark.slow
def test_canaries_of_every_transformation_are_stopped_at_least_19_of_20_at_1_percent(cases):
    for name in (*TRANSFORMATIONS, HALF):
        assert sum(stopped(case, name) for case in cases) >= 19, name


@pytest.mark.slow
def test_twelfth_of_copies_is_blocked_by_the_gate_itself_19_of_20(cases):
    stops = 0
    for case in cases:
        copies = np.concatenate(list(case.canaries.values()))
        stops += blocked(found_in(np.concatenate([copies, case.synthetic[16:]]), case.null, case.planted))
    assert stops >= 19


@pytest.mark.slow
def test_honest_cohorts_pass_at_least_19_of_20(cases):
    assert sum(not blocked(found_in(case.synthetic, case.null, case.planted)) for case in cases) >= 19


def test_identical_sets_are_blocked_with_all_flagged(population, contract):
    _, keys = population
    search = fit_search(keys[:60, 0], contract)
    null, copies = search(keys[60:120])[WHOLE].score, search(keys[:60])[WHOLE].score
    result = found_in(copies, null, NONE)
    assert len(result.flagged) == 60
    assert blocked(result)
    assert result.excess.low > 0.8


def test_gate_blocks_from_exactly_the_count_that_is_said():
    null = np.random.default_rng(0).random(160)
    fewest = copy_gate(200, 0, level_of(len(null)), CONFIG, BOOTSTRAP).fewest_blocked
    for count, expected in ((fewest - 1, False), (fewest, True)):
        scores = np.where(np.arange(200) < count, null.min() - 1, null.max() + 1)
        assert blocked(found_in(scores, null, NONE)) is expected


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_power_is_that_of_the_whole_test_on_random_mixtures(share):
    rng = np.random.default_rng(0)
    null, synthetic = rng.random(60), rng.random(200)
    scores = rng.random(400) * np.where(rng.random(400) < 0.9, 0.1, 10) * np.quantile(null, 0.05)
    result = found_in(synthetic, null, NONE)
    caught = float((scores < result.threshold.value).mean())
    gate = copy_gate(200, len(result.flagged), level_of(60), CONFIG, BOOTSTRAP)
    every, blocks, either = [], [], []
    for _ in range(150):
        copies = rng.choice(scores, gate.copies(share))
        mixture = np.concatenate([copies, rng.choice(synthetic, 200 - len(copies), replace=False)])
        found = found_in(mixture, null, NONE)
        every.append(len(copies) == (found.flagged < len(copies)).sum())
        blocks.append(len(found.flagged) >= gate.fewest_blocked)
        either.append(every[-1] or blocks[-1])
    for found, exact in ((every, gate.every_copy_flagged), (blocks, gate.blocks), (either, gate.stopped)):
        assert np.mean(found) == pytest.approx(exact(share, caught), abs=0.12)


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
    canaries = SearchedCanaries(np.zeros(120, bool), ["none"] * 120, subjects)
    blind = canaries.share(0.95)
    assert (blind.value, blind.n) == (0, 30)
    assert blind.high == pytest.approx(0.116, abs=0.01)
    metrics = {metric.name: metric for metric in power_section(gate, canaries, 0.95).metrics}
    assert set(metrics) == {"power:0.01", "power:0.05", "power:0.2"}
    assert all(metric.value < 0.02 for metric in metrics.values())


def test_mixtures_are_shown_and_do_not_count_and_few_subjects_are_not_shown():
    names = ["none"] * 10 + ["flip"] * 4 + [MIXTURE] * 10
    canaries = SearchedCanaries(np.arange(24) < 14, names, [f"s{row}" for row in range(24)])
    assert canaries.share(0.95).value == 1
    _, table = power_section(CopyGate(200, 8, 19), canaries, 0.95).tables
    rows = {row[0]: row for row in table.rows}
    assert list(rows) == ["none", "flip", MIXTURE]
    assert rows["none"][1:3] == (10, 1.0)
    assert rows["flip"][1:] == (4, None, None, None, None)
    assert rows[MIXTURE][2] == 0


def test_table_and_curve_agree_at_1_percent():
    canaries = SearchedCanaries(np.arange(60) > 1, ["none"] * 60, [f"s{row}" for row in range(60)])
    section = power_section(CopyGate(200, 8, 19), canaries, 0.95)
    curve = {line.name: line for line in section.curves[0].lines}
    row = section.tables[0].rows[0]
    at = curve["stopped"].x.index(1.0)
    assert row[:2] == ("1%", 2)
    assert row[2:5] == tuple(curve[name].y[at] for name in ("every copy flagged", "gate blocks", "stopped"))
    assert curve["stopped"].low[at] <= row[4] <= curve["stopped"].high[at]


@pytest.mark.parametrize("null_size", [18, 60])
def test_chance_of_blocking_an_honest_cohort_is_that_of_random_ones(null_size):
    rng = np.random.default_rng(0)
    null = level_of(null_size)
    gate = copy_gate(200, 0, null, CONFIG, BOOTSTRAP)
    blocked_by_chance = [
        len(found_in(rng.random(200), rng.random(null_size), NONE).flagged) >= gate.fewest_blocked for _ in range(200)
    ]
    assert np.mean(blocked_by_chance) == pytest.approx(chance_of_blocking(gate, null), abs=0.1)


def test_holdout_that_is_called_enough_is_enough_and_less_is_not():
    for null, step in ((level_of(18), 20), (NullRank(5, 1, 0.5), 1)):
        needed = subjects_needed(null, 200, CONFIG, BOOTSTRAP)
        assert needed is not None
        for subjects, enough in ((needed, True), (needed - step, False)):
            one = level_of(subjects) if null.is_exact else NullRank(subjects, 1, 0.5)
            gate = copy_gate(200, 0, one, CONFIG, BOOTSTRAP)
            assert (chance_of_blocking(gate, one) <= 0.05) is enough


def test_the_negative_control_sees_a_validation_side_that_was_memorised():
    rng = np.random.default_rng(0)
    honest = NegativeControl(rng.random(60), rng.random(60), np.zeros(0), level_of(120))
    memorised = NegativeControl(rng.random(60), 0.01 * rng.random(60), np.zeros(0), level_of(120))
    assert measured_blocking(honest, 200, CONFIG, BOOTSTRAP).value < 0.35
    (table,) = control_section(memorised, 200, CONFIG, BOOTSTRAP).tables
    rows = {row[0]: row for row in table.rows}
    assert rows["validation"][2] > 0.8
    assert rows["validation"][3] > rows["validation"][5]


def test_the_negative_control_without_validation_uses_halves_and_says_how_many_subjects_are_needed():
    control = NegativeControl(np.random.default_rng(0).random(18), np.zeros(0), np.zeros(0), level_of(18))
    found = control_section(control, 200, CONFIG, BOOTSTRAP)
    assert found.metrics[0].low <= found.metrics[0].value <= found.metrics[0].high
    assert "About 159 would bring it to at most 0.05" in found.statements[0]
    assert "validation" not in {row[0] for row in found.tables[0].rows}
