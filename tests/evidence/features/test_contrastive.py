"""An encoder that learns which views show one volume."""

import math
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from meddiff_core.errors import IntegrityError
from meddiff_core.evidence.features import contrastive
from meddiff_core.evidence.features.contrastive import (
    TEMPERATURE,
    augmented,
    contrastive_features,
    fit_contrastive,
    load_contrastive,
    nt_xent,
    save_contrastive,
)
from meddiff_core.evidence.features.records import extract
from meddiff_core.evidence.neighbours import nearest
from meddiff_core.evidence.privacy.canaries import TRANSFORMATIONS, transformed


@pytest.fixture(scope="module")
def fitted(make_heads, contract, finish):
    heads = make_heads(16, 0)
    return heads, finish(fit_contrastive(heads, contract, 0, steps=60))


def test_loss_of_views_that_agree_and_of_others_at_right_angles():
    views = torch.eye(4)
    expected = math.log(math.exp(1 / TEMPERATURE) + 6) - 1 / TEMPERATURE
    assert nt_xent(views, views).item() == pytest.approx(expected, abs=1e-5)
    assert nt_xent(views, views.roll(1, 0)).item() == pytest.approx(1 / TEMPERATURE, abs=1e-4)


def test_transformed_training_volume_is_nearest_to_its_original(fitted, contract):
    heads, features = fitted
    train, rng = features(heads, range(16)).astype(np.float64), np.random.default_rng(0)
    caught = []
    for steps in TRANSFORMATIONS.values():
        units = [transformed(contract.intensity.unit(image), steps, rng) for image in heads.images]
        images = [contract.intensity.store(unit) for unit in units]
        found = nearest(features(type(heads)(np.stack(images)), range(16)).astype(np.float64), train)
        caught.append((found.index == np.arange(16)).mean())
    assert np.mean(caught) > 0.85


def test_vectors_have_length_one_and_no_left_or_right(fitted):
    heads, features = fitted
    given, flipped = features(heads, range(4)), features(type(heads)(heads.images[:, ::-1]), range(4))
    np.testing.assert_allclose(np.linalg.norm(given, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(flipped, given, atol=1e-5)


def test_features_do_not_depend_on_the_batch(fitted, finish):
    heads, features = fitted
    alone, together = finish(extract(features, heads, 1)), finish(extract(features, heads, 16))
    np.testing.assert_allclose(alone.values, together.values, atol=1e-5)


def test_same_volumes_and_seed_give_the_same_weights_and_the_global_seed_none(make_heads, contract, finish):
    heads, digests = make_heads(6, 0), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed + len(digests))
        digests.append(finish(fit_contrastive(heads, contract, seed, steps=3)).digest)
    assert digests[0] == digests[1] != digests[2]


def test_views_differ_and_stay_near():
    images = torch.zeros(2, 1, 16, 16, 16)
    images[:, :, 4:12, 4:12, 4:12] = 0.5
    views = augmented(images, torch.Generator().manual_seed(0))
    assert views.shape == images.shape
    assert (views - images).abs().mean() > 0.01
    assert (views[0] - views[1]).abs().mean() > 0.01
    assert views.mean().item() == pytest.approx(images.mean().item(), rel=0.4)


def test_encoder_comes_back_and_altered_weights_are_refused(fitted, tmp_path):
    heads, features = fitted
    save_contrastive(tmp_path / "encoder", features, "train")
    back = load_contrastive(tmp_path / "encoder")
    assert back.digest == features.digest
    np.testing.assert_array_equal(back(heads, [0, 1]), features(heads, [0, 1]))
    altered = deepcopy(features)
    with torch.no_grad():
        next(altered.encoder.parameters()).mul_(1.001)
    save_contrastive(tmp_path / "encoder", altered, "train")
    with pytest.raises(IntegrityError, match="must hold the weights"):
        load_contrastive(tmp_path / "encoder")


@dataclass
class Counted:
    fits: list[int] = field(default_factory=list)


def test_encoder_is_trained_once_per_train_side(make_heads, contract, finish, tmp_path, monkeypatch):
    heads, counted = make_heads(4, 0), Counted()

    def fit(volumes, contract, seed, device):
        counted.fits.append(seed)
        return (yield from fit_contrastive(volumes, contract, seed, steps=1))

    monkeypatch.setattr(contrastive, "fit_contrastive", fit)
    for made_from in ("one", "one", "other"):
        finish(contrastive_features(tmp_path / "encoder", heads, contract, 0, made_from))
    assert len(counted.fits) == 2
