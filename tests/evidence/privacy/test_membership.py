"""Membership inference: a network that memorised is found out, one that knows the distribution alone is not."""

import numpy as np
import pytest
import torch
from scipy import stats

from meddiff_core.evidence.gates import apply_gates, audit_settings
from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.privacy.attacks import augmented_scores, denoiser_scores, encode_augmented
from meddiff_core.evidence.privacy.membership import (
    Attacked,
    area,
    areas,
    auc_interval,
    best_by_chance,
    beyond_chance,
    membership_inference,
    vectors_of,
    weights_section,
    without_difficulty,
)
from meddiff_core.models.augmentation import random_augmentations
from meddiff_core.models.autoencoder import load_autoencoder
from meddiff_core.models.latents import LatentSet, encode_latents, stored_augmentations
from meddiff_core.models.randomness import generator_for
from meddiff_core.study import AuditConfig, GateConfig, Study

BOOTSTRAP = Bootstrap(50, 0.95, 0)
SHAPE = (2, 3, 3, 3)
STUDY = Study(name="heads", data={"images": "scans"})
GIVEN_AWAY = STUDY.model_copy(update={"release": STUDY.release.model_copy(update={"models": True})})


def normal(n, *seed):
    return torch.randn(n, *SHAPE, generator=generator_for("normal", *seed))


def ideal(noisy, sigma, told):
    """The expectation of standard normal latents: what a network that generalises would learn."""
    return noisy / (1 + sigma.reshape(-1, 1, 1, 1, 1) ** 2)


def memorising(train):
    def denoise(noisy, sigma, told):
        nearest = torch.cdist(noisy.flatten(1), train.flatten(1)).argmin(1)
        return train[nearest]

    return denoise


def memorising_variants(variants):
    """Ideal for all but these latents, which it gives back from noise that does not hide them."""
    latents = torch.cat([each for each, _ in variants])

    def denoise(noisy, sigma, told):
        apart = torch.cdist(noisy.flatten(1), latents.flatten(1)) / noisy[0].numel() ** 0.5
        memory, known = latents[apart.argmin(1)], (apart.amin(1) < 2 * sigma.clamp_max(0.4))
        return torch.where(known.reshape(-1, 1, 1, 1, 1), memory, ideal(noisy, sigma, told))

    return denoise


def variants_of(n, seed):
    """Three augmented variants of n volumes, which share nothing with them."""
    return [(normal(n, "variant", seed, number), torch.zeros(n, 2)) for number in range(3)]


def attacked(denoise, latents, variants, finish, visits=1):
    told = torch.full((len(latents), 1), torch.nan)
    scores = finish(denoiser_scores(denoise, latents, told, seed=0))
    if variants:
        scores |= finish(augmented_scores(denoise, variants, seed=0))
    rng = np.random.default_rng(len(latents))
    subjects = [f"s{row // visits}" for row in range(len(latents))]
    return Attacked(subjects, rng.standard_normal((len(latents), 4)), {"denoiser": scores})


def evaluation(denoise, train, holdout, finish, variants=((), ())):
    sides = [attacked(denoise, *side, finish) for side in zip((train, holdout), variants, strict=True)]
    section = weights_section("denoiser", *sides, BOOTSTRAP)
    return {metric.name: metric for metric in section.metrics}, section


def test_memorising_denoiser_is_found_out_by_every_attack(finish):
    train = normal(40, 0)
    metrics, section = evaluation(memorising(train), train, normal(20, 1), finish)
    assert metrics["membership_auc:denoiser"].value > 0.98
    assert metrics["membership_auc:denoiser"].low > 0.8
    assert metrics["membership_tpr:denoiser"].value > 0.95
    quiet = [row for row in section.tables[0].rows if "sigma 3" not in row[0]]
    assert all(row[1] > 0.95 for row in quiet)
    assert "p = 0.0005" in section.statements[0]


def test_ideal_denoiser_leaks_nothing_and_its_interval_says_so(finish):
    values, held = [], 0
    for seed in range(20):
        asked = (variants_of(40, 2 * seed), variants_of(20, 2 * seed + 1)) if seed % 2 else ((), ())
        metrics, _ = evaluation(ideal, normal(40, 2 * seed), normal(20, 2 * seed + 1), finish, asked)
        found = metrics["membership_auc:denoiser"]
        values.append(found.value)
        held += found.low <= 0.5 <= found.high
    assert held >= 18
    assert np.mean(values) == pytest.approx(0.5, abs=0.05)


def test_denoiser_that_memorised_augmented_variants_alone_is_caught_by_asking_about_them(finish):
    asked = variants_of(40, 0), variants_of(20, 1)
    denoise, train, holdout = memorising_variants(asked[0]), normal(40, 0), normal(20, 1)
    metrics, section = evaluation(denoise, train, holdout, finish, asked)
    assert metrics["membership_auc:denoiser"].low > 0.8
    assert "augmented variants" in section.statements[0]
    assert evaluation(denoise, train, holdout, finish)[0]["membership_auc:denoiser"].low < 0.5


