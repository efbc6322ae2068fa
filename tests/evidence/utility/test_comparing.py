"""What is said of a gain, of a loss, and of neither."""

import numpy as np
import pytest

from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.utility.arms import design_trials
from meddiff_core.evidence.utility.comparing import Task, compare_arms
from meddiff_core.evidence.utility.resampling import Outcome
from meddiff_core.study import AuditConfig, UtilityConfig

DESIGN = design_trials(AuditConfig(utility=UtilityConfig(effort="quick", seeds=2)), 10, 10)
DICE = Task("segmentation", "segmentation", "mean Dice", True, 0.3, " at equal steps")
ERROR = Task("age", "prediction of age", "mean absolute error", False, 20.0)


def compared(task, real, alone, added, spread=0.01):
    noise = spread * np.random.default_rng(0).standard_normal(200)
    values = {DESIGN.real: (real, 0), DESIGN.alone[0]: (alone, noise), DESIGN.added[0]: (added, noise)}
    outcomes = {arm: Outcome(value, value + 0 * noise + by, 12) for arm, (value, by) in values.items()}
    return compare_arms(task, outcomes, DESIGN, Bootstrap(200, 0.95, 0))


@pytest.mark.parametrize(
    ("added", "verdict"), [(0.9, "improved"), (0.7, "worsened"), (0.801, "did not improve"), (0.799, "did not improve")]
)
def test_adding_improves_only_where_the_whole_interval_says_so(added, verdict):
    section = compared(DICE, 0.8, 0.8, added)
    assert f"real ones {verdict} segmentation" in section.statements[1]


def test_lower_error_counts_as_better():
    section = compared(ERROR, 8.0, 10.0, 6.0)
    ratio, gain = (metric.value for metric in section.metrics[1:])
    assert (ratio, gain) == (pytest.approx(0.8), pytest.approx(2.0))
    assert "fall short of real ones" in section.statements[0]
    assert "improved prediction of age" in section.statements[1]


def test_task_that_real_volumes_do_not_teach_is_no_evidence():
    assert any("says nothing of the synthetic volumes" in said for said in compared(DICE, 0.25, 0.25, 0.25).statements)
    assert any("says nothing of the synthetic volumes" in said for said in compared(ERROR, 21.0, 21.0, 21.0).statements)
    assert len(compared(DICE, 0.8, 0.8, 0.8).statements) == 2
