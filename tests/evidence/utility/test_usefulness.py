"""Cohorts of known worth: as good as real, with labels of other volumes, with covariates of other volumes."""

import dataclasses

import numpy as np
import pytest

from meddiff_core.evidence.utility.arms import design_trials
from meddiff_core.evidence.utility.trials import segmentation_trials
from meddiff_core.evidence.utility.usefulness import NO_TASK, NOT_ASKED, ONE_SEED, utility

QUICK = {"effort": "quick", "steps": 60}


def by_name(section):
    return {metric.name: metric for metric in section.metrics}


def as_text(section):
    parts = [*section.metrics, *section.tables]
    return "\n".join([part.model_dump_json() for part in parts] + list(section.statements))


def shuffled(scans):
    """The same images, each with label map and covariates of the one before."""
    labels = np.roll(scans.labels, 1, axis=0)
    return dataclasses.replace(scans, labels=labels, conditions=[scans.conditions[-1], *scans.conditions[:-1]])


@pytest.fixture(scope="module")
def fresh(make_scans, trial_of, bootstrap, finish):
    audit = trial_of(make_scans(24, 0), make_scans(14, 1), make_scans(24, 2), **QUICK)
    return finish(utility(audit, bootstrap))


@pytest.fixture(scope="module")
def mismatched(make_scans, trial_of, bootstrap, finish):
    audit = trial_of(make_scans(24, 0), make_scans(14, 1), shuffled(make_scans(24, 2)), **QUICK)
    return finish(utility(audit, bootstrap))


def test_fresh_draws_are_worth_as_much_as_real_ones(fresh):
    metrics = by_name(fresh)
    assert metrics["tstr:segmentation"].reference > 0.75
    assert metrics["utility_ratio:segmentation"].value == pytest.approx(1, abs=0.1)
    assert metrics["utility_gain:segmentation"].value == pytest.approx(0, abs=0.1)
    assert metrics["pair_agreement"].value == pytest.approx(metrics["pair_agreement"].reference, abs=0.1)
    assert metrics["fidelity_r_segmentation:core_mm3"].value > 0.8
    assert metrics["tstr:sex"].value > 0.9
    assert metrics["utility_ratio:age"].value > 0.6
    assert ONE_SEED in fresh.statements


def test_label_maps_of_other_volumes_are_worth_little_and_do_not_agree_with_the_images(fresh, mismatched):
    good, metrics = by_name(fresh), by_name(mismatched)
    assert metrics["tstr:segmentation"].reference == good["tstr:segmentation"].reference
    assert metrics["utility_ratio:segmentation"].high < good["utility_ratio:segmentation"].low
    assert metrics["utility_ratio:segmentation"].value < 0.75
    assert metrics["pair_agreement"].high < 0.75 * metrics["pair_agreement"].reference
    assert metrics["fidelity_r_segmentation:core_mm3"].value < 0.5
    assert metrics["tstr:sex"].value < 0.8
    assert metrics["utility_ratio:age"].value < good["utility_ratio:age"].value
    said = " ".join(mismatched.statements)
    assert "For segmentation, synthetic volumes fall short of real ones" in said
    assert "did not improve segmentation" in said or "worsened segmentation" in said


def test_every_metric_has_its_interval_and_every_table_its_part(fresh):
    assert all(metric.low <= metric.high and metric.n >= 8 for metric in fresh.metrics)
    assert {table.part for table in fresh.tables} == {"utility", "fidelity"}
    arms = [row[0] for row in fresh.tables[0].rows]
    assert arms == ["real", "synthetic 1x", "real and synthetic 1x", "no image: the most common label of each voxel"]


def test_same_input_gives_the_same_bytes(make_scans, trial_of, bootstrap, finish):
    audit = trial_of(make_scans(20, 0), make_scans(10, 1), make_scans(20, 2), effort="quick", steps=6)
    first, again = (finish(utility(audit, bootstrap)) for _ in range(2))
    assert as_text(first) == as_text(again)