def test_one_memorised_variant_of_three_is_found_by_the_strongest(finish):
    asked = variants_of(40, 0), variants_of(20, 1)
    denoise = memorising_variants(asked[0][1:2])
    _, section = evaluation(denoise, normal(40, 0), normal(20, 1), finish, asked)
    strongest = "loss, sigma 0.3, strongest of augmented variants"
    assert next(row for row in section.tables[0].rows if row[0] == strongest)[1] > 0.95


def test_a_small_study_without_a_leak_passes_the_research_gate(finish):
    passed = 0
    for seed in range(30):
        asked = (variants_of(36, 2 * seed), variants_of(18, 2 * seed + 1)) if seed % 2 else ((), ())
        metrics, _ = evaluation(ideal, normal(36, 100 + 2 * seed), normal(18, 101 + 2 * seed), finish, asked)
        gates = apply_gates(list(metrics.values()), audit_settings(GIVEN_AWAY))
        passed += next(gate.passed for gate in gates if gate.metric == "membership_auc:denoiser")
    assert passed >= 24


def test_attacks_agree_with_their_closed_form(finish):
    latents = normal(5, 3)
    scores = finish(denoiser_scores(ideal, latents, torch.full((5, 1), torch.nan), seed=0))
    shrunk = 0.1 / (1 + 0.1**2)  # predicted noise of x at sigma is x sigma / (1 + sigma^2)
    expected = -np.log(((shrunk * latents.double()) ** 4).flatten(1).mean(1).numpy())
    np.testing.assert_allclose(scores["predicted noise, sigma 0.1"], expected, rtol=1e-4)
    assert len(scores) == 9


def test_conditions_reach_the_network_and_are_hidden_from_it_on_purpose(finish):
    seen = []

    def denoise(noisy, sigma, told):
        seen.append(told.isnan().all().item())
        return noisy

    finish(denoiser_scores(denoise, normal(3, 0), torch.zeros(3, 2), seed=0))
    assert len(seen) == 14
    assert sum(seen) == 3


def test_scores_do_not_depend_on_who_stands_beside(finish):
    latents, told = normal(20, 0), torch.zeros(20, 1)
    together = finish(denoiser_scores(ideal, latents, told, seed=4))
    alone = finish(denoiser_scores(ideal, latents[17:18], told[17:18], seed=4))
    for name in together:
        assert together[name][17] == pytest.approx(alone[name][0], rel=1e-5)


def test_areas_of_many_choices_of_members_are_those_of_each_alone():
    rng = np.random.default_rng(0)
    scores, members = rng.integers(0, 8, (60, 3)).astype(float), rng.random(60) < 0.4
    choices = np.stack([rng.permutation(members) for _ in range(4)])
    found = areas(stats.rankdata(scores, axis=0), choices)
    np.testing.assert_allclose(found, [[area(column, choice) for column in scores.T] for choice in choices])


def test_interval_covers_the_true_area_and_keeps_a_width_at_1():
    rng, covered = np.random.default_rng(0), 0
    members = np.arange(54) < 36
    for _ in range(400):
        scores = rng.standard_normal(54) + 1.2 * members  # true area: Phi(1.2 / sqrt 2)
        found = auc_interval(area(scores, members), 36, 18, 0.95)
        covered += found.low <= 0.80193 <= found.high
    assert 0.92 <= covered / 400 <= 0.99
    assert auc_interval(1.0, 36, 18, 0.95).low < 0.95


def test_best_of_many_attacks_on_noise_is_no_finding():
    rng, found = np.random.default_rng(0), []
    members = np.arange(54) < 36
    for seed in range(60):
        scores = rng.standard_normal((54, 9))
        chance = best_by_chance(scores, members, seed)
        best = max(area(column, members) for column in scores.T)
        found.append((best, (chance >= best).mean(), beyond_chance(auc_interval(best, 36, 18, 0.95), chance.mean())))
    best, p, corrected = zip(*found, strict=True)
    assert np.mean(best) > 0.58
    assert np.mean([one.value for one in corrected]) == pytest.approx(0.5, abs=0.03)
    assert np.mean(np.array(p) < 0.1) < 0.2


def test_difficulty_hides_membership_until_it_is_subtracted():
    rng, members = np.random.default_rng(0), np.arange(120) < 80
    difficulty = rng.standard_normal((120, 4))
    scores = members[:, None] + 4 * difficulty[:, :1] + 0.3 * rng.standard_normal((120, 1))
    assert area(scores[:, 0], members) < 0.7
    assert area(without_difficulty(scores, difficulty)[:, 0], members) > 0.95


def test_subjects_with_many_volumes_count_once(finish):
    train, holdout = normal(40, 0), normal(20, 1)
    section = weights_section(
        "denoiser", attacked(ideal, train, (), finish, 2), attacked(ideal, holdout, (), finish, 2), BOOTSTRAP
    )
    assert [metric.n for metric in section.metrics] == [10, 20]


