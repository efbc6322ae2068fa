"""Every metric of an audit is declared, shown by a part and open to gates; nothing is declared that no audit has."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch.nn import functional

from meddiff_core.contract import CategoricalCondition, ContinuousCondition
from meddiff_core.evidence.audit import Audit, run_audit
from meddiff_core.evidence.features.latents import LatentFeatures
from meddiff_core.evidence.features.random_conv import RandomConvFeatures
from meddiff_core.evidence.gates import apply_gates
from meddiff_core.evidence.inputs import FirstAttempts, Round
from meddiff_core.evidence.intervals import Estimate
from meddiff_core.evidence.measurements import measure
from meddiff_core.evidence.metrics import Metric, MetricSpec, metric_of
from meddiff_core.evidence.presets import PRESETS
from meddiff_core.evidence.registry import METRICS, spec_of
from meddiff_core.release.evidence import GOOD, READING, part_views
from meddiff_core.study import AuditConfig, UtilityConfig


@pytest.fixture(scope="module")
def audit(
    make_heads: Callable, contract: Any, audit_of: Callable, save_models: Callable, finish: Callable,
    tmp_path_factory: pytest.TempPathFactory,
) -> Audit:  # fmt: skip
    """An audit of everything that there is: labels, conditions of each kind, models, first attempts and rounds."""
    specs = (
        *contract.conditions,
        ContinuousCondition(name="age", low=20, high=80, mean=50, std=17),
        CategoricalCondition(name="sex", categories=("F", "M")),
    )
    contract = contract.model_copy(update={"conditions": specs})
    sides = {"train": make_heads(24, 0), "holdout": make_heads(24, 1), "validation": make_heads(5, 3)}
    cohort, more = make_heads(24, 2), make_heads(60, 4)

    def asked(volumes: Any) -> list[Any]:
        rng = np.random.default_rng(0)
        cores = [measure(volumes.image(row), volumes.label(row), contract) for row in range(len(volumes))]
        return [
            {"core_volume": one["volume_mm3:core"], "age": float(rng.uniform(20, 80)), "sex": "FM"[row % 2]}
            for row, one in enumerate(cores)
        ]

    attempts = FirstAttempts(more, [f"x{row}" for row in range(60)], [True, False] * 30, asked(more), [{}] * 60)
    work = audit_of(
        sides, cohort, {side: asked(volumes) for side, volumes in sides.items()},
        contract=contract,
        requested=asked(cohort),
        measured=[measure(cohort.image(row), cohort.label(row), contract) for row in range(24)],
        extractors=[
            RandomConvFeatures(contract, width=4),
            LatentFeatures(lambda images: functional.avg_pool3d(images, 6), "0", contract),
        ],
        config=AuditConfig(repeats=10, utility=UtilityConfig(effort="quick", steps=1)),
        first_attempts=attempts,
        models=save_models(tmp_path_factory.mktemp("models"), contract),
        rounds=(Round(searched=24, dropped=0),),
    )  # fmt: skip
    found: Audit = finish(run_audit(work))[0]
    return found


@pytest.mark.slow
def test_what_an_audit_measures_is_what_is_declared(audit: Audit) -> None:
    assert {metric.spec.name for metric in audit.metrics} == {spec.name for spec in METRICS}
    assert all(metric.spec in METRICS for metric in audit.metrics)


@pytest.mark.slow
def test_every_value_lies_within_its_interval_and_has_volumes_behind_it(audit: Audit) -> None:
    assert [metric.name for metric in audit.metrics if not metric.low <= metric.value <= metric.high] == []
    assert all(metric.n > 0 for metric in audit.metrics)


@pytest.mark.slow
def test_names_lead_back_to_their_declaration(audit: Audit) -> None:
    assert len({spec.name for spec in METRICS}) == len(METRICS)
    names = [metric.name for metric in audit.metrics]
    assert len(set(names)) == len(names)
    assert all(spec_of(metric.name) == metric.spec for metric in audit.metrics)


@pytest.mark.slow
def test_every_metric_is_shown_once_under_a_part_that_says_what_it_shows(audit: Audit) -> None:
    views = part_views(audit.metrics, audit.tables, audit.curves)
    assert [view.anchor for view in views] == list(READING)
    assert sum(len(view.metrics) for view in views) == len(audit.metrics)
    assert sum(len(view.sheets) for view in views) == len(audit.tables)
    assert all(spec.better in GOOD for spec in METRICS)


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_gate_of_a_preset_meets_a_metric(audit: Audit, preset: str) -> None:
    results = apply_gates(audit.metrics, AuditConfig(preset=preset), audit.sizes)
    assert [result.metric for result in results if result.value is None] == []


def test_privacy_metrics_are_those_of_the_part_on_privacy() -> None:
    assert [spec.name for spec in METRICS if spec.privacy != (spec.part == "privacy")] == []
    assert all(spec.privacy for spec in METRICS if spec.proof)


FAMILY = MetricSpec(name="family", part="quality", better="lower", detail="view", reference="that of the holdout")


@pytest.mark.parametrize("given", [{"detail": "", "reference": 0.0}, {"detail": "a", "reference": None}])
def test_a_metric_is_as_its_declaration_says(given: dict[str, Any]) -> None:
    estimate = Estimate(0.5, 0.4, 0.6, 9)
    assert metric_of(FAMILY, estimate, "", "a", 0.1).name == "family:a"
    with pytest.raises(ValueError, match=r"must (name view|have a reference)"):
        metric_of(FAMILY, estimate, "", **given)
    with pytest.raises(ValueError, match="must have no reference"):
        Metric(spec=FAMILY.model_copy(update={"reference": ""}), detail="a", value=1, low=1, high=1, n=1, reference=0,
               explanation="")  # fmt: skip
