"""A checkpoint is whole or an error, and loading one runs nothing."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from meddiff_core.errors import IntegrityError
from meddiff_core.models.checkpoint import (
    Tensors,
    digest_checkpoint,
    load_checkpoint,
    load_weights,
    optimizer_tensors,
    prefixed,
    restore_optimizer,
    save_checkpoint,
    unprefixed,
)

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3, dtype=torch.int64), "empty": torch.zeros(0, 2)}


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_tensors_and_facts_come_back(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", TENSORS, {"size": [16, 16], "name": "é"})
    tensors, facts = load_checkpoint(tmp_path / "model")
    assert same(tensors, TENSORS)
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {n: t.dtype for n, t in TENSORS.items()}
    assert facts == {"size": [16, 16], "name": "é"}


def test_shared_and_strided_tensors_come_back(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(1, 2, 2, 2, 3)
    tensors = {"one": base, "same": base, "strided": base.to(memory_format=torch.channels_last_3d)}
    save_checkpoint(tmp_path / "model", tensors, {})
    assert same(load_checkpoint(tmp_path / "model")[0], tensors)


def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        save_checkpoint(tmp_path / name, TENSORS, {"steps": 3})
    assert digest_checkpoint(tmp_path / "one") == digest_checkpoint(tmp_path / "other")


def test_no_file_of_a_checkpoint_is_a_pickle(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", TENSORS, {})
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["facts.json", "tensors.safetensors"]
    header = (tmp_path / "model" / "tensors.safetensors").read_bytes()
    assert json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["a"]["shape"] == [2, 3]


@pytest.mark.parametrize("name", ["facts.json", "tensors.safetensors"])
@pytest.mark.parametrize("kept", [None, 0.0, 0.5, 0.99])
def test_half_a_checkpoint_is_an_error(tmp_path: Path, name: str, kept: float | None) -> None:
    save_checkpoint(tmp_path / "model", TENSORS, {"steps": 3})
    path = tmp_path / "model" / name
    content = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(content[: int(kept * (len(content) - 1))])
    with pytest.raises(IntegrityError, match="checkpoint model must hold"):
        load_checkpoint(tmp_path / "model")


def test_a_checkpoint_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="checkpoint model must hold"):
        load_checkpoint(tmp_path / "model")


def test_facts_that_json_cannot_say_leave_the_old_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", TENSORS, {"loss": 1.0})
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path / "model", TENSORS, {"loss": float("nan")})
    assert load_checkpoint(tmp_path / "model")[1] == {"loss": 1.0}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_sets_of_tensors_keep_apart_in_one_file() -> None:
    both = prefixed("net", {"w": torch.ones(1)}) | prefixed("net2", {"w": torch.zeros(1)})
    assert same(unprefixed("net", both), {"w": torch.ones(1)})


@pytest.mark.parametrize("other", [nn.Linear(3, 3), nn.Linear(2, 2, bias=False), nn.Bilinear(2, 2, 2)])
def test_weights_of_another_network_are_refused(other: nn.Module) -> None:
    with pytest.raises(IntegrityError, match="weights do not fit Linear"):
        load_weights(nn.Linear(2, 2), other.state_dict())


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_an_optimiser_goes_on_as_if_it_had_never_stopped(kind: type[torch.optim.Optimizer]) -> None:
    def start() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = nn.Conv3d(1, 2, 3)
        return network, kind(network.parameters(), lr=0.1)  # type: ignore[call-arg]

    def step(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        inputs = torch.randn((1, 1, 4, 4, 4), generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        network(inputs).square().sum().backward()
        optimizer.step()

    network, optimizer = start()
    for seed in range(4):
        step(network, optimizer, seed)
    first, stopped = start()
    for seed in range(2):
        step(first, stopped, seed)
    second, resumed = start()
    second.load_state_dict(first.state_dict())
    restore_optimizer(resumed, optimizer_tensors(stopped))
    for seed in range(2, 4):
        step(second, resumed, seed)
    assert same(network.state_dict(), second.state_dict())
    assert same(optimizer_tensors(optimizer), optimizer_tensors(resumed))