def test_part_attacks_both_models_or_says_that_it_has_none(
    make_heads, audit_of, contract, save_models, tmp_path, finish
):
    whole = {"train": make_heads(6, 0), "holdout": make_heads(3, 1)}
    middle = slice(4, 20)
    sides = {name: type(heads)(*(part[:, middle, middle, middle] for part in (heads.images, heads.labels)))
             for name, heads in whole.items()}  # fmt: skip
    table = {side: [{"core_volume": 1e3 + i} for i in range(len(sides[side]))] for side in sides}
    assert not finish(membership_inference(audit_of(sides, table=table), BOOTSTRAP)).metrics
    small = contract.model_copy(update={"size": (16, 16, 16)})
    audit = audit_of(sides, table=table, contract=small, models=save_models(tmp_path, small))
    section = finish(membership_inference(audit, BOOTSTRAP))
    names = {f"membership_{what}:{model}" for what in ("auc", "tpr") for model in ("autoencoder", "denoiser")}
    assert {metric.name for metric in section.metrics} == names
    assert all(metric.low <= metric.value <= metric.high for metric in section.metrics)
    assert all(metric.low < 0.6 for metric in section.metrics)
    assert "At least 99 are needed" in section.statements[-1]
    assert finish(membership_inference(audit, BOOTSTRAP)) == section


def test_audit_asks_about_the_variants_that_training_saw(make_heads, audit_of, contract, save_models, tmp_path, finish):
    whole = {"train": make_heads(6, 0), "holdout": make_heads(3, 1)}
    sides = {name: type(heads)(heads.images[:, 4:20, 4:20, 4:20], heads.labels[:, 4:20, 4:20, 4:20])
             for name, heads in whole.items()}  # fmt: skip
    small = contract.model_copy(update={"size": (16, 16, 16)})
    autoencoder, _ = load_autoencoder(save_models(tmp_path, small) / "autoencoder")
    drawn = random_augmentations(6, 4, ("mirror", "rotate"), 0)
    finish(encode_latents(tmp_path / "l", autoencoder, {"train": sides["train"]}, small, augmentations=drawn))
    table = {side: [{"core_volume": 1e3}] * len(sides[side]) for side in sides}
    given = {"contract": small, "models": tmp_path, "augmentations": stored_augmentations(tmp_path / "l")}
    audit = audit_of(sides, table=table, **given)
    seen = LatentSet.open(tmp_path / "l", "train_moved").mean.unflatten(0, (4, 6))
    for number, vectors in enumerate(vectors_of(audit, "train", [1, 4])):
        found = encode_augmented(autoencoder, sides["train"], [1, 4], vectors, small)
        torch.testing.assert_close(found, seen[number, [1, 4]])
    holdout = vectors_of(audit, "holdout", [0, 1, 2])
    assert {tuple(vector.tolist()) for each in holdout for vector in each} <= {tuple(v.tolist()) for v in drawn}
    rows = finish(membership_inference(audit, BOOTSTRAP)).tables[1].rows
    assert sum("augmented variants" in row[0] for row in rows) == 2


@pytest.mark.parametrize("preset", ["research", "strict", "trial"])
def test_weights_are_gated_by_every_preset_where_they_leave_and_by_strict_where_they_stay(preset, finish):
    train = normal(40, 0)
    metrics, _ = evaluation(memorising(train), train, normal(20, 1), finish)

    def gated(study):
        given = study.model_copy(update={"audit": AuditConfig(preset=preset)})
        gates = apply_gates(list(metrics.values()), audit_settings(given))
        return [gate.passed for gate in gates if gate.metric == "membership_auc:denoiser"]

    assert gated(GIVEN_AWAY) == [False]
    assert gated(STUDY) == ([False] if preset == "strict" else [])


def test_own_gate_on_the_weights_stays():
    own = AuditConfig(gates=[GateConfig(metric="membership_auc:*", max=0.9)])
    assert audit_settings(GIVEN_AWAY.model_copy(update={"audit": own})) == own


def test_early_weights_calibrate_what_is_difficult_to_all(finish):
    """Losses that differ by volume a hundredfold hide who is a member; over those of early weights they do not."""
    train, holdout = normal(30, 0), normal(30, 1)
    spread = torch.logspace(-1, 1, 30).repeat(2).reshape(-1, 1, 1, 1, 1)
    latents, told = torch.cat([train, holdout]), torch.full((60, 1), torch.nan)

    def erring(members_gain):
        def denoise(noisy, sigma, told):
            row = torch.cdist(noisy.flatten(1), latents.flatten(1)).argmin(1)
            gain = torch.where(row < 30, members_gain, 1.0).reshape(-1, 1, 1, 1, 1)
            return latents[row] + 0.1 * spread[row] * gain

        return denoise

    scores = finish(denoiser_scores(erring(0.8), latents, told, 0, early=erring(1.0)))
    members = np.arange(60) < 30
    assert area(scores["loss since early training, sigma 0.3"], members) > 0.99
    assert area(scores["loss, sigma 0.3"], members) < 0.6
