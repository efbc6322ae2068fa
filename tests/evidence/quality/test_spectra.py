"""The spectrum shows which frequencies a cohort lacks, and whose fault that is."""

import numpy as np
import pytest
from scipy import ndimage

from meddiff_core.evidence.intervals import Bootstrap, Estimate
from meddiff_core.evidence.quality.spectrum import band_powers, describe, spectra
from tests.evidence.quality.test_anatomy import with_images

BOOTSTRAP = Bootstrap(40, 0.95, 0)
MIDDLES = np.array([0.05, 0.15])


def shares(*values):
    return [Estimate(value, value, value, 9) for value in values]


@pytest.fixture(scope="module")
def sides(make_heads):
    return {"train": make_heads(12, 1), "holdout": make_heads(12, 2)}


def lines_of(audit, finish):
    section = finish(spectra(audit, BOOTSTRAP))
    return {line.name: line for line in section.curves[0].lines}, section.statements[0]


def test_a_blurred_cohort_lacks_the_finest_band_alone_and_a_fresh_one_none(sides, make_heads, audit_of, finish):
    fresh = make_heads(12, 3)
    blurred = with_images(fresh, ndimage.gaussian_filter(fresh.images / 255, (0, 0.7, 0.7, 0.7)))
    lines, said = lines_of(audit_of(sides, blurred), finish)
    assert lines["generated"].high[-1] < 0.8
    assert lines["generated"].y[0] > 0.75
    assert "which half" in said
    assert "reconstructed" not in lines
    lines, _ = lines_of(audit_of(sides, fresh), finish)
    assert lines["generated"].low[-1] < 1 < lines["generated"].high[-1]
    assert lines["training"].low[-1] < 1 < lines["training"].high[-1]


@pytest.mark.parametrize(
    ("generated", "copies", "words"),
    [
        ((1.0, 0.2), (1.0, 0.3), "it is the autoencoder"),
        ((0.5, 0.9), (0.95, 0.9), "it is the denoiser"),
        ((1.2, 0.95), (1.0, 0.3), "lack no power"),
    ],
)
def test_the_half_that_leaves_out_most_of_the_worst_band_is_named(generated, copies, words):
    found = {"reconstructed": shares(*copies), "generated": shares(*generated), "training": shares(1.0, 1.0)}
    assert words in describe(found, MIDDLES)


def test_nothing_is_said_of_so_few_subjects_that_it_would_show_them(make_heads, audit_of, finish):
    few = {"train": make_heads(12, 1), "holdout": make_heads(4, 2)}
    section = finish(spectra(audit_of(few, make_heads(4, 3)), BOOTSTRAP))
    assert not section.curves
    assert not section.statements


def test_an_empty_volume_has_no_power_and_stops_nothing(contract):
    assert not band_powers(np.zeros(contract.size, np.float32), contract).any()
    assert np.isfinite(band_powers(np.ones(contract.size, np.float32), contract)).all()
