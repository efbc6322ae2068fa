"""Attacks on the table of conditions: copied rows are a leak, likeness to people in general is none."""

import numpy as np
import pytest

from meddiff_core.contract import CategoricalCondition, ContinuousCondition
from meddiff_core.evidence.intervals import Bootstrap, Estimate
from meddiff_core.evidence.privacy.covariates import (
    Tables,
    covariate_attacks,
    encode_table,
    exact_rows,
    gower,
    inference,
    linkability,
    singling_out,
    surplus,
    wilson,
)

SPECS = (
    ContinuousCondition(name="age", low=20, high=80, mean=50, std=15),
    CategoricalCondition(name="sex", categories=("F", "M")),
    ContinuousCondition(name="volume", low=5e3, high=5e4, mean=2e4, std=8e3),
    ContinuousCondition(name="score", low=0, high=30, mean=15, std=5),
)
BOOTSTRAP = Bootstrap(50, 0.95, 0)
ATTACKS = (singling_out, linkability, inference)


def people(n, seed):
    """Age drives volume, sex shifts it, the score is anything."""
    rng = np.random.default_rng(seed)
    age, sex = rng.uniform(20, 80, n), rng.integers(2, size=n)
    volume = np.clip(8e3 + 300 * (age - 20) + 4e3 * sex + 3e3 * rng.standard_normal(n), 5e3, 5e4)
    score = rng.uniform(0, 30, n)
    return [
        {"age": float(a), "sex": "FM"[s], "volume": float(v), "score": float(w)}
        for a, s, v, w in zip(age, sex, volume, score, strict=True)
    ]


def tables(train, holdout, synthetic):
    return Tables(*(encode_table(rows, SPECS) for rows in (train, holdout, synthetic)), SPECS)


@pytest.mark.parametrize("attack", ATTACKS)
def test_fresh_table_has_no_risk_that_chance_does_not_explain(attack):
    leaks = [attack(tables(people(100, 3 * s), people(40, 3 * s + 1), people(150, 3 * s + 2)), BOOTSTRAP)[-1].leak
             for s in range(12)]  # fmt: skip
    assert sum(leak.low <= 0 <= leak.high for leak in leaks) >= 10
    assert abs(np.mean([leak.value for leak in leaks])) < 0.1


@pytest.mark.parametrize("attack", ATTACKS)
def test_copied_rows_are_a_risk_and_more_of_them_a_larger_one(attack):
    train, holdout, fresh = people(100, 0), people(60, 1), people(150, 2)
    some, all_of_it = (attack(tables(train, holdout, [*train[:n], *fresh[n:]]), BOOTSTRAP)[-1].leak for n in (45, 100))
    assert some.value > 0.05
    assert all_of_it.low > 0
    assert all_of_it.value > some.value


def test_copies_are_linked_and_guessed_as_often_as_they_are():
    train, holdout, fresh = people(200, 0), people(60, 1), people(150, 2)
    case = tables(train, holdout, [*train[:60], *fresh])
    linked = linkability(case, BOOTSTRAP)[0]
    assert linked.main.value == pytest.approx(0.3, abs=0.05)
    assert linked.control.value < 0.1
    assert linked.leak.low > 0.1
    secrets = {risk.attack: risk for risk in inference(case, BOOTSTRAP)}
    assert secrets["inference of score"].leak.low > 0.1
    assert secrets["inference of score"].baseline == pytest.approx(0.1, abs=0.03)


def test_singling_out_does_not_depend_on_the_size_of_the_holdout():
    train, synthetic = people(150, 0), people(150, 2)
    values = [singling_out(tables(train, people(n, 1), synthetic), BOOTSTRAP)[-1].leak.value for n in (150, 300, 75)]
    assert max(map(abs, values)) < 0.25


def test_missing_values_and_unknown_columns_are_attacked_like_any_other():
    train, holdout, synthetic = people(40, 0), people(20, 1), people(30, 2)
    for row in (*train[::3], *holdout[::2], *synthetic[::4]):
        row["age"] = None
    for rows in (train, holdout, synthetic):
        for row in rows:
            row["score"] = None
    for attack in ATTACKS:
        for risk in attack(tables(train, holdout, synthetic), BOOTSTRAP):
            figures = [*vars(risk.leak).values(), risk.main.value, risk.control.value, risk.baseline]
            assert np.isfinite(figures).all(), risk
            assert risk.attack != "inference of score"


