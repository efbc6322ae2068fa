"""Volumes to vectors."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from meddiff_core.evidence.features.latents import LatentFeatures
from meddiff_core.evidence.features.random_conv import RandomConvFeatures
from meddiff_core.evidence.features.records import Features, extract, preprocessing_digest, require_same_origin
from meddiff_core.evidence.quality.distances import fit_projection


def latents(contract, digest="ae"):
    return LatentFeatures(lambda images: functional.avg_pool3d(images, 3), digest, contract)


def test_same_seed_gives_same_weights_and_digest_and_another_seed_another(contract, make_heads, finish):
    heads = make_heads(3, 0)
    first, again, other = (RandomConvFeatures(contract, seed) for seed in (0, 0, 1))
    assert first.digest == again.digest != other.digest
    a, b = finish(extract(first, heads)), finish(extract(again, heads))
    np.testing.assert_array_equal(a.values, b.values)
    assert a.values.shape == (3, 480)


@pytest.mark.parametrize("make", [RandomConvFeatures, latents])
def test_features_do_not_depend_on_the_batch(contract, make_heads, finish, make):
    heads = make_heads(5, 0)
    alone, together = finish(extract(make(contract), heads, 1)), finish(extract(make(contract), heads, 5))
    np.testing.assert_allclose(alone.values, together.values, rtol=1e-4, atol=1e-5)


def test_random_features_see_a_shift_of_intensity(contract, make_heads, finish):
    heads = make_heads(8, 0)
    darker = type(heads)(np.rint(heads.images * 0.8).astype(np.uint8), heads.labels)
    extractor = RandomConvFeatures(contract)
    bright, dark = finish(extract(extractor, heads)).values, finish(extract(extractor, darker)).values
    assert np.abs(bright.mean(0) - dark.mean(0)).max() > 2 * bright.std(0).max() / np.sqrt(8)


def test_latents_are_pooled_to_a_coarse_grid(contract, make_heads, finish):
    values = finish(extract(latents(contract), make_heads(2, 0))).values
    assert values.shape == (2, contract.channels * 4**3)
    assert torch.isfinite(torch.from_numpy(values)).all()


def test_digest_of_latents_names_the_autoencoder(contract):
    assert latents(contract, "one").digest != latents(contract, "two").digest


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"digest": "2" * 64}, "weights is 111111111111, 222222222222$"),
        ({"preprocessing": "d" * 64}, "preprocessing is cccccccccccc, dddddddddddd$"),
        ({"extractor": "b", "digest": "2" * 64}, "extractor is a, b; weights is 111111111111, 222222222222$"),
    ],
)
def test_records_that_differ_are_not_compared_and_the_message_says_how(changed, message):
    values = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
    one = Features(values, "a", "1" * 64, "c" * 64)
    other = replace(one, **changed)
    with pytest.raises(ValueError, match=message):
        require_same_origin(one.origin, other.origin)
    with pytest.raises(ValueError, match=message):
        fit_projection(one, 2)(other)
    require_same_origin(one.origin, one.take([0, 1]).origin)


@pytest.mark.parametrize("changed", [{"spacing_mm": (3.0, 3.0, 3.0)}, {"mask": "brain"}, {"labels": {"core": (2,)}}])
def test_features_name_their_preprocessing(contract, make_heads, finish, changed):
    heads, other = make_heads(2, 0), contract.model_copy(update=changed)
    found = finish(extract(RandomConvFeatures(contract), heads))
    assert len(found) == 2
    assert found.preprocessing == preprocessing_digest(contract) != preprocessing_digest(other)


def test_preprocessing_does_not_depend_on_the_conditions(contract):
    assert preprocessing_digest(contract) == preprocessing_digest(contract.model_copy(update={"conditions": ()}))


def test_random_network_travels_as_its_seed(contract):
    extractor = RandomConvFeatures(contract, seed=3)
    packed = pickle.dumps(extractor)
    assert len(packed) < 2000
    assert pickle.loads(packed).digest == extractor.digest
