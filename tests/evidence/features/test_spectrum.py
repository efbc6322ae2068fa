"""The spectrum as a finder of whole copies."""

import numpy as np

from meddiff_core.evidence.features.records import extract
from meddiff_core.evidence.features.spectrum import SpectrumFeatures
from meddiff_core.evidence.neighbours import nearest
from meddiff_core.evidence.privacy.canaries import TRANSFORMATIONS, transformed


def test_flip_shift_and_gain_change_nothing(contract, make_heads):
    heads, extractor = make_heads(3, 0), SpectrumFeatures(contract)
    padded = np.pad(heads.images, [(0, 0), (4, 4), (4, 4), (4, 4)])
    given = extractor(type(heads)(padded), range(3))
    for changed in (padded[:, ::-1], np.roll(padded, (2, -3, 1), (1, 2, 3))):
        np.testing.assert_allclose(extractor(type(heads)(changed), range(3)), given, atol=1e-3)
    darker = extractor(type(heads)(padded // 2), range(3))  # rounding takes a bit from every voxel
    assert np.abs(darker - given).mean() < 0.03 < np.abs(given[0] - given[1]).mean()


def test_every_transformation_is_nearest_to_its_original(contract, make_heads, finish):
    heads, extractor = make_heads(24, 0), SpectrumFeatures(contract)
    train = finish(extract(extractor, heads)).values.astype(np.float64)
    rng = np.random.default_rng(0)
    for name, steps in TRANSFORMATIONS.items():
        units = [transformed(contract.intensity.unit(image), steps, rng) for image in heads.images]
        images = [contract.intensity.store(unit) for unit in units]
        found = nearest(extractor(type(heads)(np.stack(images)), range(24)).astype(np.float64), train)
        assert (found.index == np.arange(24)).mean() > 0.95, name


def test_batch_changes_nothing(contract, make_heads, finish):
    heads, extractor = make_heads(5, 0), SpectrumFeatures(contract)
    one, all_ = finish(extract(extractor, heads, 1)), finish(extract(extractor, heads, 5))
    np.testing.assert_array_equal(one.values, all_.values)