def test_gower_is_the_mean_over_columns_that_both_rows_know():
    nan = np.nan
    query, reference = np.array([[0.0, 1.0], [nan, 0.0]]), np.array([[5.0, 1.0], [2.0, nan]])
    found = gower(query, reference, np.array([10.0, 0.0]))
    np.testing.assert_allclose(found, [[0.25, 0.2], [1.0, 1.0]])


def test_surplus_is_the_share_that_training_alone_gives_away():
    assert surplus(wilson(0.6, 100, 0.95), wilson(0.2, 100, 0.95)).value == pytest.approx(0.5)
    none = surplus(wilson(0.3, 100, 0.95), wilson(0.3, 18, 0.95))
    assert none.low < 0 < none.high
    assert none.high - none.low > 0.3
    everyone = surplus(Estimate(1, 0.9, 1, 50), Estimate(1, 0.9, 1, 50))
    assert (everyone.low, everyone.high) == (-1, 1)  # nothing is left to be given away, nothing can be said


def test_wilson_interval_is_that_of_scipy():
    from scipy.stats import binomtest

    found, known = wilson(0.3, 40, 0.9), binomtest(12, 40).proportion_ci(0.9, "wilson")
    assert (found.low, found.high) == pytest.approx((known.low, known.high))


def test_exact_training_rows_are_counted_to_the_stored_precision():
    train = people(20, 0)
    rounded = [{**row, "age": float(f"{row['age']:.4g}"), "volume": float(f"{row['volume']:.4g}"),
                "score": float(f"{row['score']:.4g}")} for row in train[:3]]  # fmt: skip
    assert exact_rows([*people(30, 1), *rounded, {**train[5], "sex": None}], train, SPECS) == 4
    assert exact_rows(people(200, 2), train, SPECS) == 0


def test_a_single_number_or_categories_alone_are_no_row_of_a_person():
    one_number = SPECS[:2]
    train = [{"age": 63.0, "sex": "F"}, {"age": None, "sex": "M"}]
    assert exact_rows([{"age": 63.0, "sex": "M"}, {"age": None, "sex": "M"}], train, one_number) == 0
    assert exact_rows([{"age": 63.0, "sex": "F"}], train, one_number) == 1


@pytest.fixture
def attack(audit_of, contract, finish):
    """(train, holdout, requested) tables to the section."""

    def run(train, holdout, requested, specs=SPECS, **visits):
        table, bare = {"train": train, "holdout": holdout}, contract.model_copy(update={"conditions": specs})
        audit = audit_of({}, table=table, contract=bare, requested=requested, **visits)
        return finish(covariate_attacks(audit, BOOTSTRAP))

    return run


def test_part_gives_every_metric_with_its_interval(attack):
    train = people(60, 0)
    section = attack(train, people(30, 1), [*train[:2], *people(50, 2)])
    metrics = {metric.name: metric for metric in section.metrics}
    assert set(metrics) == {"exact_rows", *(f"covariates_risk:{one.__name__}" for one in ATTACKS)}
    assert metrics["exact_rows"].value == metrics["exact_rows"].high == 2
    assert all(metric.low <= metric.value <= metric.high for metric in section.metrics)


def test_a_subject_with_two_rows_counts_once(attack):
    train, holdout, requested = people(30, 0), people(30, 1), people(50, 2)
    once = attack(train, holdout, requested)
    twice = attack(train * 2, holdout * 2, requested, subject=lambda row: row % 30)
    assert once.tables == twice.tables


def test_without_conditions_or_with_one_the_part_says_so(attack):
    nothing = attack([{}] * 9, [{}] * 9, [{}] * 9, specs=())
    assert not nothing.metrics
    assert "without conditions" in nothing.statements[0]
    sexes = [{"sex": "F"}, {"sex": "M"}, {"sex": None}] * 4
    alone = attack(sexes, sexes, sexes, specs=SPECS[1:2])
    assert [metric.name for metric in alone.metrics] == ["covariates_risk:singling_out"]
    assert alone.metrics[0].value == 0
    assert len(alone.statements) == 2


def test_conditions_that_nobody_knows_give_no_risk(attack):
    section = attack([{}] * 9, [{}] * 9, people(12, 0))
    metrics = {metric.name: metric.value for metric in section.metrics}
    assert metrics["covariates_risk:singling_out"] == 0
    assert "covariates_risk:inference" not in metrics
