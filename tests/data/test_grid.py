"""The contract that is inferred from the training scans."""

from collections.abc import Callable
from typing import Any

import pytest

from meddiff_core.contract import CategoricalCondition, ContinuousCondition
from meddiff_core.data.contract_inference import infer_contract, training_part
from meddiff_core.data.grid import latent_strides
from meddiff_core.data.split.sides import assign_sides, stratifying_covariates
from meddiff_core.errors import ConfigurationError, DataRefused
from meddiff_core.study import SplitConfig

Made = Callable[..., Any]


def test_on_a_cpu_the_spacing_is_raised_until_a_volume_is_small_enough(figures: Made, study: Made) -> None:
    contract, why = infer_contract(figures(), study(), "cpu")
    assert (contract.spacing_mm, contract.size) == ((3.8,) * 3, (40, 56, 40))
    assert "100000 voxels" in why["spacing_mm"]


def test_a_spacing_of_the_study_has_the_size_that_holds_the_scans(figures: Made, study: Made) -> None:
    contract, _ = infer_contract(figures(), study(plan={"spacing_mm": 4}), "cpu")
    assert (contract.spacing_mm, contract.size) == ((4.0,) * 3, (40, 48, 40))


def test_on_a_gpu_the_scans_keep_their_spacing_where_that_fits(figures: Made, study: Made) -> None:
    contract, _ = infer_contract(figures(spacing_mm=(0.859, 0.9, 0.9), extent_mm=(90.0, 90.0, 90.0)), study(), "cuda:0")
    assert contract.spacing_mm == (0.86,) * 3


def test_a_size_of_the_study_raises_the_spacing_until_the_scans_fit(figures: Made, study: Made) -> None:
    contract, _ = infer_contract(figures(), study(plan={"size": [32, 32, 32]}), "cpu")
    assert (contract.spacing_mm, contract.size) == ((5.9,) * 3, (32, 32, 32))


def test_size_and_spacing_of_the_study_are_kept_and_a_cut_is_reported(figures: Made, study: Made) -> None:
    contract, why = infer_contract(figures(), study(plan={"size": [32, 32, 32], "spacing_mm": 2.25}), "cpu")
    assert (contract.spacing_mm, contract.size) == ((2.25,) * 3, (32, 32, 32))
    assert "training scans is larger and is cut" in why["size"]


