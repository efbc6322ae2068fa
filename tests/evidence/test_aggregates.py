"""What may be published of real data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meddiff_core.evidence.aggregates import INTENSITY_BINS, Histogram, histogram, intensity_histogram, intensity_shares
from meddiff_core.evidence.disclosure import FEWEST


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 80), spread=st.floats(1e-3, 1e6))
def test_every_bin_holds_at_least_five_real_subjects(seed, n, spread):
    rng = np.random.default_rng(seed)
    real, synthetic = spread * rng.lognormal(size=n), spread * rng.lognormal(size=30)
    found = histogram("x", "mm3", real, synthetic)
    counts = np.bincount(np.searchsorted(found.edges, real, side="right"), minlength=len(found.edges) + 1)
    assert len(found.real) == len(found.synthetic) == len(found.edges) + 1
    assert counts.min() >= FEWEST or found.edges == ()
    assert sum(found.real) == pytest.approx(1, abs=0.01 * len(found.real))


def test_edges_are_round_and_no_subject_is_at_the_end_of_them():
    real = np.random.default_rng(0).normal(1234.5678, 100, 200)
    found = histogram("x", "mm3", real, real)
    assert len(found.edges) >= 4
    assert all(edge % 10 == 0 for edge in found.edges)
    assert real.min() < found.edges[0] < found.edges[-1] < real.max()
    assert found.real == found.synthetic


def test_many_scans_of_few_subjects_are_one_bin():
    real = np.random.default_rng(0).normal(size=60)
    subjects = [f"s{index % 9}" for index in range(60)]
    assert len(histogram("x", "mm3", real, real).edges) >= 4
    assert histogram("x", "mm3", np.sort(real), real, sorted(subjects)).edges == ()
    shares = np.eye(INTENSITY_BINS)[np.arange(60) % INTENSITY_BINS]
    assert intensity_histogram(shares, shares, ["one"] * 60).edges == ()


def test_what_was_not_measured_is_in_no_bin():
    real = np.random.default_rng(0).normal(size=60)
    gaps = np.append(real, [np.nan, np.inf])
    assert histogram("x", "mm3", gaps, gaps) == histogram("x", "mm3", real, real)
    assert set(histogram("x", "mm3", real, np.array([np.nan])).synthetic) == {0.0}


def test_shares_that_do_not_fit_the_edges_are_refused():
    with pytest.raises(ValueError, match="must have 3 shares"):
        Histogram(name="x", unit="", edges=(1, 2), real=(0.5, 0.5), synthetic=(0.5, 0.5))
    with pytest.raises(ValueError, match="edges must increase"):
        Histogram(name="x", unit="", edges=(2, 1), real=(0.5, 0.5, 0), synthetic=(0.5, 0.5, 0))


def test_equal_values_are_one_bin():
    assert histogram("x", "mm3", np.full(50, 3.0), np.full(9, 4.0)).edges == ()


def test_intensity_bins_that_few_subjects_reach_are_merged(make_heads, contract):
    heads = make_heads(12, 0)
    shares = np.stack([intensity_shares(heads.image(i), contract) for i in range(12)])
    assert shares.sum(1) == pytest.approx(np.ones(12))
    shares[0] = 0
    shares[0, -1] = 1  # one subject alone is this bright
    found = intensity_histogram(shares, shares)
    assert found.edges[-1] < 1 - 1 / INTENSITY_BINS
    assert sum(found.real) == pytest.approx(1, abs=0.02)
