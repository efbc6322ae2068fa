"""Anatomy and appearance of small heads, and the faults that gates are meant for."""

import numpy as np
import pytest
from scipy import ndimage

from meddiff_core.evidence.features.random_conv import RandomConvFeatures
from meddiff_core.evidence.features.records import extract
from meddiff_core.evidence.gates import apply_gates
from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.measurements import measure
from meddiff_core.evidence.quality.anatomy import (
    FEW_SUBJECTS,
    UNLABELLED,
    appearance_and_anatomy,
    correlation_difference,
)
from meddiff_core.evidence.quality.comparison import feature_metrics
from meddiff_core.evidence.quality.distances import Sides
from meddiff_core.study import AuditConfig

BOOTSTRAP = Bootstrap(60, 0.95, 0)
GATES_FOR = {
    "collapsed": {"recall:random-conv"},
    "noisy": {"effect:noise"},
    "blurred": {"effect:sharpness"},
}


def with_images(heads, images):
    return type(heads)(np.rint(255 * np.clip(images, 0, 1)).astype(np.uint8), heads.labels)


def faulty(heads, fault):
    unit = heads.images / 255
    if fault == "collapsed":
        return heads.take(np.arange(len(heads)) % 3)
    if fault == "noisy":
        return with_images(heads, unit + 0.08 * np.random.default_rng(0).standard_normal(unit.shape) * (unit > 0))
    if fault == "blurred":
        return with_images(heads, ndimage.gaussian_filter(unit, (0, 0.8, 0.8, 0.8)))
    return heads


@pytest.fixture(scope="module")
def input_of(audit_of):
    """(cohort, contract, train, holdout, scans of each subject) to what is audited."""

    def make(accepted, contract, train, holdout, scans=1):
        measured = [measure(accepted.image(row), accepted.label(row), contract) for row in range(len(accepted))]
        facts = {"contract": contract, "measured": measured, "extractors": [RandomConvFeatures(contract, width=4)]}
        return audit_of({"train": train, "holdout": holdout}, accepted, subject=lambda row: row // scans, **facts)

    return make


@pytest.fixture(scope="module")
def real(make_heads):
    return make_heads(40, 0), make_heads(16, 1)


@pytest.fixture(scope="module")
def found(real, make_heads, input_of, contract, finish):
    """Metrics and section per fault; `fresh` has none."""
    results = {}
    for fault in ("fresh", *GATES_FOR):
        accepted = faulty(make_heads(30, 2), fault)
        case = input_of(accepted, contract, *real)
        section = finish(appearance_and_anatomy(case, BOOTSTRAP))
        sides = Sides(*[finish(extract(case.extractors[0], volumes)) for volumes in (accepted, *real)])
        results[fault] = ([*section.metrics, *feature_metrics(sides, BOOTSTRAP)], section)
    return results


def failed(metrics, preset):
    names = {metric.name for metric in metrics}
    results = apply_gates(metrics, AuditConfig(preset=preset))
    return {result.metric for result in results if not result.passed and result.metric in names}


@pytest.mark.parametrize("preset", ["research", "strict"])
@pytest.mark.parametrize("fault", sorted(GATES_FOR))
def test_each_fault_fails_the_gate_meant_for_it(found, fault, preset):
    assert GATES_FOR[fault] <= failed(found[fault][0], preset)


def test_a_collapsed_cohort_fails_the_gate_of_coverage_where_it_is_strict(found):
    assert "coverage:random-conv" in failed(found["collapsed"][0], "strict")


@pytest.mark.parametrize("preset", ["research", "strict"])
def test_fresh_real_draws_pass(found, preset):
    assert failed(found["fresh"][0], preset) == set()


def by_name(section):
    return {metric.name: metric for metric in section.metrics}


def test_excess_noise_is_above_zero_only_where_there_is_more(found):
    noise = {fault: by_name(section)["effect:excess_noise"] for fault, (_, section) in found.items()}
    assert noise["noisy"].low > 2
    assert noise["fresh"].low < 0 < noise["fresh"].high
    assert noise["collapsed"].high < 1


def test_anatomy_of_fresh_draws_is_within_what_real_sets_show(found):
    metrics = by_name(found["fresh"][1])
    for name in ("surface_effect:core", "components_effect:core", "volume_effect:shell", "symmetry_effect"):
        assert metrics[name].low < 0.3, name
        assert metrics[name].reference is not None
    assert metrics["structure_correlation"].low <= metrics["structure_correlation"].reference


def test_every_structure_has_its_row_for_every_figure(found):
    tables = {table.title: table for table in found["fresh"][1].tables}
    assert [row[0] for row in tables["Structures"].rows] == ["shell"] * 5 + ["core"] * 5
    assert len(tables["Structures together"].rows) == 1
    assert len(tables["Symmetry"].rows) == 2


def test_torn_frayed_and_lopsided_structures_are_seen(real, make_heads, input_of, contract, finish):
    heads = make_heads(30, 2)
    labels = heads.labels.copy()
    labels[:, 12, :, :] = 0  # cut in two
    labels[:, 14:, 12:, :][labels[:, 14:, 12:, :] == 2] = 1  # core missing in a quarter
    case = input_of(type(heads)(heads.images, labels), contract, *real)
    metrics = by_name(finish(appearance_and_anatomy(case, BOOTSTRAP)))
    assert metrics["components_effect:core"].low > 2
    assert metrics["surface_effect:core"].low > 2
    assert metrics["symmetry_effect"].low > 2


def test_structures_that_vary_apart_are_seen_though_each_is_right():
    rng = np.random.default_rng(0)
    together = np.repeat(rng.standard_normal((60, 1)), 3, axis=1) + 0.2 * rng.standard_normal((60, 3))
    apart = np.stack([rng.permutation(column) for column in together.T], axis=1)
    assert correlation_difference(together, together) == 0
    assert correlation_difference(apart, together) > 0.7


def test_without_label_maps_only_intensities_are_measured(real, make_heads, input_of, contract, finish):
    bare = contract.model_copy(update={"labels": {}, "conditions": ()})
    sets = [type(heads)(heads.images) for heads in (make_heads(10, 2), *real)]
    section = finish(appearance_and_anatomy(input_of(sets[0], bare, *sets[1:]), Bootstrap(10, 0.95, 0)))
    assert section.statements == (UNLABELLED,)
    assert {metric.name.split(":")[0] for metric in section.metrics} == {"effect", "symmetry_effect"}
    assert [one.name for one in section.histograms] == ["intensity"]


def test_scans_of_fewer_than_five_people_are_not_described(real, make_heads, input_of, contract, finish):
    case = input_of(make_heads(8, 2), contract, real[0], real[1], scans=4)
    section = finish(appearance_and_anatomy(case, Bootstrap(10, 0.95, 0)))
    assert section.statements == (FEW_SUBJECTS,)
    assert not section.tables
    assert not section.histograms
