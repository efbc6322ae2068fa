"""The table of verdicts: who each candidate is, what it measures, and why it was rejected."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from meddiff_core.contract import EXTRAPOLATED, ContinuousCondition, Contract
from meddiff_core.evidence.measurements import measure
from meddiff_core.evidence.rejections import CONTRAST, DUPLICATE, REJECTIONS, count_rejections, rejections_of
from meddiff_core.evidence.screening.bounds import save_reference
from meddiff_core.evidence.screening.reconstructed import Reconstructed
from meddiff_core.evidence.screening.verdicts import (
    KEPT,
    KEPT_DISTANCE,
    MEASURED,
    REQUESTED,
    SCORE,
    ScreenJob,
    accepted_volumes,
    columns_of,
    reject_duplicates,
    requested_conditions,
    screen_shard,
    screen_shards,
)
from meddiff_core.generation.schedule import Shard
from meddiff_core.models.autoencoder import Autoencoder, AutoencoderShape
from meddiff_core.models.images import load_images, to_stored
from meddiff_core.study import ScreenConfig
from meddiff_core.types import serial_map


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, make_heads: Callable, fit: Callable) -> Path:
    """A folder with the reference of a few training heads."""
    folder = tmp_path_factory.mktemp("study") / "reference"
    save_reference(folder, *fit(make_heads(24, 0), make_heads(8, 1), ScreenConfig(margin=1.0)))
    return folder


@pytest.fixture
def screened(tmp_path: Path, reference: Path, contract: Contract, finish: Callable) -> Callable[..., pd.DataFrame]:
    """Shards to their table."""

    def run(*shards: Shard, mapper: Any = serial_map, contract: Contract = contract) -> pd.DataFrame:
        table: pd.DataFrame = finish(screen_shards(shards, tmp_path / "candidates.zarr", reference, contract, mapper))
        return table

    return run


def kinds_of(row: Any) -> list[Any]:
    return [found.kind for found in rejections_of(row[REJECTIONS])]


def test_a_row_says_who_what_was_asked_what_was_measured_and_the_verdict(
    tmp_path: Path, reference: Path, contract: Contract, make_heads: Callable, save_shard: Callable
) -> None:
    heads = make_heads(2, 5)
    heads.images[1] = 0
    shard = save_shard("00-000004", heads, first=4)
    good, empty = screen_shard(ScreenJob(shard, tmp_path / "candidates.zarr", reference, contract))
    assert (good["sample_id"], good["slot"], good["attempt"], good["seed"]) == ("syn-000004-0", 4, 0, 74)
    assert (good["shard"], good["position"], empty["position"]) == ("00-000004", 0, 1)
    assert good[f"{REQUESTED}core_volume"] == 9.0
    assert (good[KEPT], good[KEPT_DISTANCE], empty[KEPT], empty[KEPT_DISTANCE]) == (0, None, 1, 0.5)
    measured = measure(heads.image(0), heads.label(0), contract)
    assert {name: good[f"{MEASURED}{name}"] for name in measured} == measured
    assert good[f"{SCORE}copy_score"] > 0
    assert (good["accepted"], good[REJECTIONS]) == (True, [])
    assert (empty["accepted"], kinds_of(empty)) == (False, [(CONTRAST, "below")])


def test_a_row_says_whether_it_was_asked_for_outside_the_training_range(
    make_heads: Callable, save_shard: Callable, screened: Callable, contract: Contract
) -> None:
    spec = ContinuousCondition(name="age", low=20, high=80, mean=50, std=10)
    shard = save_shard("00-000000", make_heads(2, 5))
    inside, outside = (
        replace(sample, condition={"age": age}) for sample, age in zip(shard.samples, (80.0, 81.0), strict=True)
    )
    table = screened(
        replace(shard, samples=(inside, outside)), contract=contract.model_copy(update={"conditions": (spec,)})
    )
    assert table[EXTRAPOLATED].tolist() == [False, True]


def test_every_reason_of_a_rejection_is_kept(make_heads: Callable, save_shard: Callable, screened: Callable) -> None:
    heads = make_heads(1, 5)
    heads.images[:] //= 4
    heads.labels[:] = np.minimum(heads.labels, 1)
    table = screened(save_shard("00-000000", heads))
    assert not table.loc[0, "accepted"]
    assert len(kinds_of(table.loc[0])) > 2
    assert ("volume_mm3:core", "below") in kinds_of(table.loc[0])


def test_the_table_is_in_the_order_of_the_shards_whichever_came_first(
    make_heads: Callable, save_shard: Callable, screened: Callable
) -> None:
    shards = [save_shard("00-000000", make_heads(2, 5)), save_shard("00-000002", make_heads(1, 6), first=2)]

    def backwards(function: Callable, items: list[Any]) -> Any:
        return reversed(list(serial_map(function, items)))

    table = screened(*shards)
    assert table["slot"].tolist() == [0, 1, 2]
    pd.testing.assert_frame_equal(screened(*shards, mapper=backwards), table)


def test_of_near_duplicates_the_first_stays(
    tmp_path: Path, reference: Path, contract: Contract, make_heads: Callable, save_shard: Callable, screened: Callable
) -> None:
    heads, others = make_heads(3, 5), make_heads(2, 6)
    others.images[0], others.labels[0] = heads.images[1] // 2 * 2, heads.labels[1]
    table = screened(save_shard("00-000000", heads), save_shard("00-000003", others, first=3))
    table["accepted"] = True
    before = table.copy()
    found = reject_duplicates(table, tmp_path / "candidates.zarr", reference, contract)
    assert found["accepted"].tolist() == [True, True, True, False, True]
    assert kinds_of(found.loc[3]) == [(DUPLICATE, "below")]
    pd.testing.assert_frame_equal(table, before)
    pd.testing.assert_frame_equal(found.drop(index=3), before.drop(index=3))


def test_a_rejected_volume_makes_no_later_one_a_duplicate(
    tmp_path: Path, reference: Path, contract: Contract, make_heads: Callable, save_shard: Callable, screened: Callable
) -> None:
    heads = make_heads(3, 5)
    heads.images[2] = heads.images[0]
    table = screened(save_shard("00-000000", heads))
    table["accepted"] = [False, True, True]
    found = reject_duplicates(table, tmp_path / "candidates.zarr", reference, contract)
    assert found["accepted"].tolist() == [False, True, True]


@pytest.mark.parametrize("accepted", [[False, False], [False, True]])
def test_fewer_than_two_volumes_have_no_duplicates(
    tmp_path: Path, reference: Path, contract: Contract, accepted: list[bool]
) -> None:
    table = pd.DataFrame({"accepted": accepted, REJECTIONS: [[], []], "shard": "none", "position": 0})
    found = reject_duplicates(table, tmp_path, reference, contract)
    assert found["accepted"].tolist() == accepted


def test_accepted_volumes_are_those_of_the_table_in_its_order(
    tmp_path: Path, make_heads: Callable, save_shard: Callable, screened: Callable
) -> None:
    heads = make_heads(3, 5)
    table = screened(save_shard("00-000000", heads))
    table["accepted"] = [True, False, True]
    volumes = accepted_volumes(table.iloc[::-1], tmp_path / "candidates.zarr")
    assert len(volumes) == 2
    np.testing.assert_array_equal(volumes.image(0), heads.image(2))
    np.testing.assert_array_equal(volumes.label(1), heads.label(0))


def test_columns_come_back_under_their_names_with_none_for_gaps() -> None:
    table = pd.DataFrame({"requested.age": [30.0, np.nan], "requested.sex": ["F", None], "measured.mean": [1, 2]})
    assert requested_conditions(table) == [{"age": 30.0, "sex": "F"}, {"age": None, "sex": None}]
    assert columns_of(table, MEASURED) == [{"mean": 1}, {"mean": 2}]


def test_what_screening_says_is_counted_without_a_single_figure(
    make_heads: Callable, save_shard: Callable, screened: Callable
) -> None:
    """Figures of single volumes have no place in a release."""
    heads = make_heads(3, 5)
    heads.images[0] //= 4
    heads.images[1] = np.random.default_rng(0).integers(0, 255, heads.images[1].shape)
    heads.labels[2] = 0
    counts = [one.summary for one in count_rejections(screened(save_shard("00-000000", heads)))]
    assert len(counts) > 3
    assert not [text for text in counts if any(word.replace(".", "").isdigit() for word in text.split())]


def test_reconstructed_volumes_are_what_the_network_gives_back(
    make_heads: Callable, contract: Contract, finish: Callable
) -> None:
    torch.manual_seed(0)
    network = Autoencoder(AutoencoderShape(in_channels=4, channels=(8, 8), latent_channels=1)).eval()
    heads = make_heads(2, 5)
    copies = finish(Reconstructed.of(network, heads, contract))
    assert len(copies) == 2
    with torch.inference_mode():
        images, labels = to_stored(network.reconstruct(load_images(heads, [1], contract)), contract)
    np.testing.assert_array_equal(copies.image(1), images[0])
    np.testing.assert_array_equal(copies.label(1), labels[0])