def test_every_training_takes_the_same_steps(make_scans, trial_of, bootstrap):
    audit = trial_of(make_scans(10, 0), make_scans(8, 1), make_scans(20, 2), effort="full", steps=3, seeds=2)
    steps = {}
    for progress in utility(audit, bootstrap):
        if progress.label.startswith("segmentation on "):
            steps[progress.label] = progress.done, progress.total
    assert len(steps) == 2 * (1 + 3 + 3)
    assert set(steps.values()) == {(3, 3)}


def test_no_training_sees_the_holdout(make_scans, trial_of, bootstrap, finish):
    weights = []
    for seed in (1, 5):
        holdout = make_scans(8, seed)
        audit = trial_of(make_scans(10, 0), holdout, make_scans(10, 2), effort="quick", steps=4)
        work = segmentation_trials(audit, design_trials(audit.config, 10, 10), bootstrap)
        assert next(work).done == 4
        assert not holdout.read
        trained = finish(work).segmenter.network.state_dict()
        assert sorted(set(holdout.read)) == list(range(8))
        weights.append(np.concatenate([tensor.numpy().ravel() for tensor in trained.values()]))
    np.testing.assert_array_equal(weights[0], weights[1])


def test_without_labels_covariates_are_the_task(make_scans, trial_of, scan_contract, bootstrap, finish):
    bare = scan_contract.model_copy(update={"labels": {}, "conditions": scan_contract.conditions[:2]})
    sets = [dataclasses.replace(make_scans(n, seed), labels=None) for n, seed in ((24, 0), (14, 1), (24, 2))]
    section = finish(utility(trial_of(*sets, contract=bare, effort="full", seeds=2), bootstrap))
    assert {"utility_ratio:age", "utility_gain:age", "utility_ratio:sex", "utility_gain:sex"} <= set(by_name(section))
    assert not any("segmentation" in metric.name for metric in section.metrics)
    assert any("all its 24 were used instead" in said for said in section.statements)


def test_what_cannot_be_measured_is_said(make_scans, trial_of, scan_contract, bootstrap, finish):
    bare = scan_contract.model_copy(update={"labels": {}, "conditions": ()})
    sets = [dataclasses.replace(make_scans(8, seed), labels=None) for seed in range(3)]
    assert finish(utility(trial_of(*sets, contract=bare), bootstrap)).statements == [NO_TASK]
    assert finish(utility(trial_of(*sets, effort="none"), bootstrap)).statements == [NOT_ASKED]


def test_covariate_that_too_few_have_is_left_out_with_the_number_needed(
    make_scans, trial_of, scan_contract, bootstrap, finish
):
    bare = scan_contract.model_copy(update={"labels": {}, "conditions": scan_contract.conditions[:2]})
    sets = [dataclasses.replace(make_scans(n, seed), labels=None) for n, seed in ((24, 0), (9, 1), (24, 2))]
    alike = [{"age": None, "sex": "F"} for _ in range(9)]
    sets[1] = dataclasses.replace(sets[1], conditions=alike)
    said = finish(utility(trial_of(*sets, contract=bare), bootstrap)).statements
    assert (
        "Prediction of age could not be tested: 8 holdout subjects with a known value are needed, there are 0." in said
    )
    assert any("5 holdout subjects are needed in each of two categories" in one for one in said)


def test_structure_that_few_holdout_subjects_have_gets_no_figure(make_scans, trial_of, bootstrap, finish):
    holdout = make_scans(9, 1)
    labels = holdout.labels.copy()
    labels[:6][labels[:6] == 2] = 1
    holdout = dataclasses.replace(holdout, labels=labels)
    audit = trial_of(make_scans(20, 0), holdout, make_scans(20, 2), effort="quick", steps=3)
    section = finish(utility(audit, bootstrap))
    assert section.tables[0].columns[-1] == "shell"
    assert any("Too few holdout subjects have core" in said for said in section.statements)
