"""Gates look at the bound that hurts."""

import pytest

from meddiff_core.evidence.gates import PRESETS, Metric, apply_gates
from meddiff_core.study import AuditConfig, GateConfig


def metric(name, value, low, high):
    return Metric(
        name=name, value=value, low=low, high=high, n=50, direction="lower is better", explanation="A figure."
    )


def all_metrics():
    good = {"copy_power": 1.0, "accepted_share": 0.9, "distinct_share": 1.0, "recall:x": 0.9, "frechet_ratio:x": 1.0}
    rest = {"copies_excess": 0.0, "closer_to_train:voxels": 0.5, "ms_ssim_gap": 0.0}
    return [metric(name, value, value, value) for name, value in {**good, **rest}.items()]


def only(metrics, *gates):
    results = {result.metric: result for result in apply_gates(metrics, AuditConfig(gates=list(gates)))}
    return results[gates[0].metric]


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_faultless_cohort_passes_each_preset(preset):
    results = apply_gates(all_metrics(), AuditConfig(preset=preset))
    assert results
    assert all(result.passed and result.verdict == "pass" for result in results)


def test_good_value_with_a_wide_interval_is_blocked():
    result = only([metric("m", 0.05, 0.0, 0.2)], GateConfig(metric="m", max=0.1))
    assert not result.passed
    assert result.verdict == "block"
    assert (result.value, result.bound, result.threshold, result.direction) == (0.05, 0.2, 0.1, "max")
    assert "0.2" in result.message
    assert not only([metric("m", 0.95, 0.85, 1.0)], GateConfig(metric="m", min=0.9)).passed
    assert only([metric("m", 0.95, 0.92, 1.0)], GateConfig(metric="m", min=0.9)).passed


def test_bound_on_the_threshold_passes():
    assert only([metric("m", 0.1, 0.0, 0.1)], GateConfig(metric="m", max=0.1)).passed


@pytest.mark.parametrize("gate", [GateConfig(metric="nobody", max=1), GateConfig(metric="fidelity_r:*", min=0.1)])
def test_a_gate_of_the_user_without_its_metric_fails_and_says_why(gate):
    result = only(all_metrics(), gate)
    assert not result.passed
    assert result.value is None
    assert "not measured" in result.message


def test_a_preset_gate_fails_without_its_metric_unless_the_study_cannot_have_it():
    missing = [one for one in all_metrics() if one.name not in ("copies_excess", "frechet_ratio:x")]
    failed = {result.metric for result in apply_gates(missing, AuditConfig()) if not result.passed}
    assert failed == {"copies_excess", "frechet_ratio:*"}
    names = {result.metric for result in apply_gates(all_metrics(), AuditConfig())}
    assert not any(name.startswith("fidelity_r") for name in names)


def test_a_gate_for_many_stands_for_each_and_a_named_one_replaces_it():
    metrics = [*all_metrics(), metric("fidelity_r:a", 0.5, 0.4, 0.6), metric("fidelity_r:b", 0.5, 0.4, 0.6)]
    results = {r.metric: r for r in apply_gates(metrics, AuditConfig())}
    assert results["fidelity_r:a"].passed
    assert results["fidelity_r:b"].passed
    own = AuditConfig(gates=[GateConfig(metric="fidelity_r:b", min=0.45), GateConfig(metric="copies_excess", max=0.5)])
    results = {r.metric: r for r in apply_gates(metrics, own)}
    assert results["fidelity_r:a"].passed
    assert not results["fidelity_r:b"].passed
    assert results["copies_excess"].threshold == 0.5
    assert len(results) == len(apply_gates(metrics, own))
