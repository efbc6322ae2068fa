"""The whole audit on small cohorts with known faults."""

import numpy as np
import pytest
from torch.nn import functional

from meddiff_core.errors import DataRefused
from meddiff_core.evidence.audit import Audit, InternalFindings, measured_by, run_audit, with_gates
from meddiff_core.evidence.features.latents import LatentFeatures
from meddiff_core.evidence.features.random_conv import RandomConvFeatures
from meddiff_core.evidence.inputs import ScreenSummary
from meddiff_core.evidence.measurements import measure
from meddiff_core.evidence.privacy.canaries import Canaries
from meddiff_core.study import AuditConfig, GateConfig, UtilityConfig, WaiverConfig

CONFIG = AuditConfig(repeats=20, utility=UtilityConfig(effort="none"))


@pytest.fixture(scope="module")
def heads_audit(audit_of, contract):
    """(train, holdout, cohort) to an audit by two extractors, in which every volume has the core that it was asked."""

    def make(train, holdout, accepted):
        measured = [measure(accepted.image(i), accepted.label(i), contract) for i in range(len(accepted))]
        extractors = [
            RandomConvFeatures(contract, width=4),
            LatentFeatures(lambda images: functional.avg_pool3d(images, 3), "0", contract),
        ]
        requested = [{"core_volume": one["volume_mm3:core"] * 1.1} for one in measured]
        screen = ScreenSummary(candidates=40, accepted=len(accepted), rejections=())
        facts = {"measured": measured, "requested": requested, "extractors": extractors, "screen": screen}
        return audit_of({"train": train, "holdout": holdout}, accepted, config=CONFIG, **facts)

    return make


@pytest.fixture(scope="module")
def fresh(make_heads, heads_audit, finish):
    case = heads_audit(make_heads(40, 0), make_heads(16, 1), make_heads(30, 2))
    return case, *finish(run_audit(case))


def test_gates_and_waivers_change_without_measuring_anew(fresh):
    case, audit, _ = fresh
    waiver = WaiverConfig(metric="distinct_share", name="A. Person", reason="a test")
    gate = GateConfig(metric="distinct_share", min=2.0)
    changed = AuditConfig(**(case.config.model_dump() | {"gates": [gate], "waivers": [waiver]}))
    assert measured_by(changed) == measured_by(case.config)
    changed_audit = with_gates(audit, changed)
    found = next(result for result in changed_audit.gates if result.metric == "distinct_share")
    assert (found.verdict, found.waiver) == ("block", waiver)
    assert with_gates(changed_audit, case.config) == audit


@pytest.mark.parametrize(
    "change",
    [{"repeats": 21}, {"preset": "trial"}, {"gates": [GateConfig(metric="copies_excess", max=0.2)]}],
)
def test_settings_that_decide_what_is_measured_are_told(fresh, change):
    config = fresh[0].config
    assert measured_by(AuditConfig(**(config.model_dump() | change))) != measured_by(config)


def test_writing_down_the_effort_in_force_measures_nothing_anew():
    written = AuditConfig(utility=UtilityConfig(effort="full"))
    assert measured_by(written) == measured_by(AuditConfig())
    assert measured_by(AuditConfig(utility=UtilityConfig(effort="quick"))) != measured_by(written)


def by_name(audit):
    return {metric.name: metric for metric in audit.metrics}


def test_fresh_draws_pass_what_does_not_need_many_volumes(fresh):
    _, audit, _ = fresh
    passed = {gate.metric for gate in audit.gates if gate.passed}
    assert {"ms_ssim_gap", "fidelity_r:core_volume", "frechet_ratio:latents", "accepted_share"} <= passed
    metrics = by_name(audit)
    assert metrics["copies_excess"].low <= 0
    assert metrics["fidelity_r:core_volume"].value == pytest.approx(1)
    assert metrics["copy_power"].value > 0.9
    assert metrics["distinct_share"].value > 0.8
    assert metrics["closer_to_train:voxels"].low < 0.5


def test_same_input_gives_the_same_bytes_and_json_comes_back(fresh, finish):
    case, audit, findings = fresh
    again, findings_again = finish(run_audit(case))
    assert again.model_dump_json() == audit.model_dump_json()
    assert findings_again.model_dump_json() == findings.model_dump_json()
    assert Audit.model_validate_json(audit.model_dump_json()) == audit
    assert InternalFindings.model_validate_json(findings.model_dump_json()) == findings


def test_copycat_is_blocked_and_each_copy_is_named(make_heads, heads_audit, contract, finish):
    train, heads = make_heads(40, 0), make_heads(24, 2)
    canaries = Canaries(train, tuple(range(14)), contract, 1)
    images = np.concatenate([heads.images[:16], np.stack([canaries.image(i) for i in range(14)])])
    labels = np.concatenate([heads.labels[:16], np.stack([canaries.label(i) for i in range(14)])])
    case = heads_audit(train, make_heads(16, 1), type(heads)(images, labels))
    audit, findings = finish(run_audit(case))
    gates = {gate.metric: gate for gate in audit.gates}
    assert not gates["copies_excess"].passed
    named = {one.sample_id: one.train_row for one in findings.suspected}
    assert {f"syn-{16 + i:03}" for i in range(14)} <= set(audit.flagged)
    assert all(named[f"syn-{16 + i:03}"] == i for i in range(14))


def test_mode_collapse_is_blocked_and_blur_is_seen(make_heads, heads_audit, finish):
    train, holdout, few = make_heads(40, 0), make_heads(16, 1), make_heads(2, 2)
    smooth = (few.images // 2 + np.roll(few.images, 1, 1) // 4 + np.roll(few.images, 1, 2) // 4).astype(np.uint8)
    collapsed = type(few)(smooth, few.labels).take(np.arange(30) % 2)
    audit, _ = finish(run_audit(heads_audit(train, holdout, collapsed)))
    blocked = {gate.metric for gate in audit.gates if not gate.passed}
    assert {"distinct_share", "recall:random-conv", "ms_ssim_gap"} <= blocked
    assert by_name(audit)["effect:sharpness"].low > 1


def test_audit_carries_no_row_of_the_training_set(fresh):
    _, audit, _ = fresh
    text = audit.model_dump_json()
    assert "train_row" not in text
    assert len(audit.histograms) == 3
    for found in audit.histograms:
        assert len(found.edges) <= 20


def test_too_small_a_holdout_is_refused_with_the_number_needed(make_heads, heads_audit, finish):
    case = heads_audit(make_heads(10, 0), make_heads(7, 1), make_heads(10, 2))
    with pytest.raises(DataRefused, match="at least 8 holdout volumes, has 7"):
        finish(run_audit(case))


def test_smallest_allowed_sets_without_labels_are_defined(make_heads, audit_of, contract, finish):
    bare = contract.model_copy(update={"labels": {}, "conditions": ()})
    sets = [type(heads)(heads.images) for heads in (make_heads(8, 0), make_heads(8, 1), make_heads(8, 2))]
    measured = [measure(sets[2].image(i), None, bare) for i in range(8)]
    facts = {"contract": bare, "measured": measured, "extractors": [RandomConvFeatures(bare, width=4)]}
    case = audit_of({"train": sets[0], "holdout": sets[1]}, sets[2], config=CONFIG, **facts)
    audit, _ = finish(run_audit(case))
    assert not any(gate.metric.startswith("fidelity") for gate in audit.gates)
    assert audit.sizes == {"train": 8, "holdout": 8, "synthetic": 8}
