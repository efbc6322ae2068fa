"""Random choices are functions of what they are for, and stay so."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meddiff_core.models.randomness import batch_indices, derive_seed, generator_for


def test_a_seed_stays_what_it_was_in_the_first_version() -> None:
    """A change here changes every sample of every release: none could be made again."""
    assert derive_seed(0, "sample", 12, 0) == 94208627366087542


@settings(deadline=None)
@given(st.lists(st.integers() | st.text(max_size=5), min_size=1, max_size=4))
def test_a_seed_fits_what_torch_takes(parts: list[int | str]) -> None:
    assert 0 <= derive_seed(*parts) < 2**63
    generator_for(*parts)


def test_seeds_of_different_purposes_differ() -> None:
    paths = [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1), (0, "a"), ("a", 0, 1)]
    assert len({derive_seed(*path) for path in paths}) == len(paths)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 7), st.integers(0, 99))
def test_each_epoch_is_a_permutation(count: int, batch: int, seed: int) -> None:
    epochs = 3
    steps = -(-epochs * count // batch)
    drawn = torch.cat([batch_indices(count, batch, step, seed, "p") for step in range(steps)])
    for epoch in drawn[: epochs * count].split(count):
        assert sorted(epoch.tolist()) == list(range(count))


def test_a_batch_depends_on_its_step_alone() -> None:
    torch.manual_seed(1)
    alone = batch_indices(20, 3, 17, 5, "p")
    torch.manual_seed(2)
    for step in range(17):
        batch_indices(20, 3, step, 5, "p")
    assert torch.equal(batch_indices(20, 3, 17, 5, "p"), alone)


@pytest.mark.parametrize("other", [(20, 3, 0, 6, "p"), (20, 3, 0, 5, "q"), (20, 3, 7, 5, "p")])
def test_another_seed_purpose_or_epoch_is_another_order(other: tuple[int, int, int, int, str]) -> None:
    assert not torch.equal(batch_indices(*other), batch_indices(20, 3, 0, 5, "p"))


def test_the_global_generator_is_neither_used_nor_moved() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    torch.randn(3, generator=generator_for("a"))
    batch_indices(5, 2, 0, 0, "p")
    assert torch.equal(torch.get_rng_state(), before)
