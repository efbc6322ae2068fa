"""Gates look at the bound that hurts."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from meddiff_core.errors import ConfigurationError
from meddiff_core.evidence.gates import apply_gates, unused_waivers
from meddiff_core.evidence.metrics import Metric, MetricSpec
from meddiff_core.evidence.presets import PRESETS
from meddiff_core.evidence.registry import METRICS, check_gates, spec_of
from meddiff_core.study import AuditConfig, GateConfig, WaiverConfig
from meddiff_core.workspace import Workspace

SIZES = {"train": 108, "holdout": 18, "synthetic": 200}


def metric(name, value, low, high):
    family, _, detail = name.partition(":")
    declared = MetricSpec(name=family, part="quality", better="lower", detail="detail" if detail else "")
    spec = (spec_of(name) or declared).model_copy(update={"reference": ""})
    detail = detail if spec.detail else ""
    return Metric(spec=spec, detail=detail, value=value, low=low, high=high, n=50, explanation="A figure.")


def all_metrics():
    good = {"copy_power": 1.0, "accepted_share": 0.9, "distinct_share": 1.0}
    rest = {"copies_excess": 0.0, "ms_ssim_gap": 0.0}
    faults = {"effect:sharpness": 0.1, "effect:noise": 0.0}
    memory = {
        "membership_release_auc": 0.5,
        "membership_auc:x": 0.5,
        "membership_tpr:x": 0.01,
    }
    distances = {"recall": 0.9, "coverage": 0.9, "frechet_ratio": 1.0}
    views = {f"{name}:{view}": value for name, value in distances.items() for view in ("random-conv", "latents")}
    known = {**good, **rest, **faults, **memory, **views}
    return [metric(name, value, value, value) for name, value in known.items()]


def only(metrics, *gates):
    results = {result.metric: result for result in apply_gates(metrics, AuditConfig(gates=list(gates)))}
    return results[gates[0].metric]


def test_softness_in_texture_alone_is_shown_by_research_and_refused_by_strict():
    soft = [*all_metrics(), metric("frechet_ratio:radiomics", 17.0, 8.0, 47.0)]
    verdicts = {
        name: {one.metric: one.verdict for one in apply_gates(soft, AuditConfig(preset=name))} for name in PRESETS
    }
    assert verdicts["strict"]["frechet_ratio:radiomics"] == "block"
    assert "frechet_ratio:radiomics" not in verdicts["research"]


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_faultless_cohort_passes_each_preset(preset):
    results = apply_gates(all_metrics(), AuditConfig(preset=preset))
    assert results
    assert all(result.passed and result.verdict == "pass" for result in results)


def test_good_value_with_a_wide_interval_is_put_into_quarantine():
    result = only([metric("m", 0.05, 0.0, 0.2)], GateConfig(metric="m", max=0.1))
    assert not result.passed
    assert result.verdict == "quarantine"
    assert (result.value, result.bound, result.threshold, result.direction) == (0.05, 0.2, 0.1, "max")
    assert "0.2" in result.message
    assert not only([metric("m", 0.95, 0.85, 1.0)], GateConfig(metric="m", min=0.9)).passed
    assert only([metric("m", 0.95, 0.92, 1.0)], GateConfig(metric="m", min=0.9)).passed


def test_bound_on_the_threshold_passes():
    assert only([metric("m", 0.1, 0.0, 0.1)], GateConfig(metric="m", max=0.1)).passed


@pytest.mark.parametrize(
    ("gate", "why"),
    [
        (GateConfig(metric="nobody", max=1), "no metric is called so"),
        (GateConfig(metric="fidelity_r:*", min=0.1), f"it requires {spec_of('fidelity_r:*').requires}"),
        (GateConfig(metric="pair_agreement", min=0.1), "label maps (data.labels)"),
        (GateConfig(metric="recall:radiomics", min=0.1), "measured were recall:random-conv, recall:latents"),
    ],
)
def test_a_gate_of_the_user_without_its_metric_fails_and_says_why(gate, why):
    result = only(all_metrics(), gate)
    assert not result.passed
    assert result.value is None
    assert result.message.startswith(f"{gate.metric}: was not measured: ")
    assert why in result.message


def test_every_metric_that_needs_labels_conditions_or_tasks_says_so():
    optional = ("anatomy", "fidelity", "utility")
    assert [spec.name for spec in METRICS if spec.part in optional and not spec.requires] == []


def test_a_preset_gate_fails_without_its_metric_unless_the_study_cannot_have_it():
    missing = [one for one in all_metrics() if one.name not in ("copies_excess", "frechet_ratio:latents")]
    failed = {result.metric for result in apply_gates(missing, AuditConfig()) if not result.passed}
    assert failed == {"copies_excess", "frechet_ratio:latents"}
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


@pytest.mark.parametrize(("value", "low", "high"), [(0.3, 0.2, 0.4), (0.15, 0.05, 0.4), (np.nan, np.nan, np.nan)])
def test_a_value_that_fails_blocks_however_wide_its_interval(value, low, high):
    result = only([metric("m", value, low, high)], GateConfig(metric="m", max=0.1))
    assert result.verdict == "block"
    assert result.holds_back
    assert result.advice is None


def needed(metrics, gate):
    """(how many, of which set) the advice asks for."""
    (result,) = (one for one in apply_gates(metrics, AuditConfig(gates=[gate]), SIZES) if one.metric == gate.metric)
    assert result.advice.text in result.message
    assert str(result.advice.needed) in result.advice.text
    return result.verdict, result.advice.needed, result.advice.volumes, result.advice.available


def test_quarantine_says_how_many_volumes_of_which_set_are_needed():
    gate = GateConfig(metric="recall:a", min=0.5)
    assert needed([metric("recall:a", 0.6, 0.4, 0.8)], gate) == ("quarantine", 72, "holdout", 18)  # half the width
    gate = GateConfig(metric="fidelity_r:age", min=0.3)
    assert needed([metric("fidelity_r:age", 0.4, 0.2, 0.6)], gate) == ("quarantine", 800, "synthetic", 200)
    gate = GateConfig(metric="accepted_share", min=0.5)
    assert needed([metric("accepted_share", 0.6, 0.45, 0.7)], gate) == ("quarantine", 120, "generated", 50)


def test_so_many_volumes_do_decide():
    rng = np.random.default_rng(0)

    def mean_of(n):
        values = rng.normal(1, 3, (2000, n)).mean(1)
        low, high = np.quantile(values, [0.025, 0.975])
        return metric("fidelity_r:m", 1.0, low, high).model_copy(update={"n": n})

    gate = GateConfig(metric="fidelity_r:m", min=0.8)
    verdict, number, _, _ = needed([mean_of(200)], gate)
    assert verdict == "quarantine"
    assert only([mean_of(int(1.4 * number))], gate).passed
    assert not only([mean_of(int(0.7 * number))], gate).passed


def test_no_number_is_named_for_a_value_on_the_threshold():
    result = only([metric("m", 0.1, 0.0, 0.2)], GateConfig(metric="m", max=0.1))
    assert result.verdict == "quarantine"
    assert result.advice.needed is None
    assert "hardly any number" in result.message


def test_a_lower_confidence_of_a_gate_is_that_of_a_normal_interval():
    normal = {c: stats.norm.interval(c, 0.5, 0.1) for c in (0.95, 0.8)}
    found = metric("m", 0.5, *normal[0.95])
    for limit, passed in ((normal[0.8][1] + 1e-4, True), (normal[0.8][1] - 1e-4, False)):
        result = only([found], GateConfig(metric="m", max=limit, confidence=0.8))
        assert result.passed == passed
        assert result.confidence == 0.8
        assert result.bound == pytest.approx(normal[0.8][1], rel=1e-5)
    assert only([found], GateConfig(metric="m", max=1)).bound == normal[0.95][1]


def test_a_confidence_beyond_that_of_the_intervals_is_refused():
    with pytest.raises(ValidationError, match=r"at most audit.confidence, 0.95.*is 0.99"):
        AuditConfig(gates=[GateConfig(metric="m", max=1, confidence=0.99)])
    AuditConfig(gates=[GateConfig(metric="m", max=1, confidence=0.99)], confidence=0.99)


def waiver(name="ms_ssim_gap"):
    return WaiverConfig(metric=name, name="A. Person", reason="The cohort is for teaching.")


def gap(high):
    return [*[one for one in all_metrics() if one.name != "ms_ssim_gap"], metric("ms_ssim_gap", high, 0.0, high)]


def test_a_waived_gate_fails_openly_and_lets_the_cohort_go():
    audit = AuditConfig(waivers=[waiver()])
    results = {result.metric: result for result in apply_gates(gap(0.4), audit)}
    waived = results["ms_ssim_gap"]
    assert (waived.passed, waived.verdict, waived.holds_back) == (False, "block", False)
    assert waived.waiver == waiver()
    assert waived.missed_by == pytest.approx(0.3)
    assert [one.metric for one in results.values() if one.waiver is not None] == ["ms_ssim_gap"]
    assert unused_waivers(tuple(results.values()), audit) == []


def test_a_waiver_that_was_not_needed_is_told():
    audit = AuditConfig(waivers=[waiver(), waiver("recal:x")])
    results = apply_gates(gap(0.0), audit)
    assert all(result.waiver is None for result in results)
    passed, unknown = unused_waivers(results, audit)
    assert "A. Person for the gate ms_ssim_gap was not used: it passed" in passed
    assert "recal:x was not used: there is none" in unknown


@pytest.mark.parametrize("change", [{"name": "  "}, {"reason": ""}, {"metric": ""}])
def test_a_waiver_has_a_name_and_a_reason(change):
    with pytest.raises(ValidationError):
        WaiverConfig(**(waiver().model_dump() | change))


@pytest.mark.parametrize(
    ("preset", "name", "refused"),
    [
        ("strict", "copies_excess", True),
        ("strict", "membership_release_auc", True),
        ("strict", "recall:latents", False),
        ("research", "copies_excess", False),
        ("research", "copy_power", True),
        ("trial", "copy_power", True),
    ],
)
def test_privacy_gates_of_strict_and_the_proof_of_power_are_never_waived(preset, name, refused):
    audit = AuditConfig(preset=preset, waivers=[waiver(name)])
    if not refused:
        check_gates(audit)
        return
    with pytest.raises(ConfigurationError, match=f"audit.waivers: must not name {name}: .* cannot be waived"):
        check_gates(audit)


def test_a_gate_is_waived_once():
    with pytest.raises(ValidationError, match="once"):
        AuditConfig(waivers=[waiver(), waiver()])


def test_a_gate_that_the_study_loosened_keeps_the_threshold_of_the_preset():
    results = {
        result.metric: result
        for result in apply_gates(all_metrics(), AuditConfig(gates=[GateConfig(metric="recall:latents", min=0.01)]))
    }
    assert results["recall:latents"].preset_threshold == 0.2
    assert results["copies_excess"].preset_threshold is None


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("copies_exces", "did you mean copies_excess?"),
        ("recal:latents", "did you mean recall?"),
        ("recall", "it needs the feature space, or `recall:*` for every one"),
        ("ms_ssim_gap:*", "did you mean ms_ssim_gap?"),
    ],
)
def test_a_gate_or_waiver_that_names_no_metric_is_refused_with_what_was_meant(name, advice):
    for audit in (AuditConfig(gates=[GateConfig(metric=name, max=1)]), AuditConfig(waivers=[waiver(name)])):
        key = "gates" if audit.gates else "waivers"
        with pytest.raises(ConfigurationError) as caught:
            check_gates(audit)
        assert str(caught.value) == f"audit.{key}: no metric is called {name}; {advice}"


def test_a_study_with_such_a_gate_is_refused_when_it_is_opened(tmp_path):
    text = "name: heads\ndata: {images: scans}\naudit: {gates: [{metric: copies_exces, max: 1}]}\n"
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match="no metric is called copies_exces"):
        Workspace.open(tmp_path)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_the_gates_of_every_preset_may_be_written_into_a_study(preset):
    check_gates(AuditConfig(gates=list(PRESETS[preset])))


@pytest.mark.parametrize("preset", ["research", "strict"])
@pytest.mark.parametrize("shift", [-6.5, 6.5])
def test_a_cohort_that_is_too_smooth_fails_as_one_that_is_too_noisy_does(preset, shift):
    others = [one for one in all_metrics() if one.name != "effect:noise"]
    shifted = metric("effect:noise", abs(shift), abs(shift) - 0.5, abs(shift) + 0.5)
    signed = metric("effect:excess_noise", shift, shift - 0.5, shift + 0.5)
    results = apply_gates([*others, shifted, signed], AuditConfig(preset=preset))
    assert [result.metric for result in results if not result.passed] == ["effect:noise"]