@pytest.mark.parametrize(("factor", "multiple"), [(None, 8), (2, 4), (4, 8), (8, 16)])
def test_a_size_that_cannot_be_halved_often_enough_is_refused(
    figures: Made, study: Made, factor: int | None, multiple: int
) -> None:
    plan = {"size": [48, 48, 48 + multiple // 2], "latent_factor": factor}
    with pytest.raises(ConfigurationError, match=rf"plan\.size: must be multiples of {multiple} along .* is \[48"):
        infer_contract(figures(), study(plan=plan), "cpu")


def test_thick_slices_keep_their_axis(figures: Made, study: Made) -> None:
    clinical = figures(spacing_mm=(0.43, 0.43, 6.5), extent_mm=(100.0, 100.0, 150.0))
    on_gpu, why = infer_contract(clinical, study(), "cuda:0")
    assert (on_gpu.spacing_mm, on_gpu.size[2]) == ((0.43, 0.43, 6.5), 24)
    assert "as thick along k" in why["spacing_mm"]
    on_cpu, _ = infer_contract(clinical, study(), "cpu")
    assert on_cpu.spacing_mm[0] == on_cpu.spacing_mm[1] > 1
    assert on_cpu.spacing_mm[2] == 6.5


@pytest.mark.parametrize(("spacing", "kept"), [((6.5, 0.5, 0.5), 0), ((0.5, 6.5, 0.5), 1), ((0.5, 0.5, 1.5), 2)])
def test_slices_may_be_thick_along_any_axis(
    figures: Made, study: Made, spacing: tuple[float, float, float], kept: int
) -> None:
    contract, _ = infer_contract(figures(spacing_mm=spacing, extent_mm=(100.0,) * 3), study(), "cuda:0")
    assert contract.spacing_mm[kept] == spacing[kept]


def test_a_few_other_scans_do_not_thin_the_slices_of_all(figures: Made, study: Made) -> None:
    few = figures(spacing_mm=lambda n: (1.0,) * 3 if n % 10 == 0 else (0.5, 0.5, 5.0), extent_mm=(90.0,) * 3)
    assert infer_contract(few, study(), "cuda:0")[0].spacing_mm == (0.5, 0.5, 5.0)


def test_thick_slices_along_several_axes_become_isotropic(figures: Made, study: Made) -> None:
    for other in [(5.0, 0.5, 0.5), (1.0, 1.0, 1.0)]:
        mixed = figures(spacing_mm=lambda n, other=other: other if n % 2 else (0.5, 0.5, 5.0), extent_mm=(90.0,) * 3)
        contract, why = infer_contract(mixed, study(), "cuda:0")
        assert len(set(contract.spacing_mm)) == 1
        assert "too few along one axis" in why["spacing_mm"]


def test_slices_just_less_than_three_times_as_thick_become_isotropic(figures: Made, study: Made) -> None:
    nearly = figures(spacing_mm=(1.0, 1.0, 2.9), extent_mm=(90.0,) * 3)
    assert infer_contract(nearly, study(), "cuda:0")[0].spacing_mm == (1.0,) * 3


def test_where_slices_fill_a_size_the_thick_axis_is_raised_by_itself(figures: Made, study: Made) -> None:
    clinical = figures(spacing_mm=(0.5, 0.5, 5.0), extent_mm=(100.0, 100.0, 150.0))
    contract, _ = infer_contract(clinical, study(plan={"size": [256, 256, 16]}), "cuda:0")
    assert contract.spacing_mm[:2] == (0.5, 0.5)
    assert contract.spacing_mm[2] == pytest.approx(145 / 15, abs=0.1)


def test_in_plane_spacing_rises_until_it_meets_the_slices(figures: Made, study: Made) -> None:
    large = figures(spacing_mm=(1.0, 1.0, 3.0), extent_mm=(400.0,) * 3)
    spacing = infer_contract(large, study(), "cpu")[0].spacing_mm
    assert spacing[0] == spacing[2] > 3


def test_the_voxels_allowed_are_used(figures: Made, study: Made) -> None:
    for side in range(140, 260, 7):
        contract, _ = infer_contract(figures(extent_mm=(side, side * 1.2, side)), study(), "cpu")
        assert contract.size[0] * contract.size[1] * contract.size[2] > 0.6 * 100_000


def test_one_broken_scan_does_not_set_the_grid_of_all(figures: Made, study: Made) -> None:
    usual, _ = infer_contract(figures(), study(), "cpu")
    broken = figures(extent_mm=lambda n: (90_000.0,) * 3 if n == 0 else (140.0, 184.0, 150.0))
    contract, why = infer_contract(broken, study(), "cpu")
    assert (contract.spacing_mm, contract.size) == (usual.spacing_mm, usual.size)
    assert "Not counted: 1 with more than 2 times the median extent" in why["size"]
    assert "The box of 1 of" in why["size"]


def test_large_and_small_subjects_are_no_broken_scans(figures: Made, study: Made) -> None:
    mixed = figures(extent_mm=lambda n: (300.0,) * 3 if n % 3 == 0 else (100.0,) * 3)
    contract, why = infer_contract(mixed, study(), "cpu")
    assert contract.spacing_mm[0] * contract.size[0] > 300
    assert "Not counted" not in why["size"]


def test_a_side_of_eight_voxels_is_halved_once(figures: Made, study: Made) -> None:
    contract, _ = infer_contract(figures(), study(plan={"size": [8, 16, 16]}), "cpu")
    assert contract.size == (8, 16, 16)
    assert latent_strides(contract.size, contract.spacing_mm, study()) == ((2, 2, 2), (1, 2, 2))


def test_a_refused_size_names_the_multiple_along_each_axis(figures: Made, study: Made) -> None:
    plan = {"size": [48, 48, 15], "spacing_mm": [1, 1, 6]}
    with pytest.raises(
        ConfigurationError, match=r"plan\.size: must be multiples of 8 along i, 8 along j and 2 along k"
    ):
        infer_contract(figures(), study(plan=plan), "cpu")


def test_the_holdout_changes_nothing(figures: Made, study: Made) -> None:
    kinds = {"age": "continuous", "sex": "categorical"}

    split = assign_sides(None, stratifying_covariates(figures()), SplitConfig(train=0.5, validation=0.2), 0)

    def trains(number: int) -> bool:
        return split.sides[f"s{number:02d}"] == "train"

    def age(number: int) -> float:
        return 30.0 + number

    usual = figures(kinds=kinds, covariates=lambda n: {"age": age(n), "sex": "MF"[n % 2]})
    odd = figures(
        kinds=kinds,
        covariates=lambda n: {"age": age(n) if trains(n) else 999.0, "sex": "MF"[n % 2] if trains(n) else "X"},
        extent_mm=lambda n: (140.0, 184.0, 150.0) if trains(n) else (400.0, 400.0, 400.0),
        percentiles=lambda n: (10.0, 100.0, 200.0) if trains(n) else (0.0, 1.0, 9999.0),
        modality=lambda n: "MR" if trains(n) else "CT",
    )
    contracts = [infer_contract(training_part(scans, split), study(), "cpu") for scans in (usual, odd)]
    assert contracts[0] == contracts[1]


def test_intensities_of_mr_are_the_training_medians_and_of_ct_the_window(figures: Made, study: Made) -> None:
    scans = figures(percentiles=lambda n: (float(n), 100.0, 200.0 + n))
    train = sorted(case.percentiles[0] for case in scans.cases)
    mapping = infer_contract(scans, study(), "cpu")[0].intensity
    assert (mapping.modality, mapping.percentiles) == ("MR", (0.5, 99.5))
    assert train[0] < mapping.low < train[-1]
    assert mapping.high == mapping.low + 200
    mapping = infer_contract(figures(modality="CT"), study({"window_hu": [-100, 300]}), "cpu")[0].intensity
    assert (mapping.modality, mapping.low, mapping.high, mapping.percentiles) == ("CT", -100, 300, None)


def test_scans_of_both_kinds_ask_for_a_decision(figures: Made, study: Made) -> None:
    mixed = figures(modality=lambda n: "CT" if n % 2 else "MR")
    with pytest.raises(ConfigurationError, match=r"data\.modality: must be given"):
        infer_contract(mixed, study(), "cpu")
    assert infer_contract(mixed, study({"modality": "MR"}), "cpu")[0].intensity.modality == "MR"


def test_eight_bits_are_kept_only_if_all_sources_have_no_more(figures: Made, study: Made) -> None:
    first = figures().cases[0].case
    mixed = figures(bits=lambda n: 16 if f"s{n:02d}_T1" == first else 8)
    assert infer_contract(figures(bits=8), study(), "cpu")[0].intensity.storage == "uint8"
    assert infer_contract(mixed, study(), "cpu")[0].intensity.storage == "uint16"
    assert infer_contract(figures(bits=8, integer=False), study(), "cpu")[0].intensity.storage == "uint16"


def test_conditions_carry_the_training_range_and_categories(figures: Made, study: Made) -> None:
    scans = figures(
        kinds={"age": "continuous", "sex": "categorical", "left": "volume of left"},
        covariates=lambda n: {"age": float(n), "sex": "MF"[n % 2], "left": 100.0 + n},
    )
    ages = [case.covariates["age"] for case in scans.cases]
    age, sex, left = infer_contract(scans, study(), "cpu")[0].conditions
    assert isinstance(age, ContinuousCondition)
    assert isinstance(left, ContinuousCondition)
    assert (age.low, age.high, age.mean) == (min(ages), max(ages), pytest.approx(sum(ages) / len(ages)))
    assert sex == CategoricalCondition(name="sex", categories=("F", "M"))
    assert (age.group, left.group) == (None, "left")


def test_a_condition_that_cannot_be_learned_is_dropped_with_its_reason(figures: Made, study: Made) -> None:
    scans = figures(
        kinds={"rare": "continuous", "same": "categorical"},
        covariates=lambda n: {"rare": float(n) if n < 6 else None, "same": "A"},
    )
    contract, why = infer_contract(scans, study(), "cpu")
    assert contract.conditions == ()
    assert "needs 8" in why["conditions.rare"]
    assert "the same for every" in why["conditions.same"]


def test_every_field_of_the_contract_has_its_reason(figures: Made, study: Made) -> None:
    contract, why = infer_contract(figures(), study(), "cpu")
    assert set(type(contract).model_fields) <= set(why)
    assert all(text.endswith(".") for text in why.values())


def test_labels_are_the_groups_or_every_training_value(figures: Made, study: Made) -> None:
    scans = figures(label_values={3: 10, 7: 20})
    assert infer_contract(scans, study(), "cpu")[0].labels == {"left": (1,), "right": (2,)}
    assert infer_contract(scans, study({"label_groups": {}}), "cpu")[0].labels == {"label_3": (3,), "label_7": (7,)}


def test_no_training_subject_is_refused(figures: Made, study: Made) -> None:
    split = assign_sides(None, stratifying_covariates(figures()), SplitConfig(train=0.0), 0)
    with pytest.raises(DataRefused, match=r"split\.train: must leave a training subject, leaves 0 of 40"):
        training_part(figures(), split)


def test_a_size_that_no_spacing_fits_is_refused_and_not_searched_for_ever(figures: Made, study: Made) -> None:
    with pytest.raises(ConfigurationError, match=r"plan\.size"):
        infer_contract(figures(), study(plan={"size": [1, 1, 1]}), "cpu")
