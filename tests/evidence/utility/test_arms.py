"""Which volumes are trained on, and for how long."""

import pytest

from meddiff_core.evidence.utility.arms import choose_synthetic, design_trials, missing_volumes
from meddiff_core.study import AuditConfig, UtilityConfig


def config(preset="research", **settings):
    return AuditConfig(preset=preset, utility=UtilityConfig(**settings))


def test_full_design_has_half_just_and_twice_as_many_synthetic_volumes():
    design = design_trials(config(), 100, 1000)
    assert [(arm.real, arm.synthetic) for arm in design.arms] == [
        (100, 0), (0, 50), (0, 100), (0, 200), (100, 50), (100, 100), (100, 200),
    ]  # fmt: skip
    assert [arm.synthetic for arm in design.equal] == [100, 100]
    assert design.seeds == 3
    assert missing_volumes(design, config(), 1000) == []


def test_small_cohort_gives_all_it_has_and_says_so():
    design = design_trials(config(), 100, 60)
    assert [arm.name for arm in design.alone] == ["synthetic 0.5x", "synthetic 0.6x"]
    assert design.equal[0].synthetic == 60
    assert "too small for 200 synthetic" in missing_volumes(design, config(), 60)[0]


@pytest.mark.parametrize(("real", "steps"), [(10, 150), (108, 324), (5000, 600)])
def test_steps_follow_from_the_number_of_real_volumes(real, steps):
    assert design_trials(config(), real, 10).steps == steps
    assert design_trials(config("trial"), real, 10).steps == steps // 2
    assert design_trials(config(steps=7), real, 10).steps == 7


def test_trial_preset_is_quick_unless_told_otherwise():
    assert len(design_trials(config("trial"), 10, 100).arms) == 3
    assert len(design_trials(config("trial", effort="full"), 10, 100).arms) == 7


def test_larger_arm_holds_the_volumes_of_the_smaller_and_another_seed_others():
    half, whole, _ = design_trials(config(), 20, 100).alone
    assert choose_synthetic(whole, 100, 0)[:10] == choose_synthetic(half, 100, 0)
    assert len(set(choose_synthetic(whole, 100, 0))) == 20
    assert choose_synthetic(whole, 100, 0) != choose_synthetic(whole, 100, 1)
