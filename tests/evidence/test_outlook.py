"""What the sizes alone tell of the gates is what the audit computes once it has the volumes."""

from fnmatch import fnmatchcase

import numpy as np
import pytest

from meddiff_core.evidence.gates import apply_gates
from meddiff_core.evidence.intervals import Bootstrap, from_count
from meddiff_core.evidence.outlook import PLAIN, decidable_gates, describe_outlook, gates_left_out, metric_named
from meddiff_core.evidence.presets import PRESETS
from meddiff_core.evidence.privacy.copies import NullRank, excess_of
from meddiff_core.evidence.privacy.membership import area, auc_interval
from meddiff_core.evidence.privacy.negative_control import TOLERATED, NegativeControl, control_section
from meddiff_core.evidence.quality.neighbourhoods import neighbourhood_size, neighbourhoods
from meddiff_core.study import AuditConfig, GateConfig

AUDIT = AuditConfig()


def outlook(train: int = 60, holdout: int = 18, cohort: int = 32, audit: AuditConfig = AUDIT):
    found = decidable_gates({"train": train, "validation": 5, "holdout": holdout}, audit, cohort)
    return {one.metric: one for one in found}


def blocked(name, estimate, audit: AuditConfig = AUDIT):
    results = apply_gates([metric_named(name, estimate)], audit)
    return not next(gate.passed for gate in results if gate.metric == name)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_gate_of_a_preset_is_foreseen_or_named_as_left_out(preset: str) -> None:
    audit = AuditConfig(preset=preset)
    foreseen, left = outlook(audit=audit), gates_left_out(audit)
    assert all(gate.metric in foreseen or gate.metric.partition(":")[0] in left for gate in PRESETS[preset])
    assert not {name.partition(":")[0] for name in foreseen} & set(left)


def test_false_alarms_of_the_copy_gate_are_those_that_the_audit_reports() -> None:
    rng, bootstrap = np.random.default_rng(0), Bootstrap(AUDIT.repeats, AUDIT.confidence, 0)
    control = NegativeControl(rng.random(18), np.zeros(0), np.zeros(40), NullRank(18, 1, PLAIN))
    (statement,) = control_section(control, 200, AUDIT, bootstrap).statements
    expected = outlook(holdout=13, cohort=200)["copies_excess"]  # and 5 of validation
    assert f"with probability at most {expected.false_alarm:.2f}" in statement
    assert expected.needed is not None
    assert f"About {expected.needed + 5} would bring" in statement or expected.needed >= 18


def test_copies_beyond_the_limit_are_held_back_as_often_as_the_power_says() -> None:
    found = outlook(400, 90, 200)["copies_excess"]
    assert found.decidable
    assert found.false_alarm < 0.1
    assert found.power > 0.99
    assert blocked("copies_excess", excess_of(2 * 20, 200, NullRank(95, 1, PLAIN), Bootstrap(1, 0.95, 0)))


@pytest.mark.slow
def test_false_alarms_of_the_membership_gate_are_those_of_scores_that_tell_nothing() -> None:
    rng, members = np.random.default_rng(0), np.arange(36 + 18) < 36
    areas = [area(rng.random(54), members) for _ in range(200)]
    share = np.mean([blocked("membership_release_auc", auc_interval(auc, 36, 18, 0.95)) for auc in areas])
    assert outlook()["membership_release_auc"].false_alarm == pytest.approx(share, abs=0.05)


def test_false_alarms_of_the_rate_of_members_found_are_those_of_scores_that_tell_nothing() -> None:
    strict, rng = AuditConfig(preset="strict"), np.random.default_rng(0)
    scores = rng.random((1000, 54))
    found = (scores[:, :36] > scores[:, 36:].max(1, keepdims=True)).sum(1)
    held_back = {count: blocked("membership_tpr:denoiser", from_count(int(count), 36, 0.95), strict) for count in set(found)}  # fmt: skip  # noqa: E501
    share = np.mean([held_back[count] for count in found])
    assert outlook(audit=strict)["membership_tpr:*"].false_alarm == pytest.approx(share, abs=0.05)


@pytest.mark.slow
def test_the_mean_coverage_of_equal_distributions_is_the_one_that_is_counted_with() -> None:
    n, k = 18, neighbourhood_size(18)
    rng = np.random.default_rng(0)
    found = np.mean([neighbourhoods(rng.normal(size=(n, 3)), rng.normal(size=(n, 3)), k).coverage for _ in range(200)])
    assert found == pytest.approx(1 - np.prod([(n - i) / (2 * n - i) for i in range(1, k + 1)]), abs=0.02)


@pytest.mark.parametrize(("metric", "fewest", "sizes"), [("copy_power", 36, "train"), ("distinct_share", 17, "cohort")])
def test_a_gate_on_a_share_that_nothing_spoils_waits_for_so_many(metric: str, fewest: int, sizes: str) -> None:
    short, enough = outlook(**{sizes: fewest - 1})[metric], outlook(**{sizes: fewest})[metric]
    assert (short.decidable, short.false_alarm, short.needed) == (False, 1.0, fewest)
    assert (enough.decidable, enough.false_alarm, enough.needed) == (True, 0.0, None)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["research", "strict"])
def test_more_of_everybody_never_lowers_the_prospects_but_for_steps_of_counts(preset: str) -> None:
    audit = AuditConfig(preset=preset)
    small, large = outlook(40, 10, 20, audit), outlook(400, 100, 200, audit)
    for metric, one in large.items():
        assert one.false_alarm <= small[metric].false_alarm + 1e-9, metric
        assert one.decidable >= small[metric].decidable, metric


@pytest.mark.slow
def test_what_is_needed_does() -> None:
    found = outlook(40, 12, 12)
    needed = {one.metric: one for one in found.values() if one.needed is not None}
    assert {"membership_release_auc", "copies_excess", "distinct_share", "fidelity_r:*"} & needed.keys()
    for metric, one in needed.items():
        sizes = {"train": 40, "holdout": 12, "cohort": 12}
        sizes["cohort" if one.waits_for == "synthetic" else one.waits_for] = one.needed
        if one.waits_for == "holdout":
            sizes["train"] = round(40 * one.needed / 12)
        assert outlook(**sizes)[metric].false_alarm <= TOLERATED + 0.01


def test_own_gates_and_confidences_are_obeyed() -> None:
    lax = AuditConfig(gates=[GateConfig(metric="copy_power", min=0.5, confidence=0.6)])
    assert outlook(train=8)["copy_power"].false_alarm == 1
    assert outlook(train=8, audit=lax)["copy_power"].false_alarm == 0


def test_the_lines_name_what_cannot_be_decided_first_and_what_would_help() -> None:
    lines = describe_outlook(list(outlook(8, 8, 16).values()), gates_left_out(AUDIT))
    assert lines[0].startswith("copies_excess cannot decide: holds back 100% of good cohorts")
    assert any("36 training subjects would bring the former to 5%" in line for line in lines)
    assert lines[-1].startswith("sizes alone do not tell of the gates on covariates_risk")
    assert not any(fnmatchcase(line, "*nan*") for line in lines)


def test_no_preset_gates_a_share_that_copies_cannot_move_to_its_limit() -> None:
    """With 101 training and 22 held-out subjects pure copies reach 0.61 of `closer_share`, whose interval is wide."""
    gated = {gate.metric.partition(":")[0] for gates in PRESETS.values() for gate in gates}
    assert not gated & {"closer_share", "closer_to_train"}
    assert {"copies_excess", "copy_power", "membership_release_auc"} <= gated
