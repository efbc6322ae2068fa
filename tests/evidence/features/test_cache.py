"""Features that are kept."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from meddiff_core.evidence.features.cache import BLOCK, CachedExtractor, KeptVolumes
from meddiff_core.evidence.features.records import extract, require_same_origin


@dataclass(frozen=True)
class Means:
    """The mean of each volume, and a note of how many were asked for."""

    contract: object
    name: str = "means"
    digest: str = "1" * 64
    asked: list[int] = field(default_factory=list)
    most: int = 1000

    def __call__(self, volumes, indices):
        if sum(self.asked) + len(indices) > self.most:
            raise OSError("the disk is gone")
        self.asked.append(len(indices))
        return np.array([[volumes.image(index).mean(), volumes.image(index).std()] for index in indices], np.float32)


@dataclass(frozen=True)
class Whole:
    volumes: object

    def __len__(self):
        return len(self.volumes)

    def image(self, index):
        return self.volumes.image(index)

    def label(self, index):
        return self.volumes.label(index)


def backwards(function, items):
    for position in reversed(range(len(items))):
        yield position, function(items[position])


@pytest.fixture
def kept(make_heads):
    return KeptVolumes(make_heads(5, 0).take(np.arange(2 * BLOCK + 3) % 5), "train", "a" * 64)


def test_features_are_the_same_with_and_without_the_cache_and_in_any_order(kept, contract, tmp_path, finish):
    plain = finish(extract(Means(contract), kept))
    for folder, how in ((tmp_path / "one", {}), (tmp_path / "other", {"mapper": backwards})):
        cached = finish(extract(CachedExtractor(Means(contract), folder, **how), kept))
        np.testing.assert_array_equal(cached.values, plain.values)
        require_same_origin(cached.origin, plain.origin)


def test_finished_block_is_not_computed_twice(kept, contract, tmp_path, finish):
    failing = Means(contract, most=1 + BLOCK)  # the first tells how wide a vector is
    with pytest.raises(OSError, match="gone"):
        finish(extract(CachedExtractor(failing, tmp_path), kept))
    again = Means(contract)
    finish(extract(CachedExtractor(again, tmp_path), kept))
    assert again.asked == [BLOCK, 3]
    finish(extract(CachedExtractor(again, tmp_path), kept))
    assert again.asked == [BLOCK, 3]


@pytest.mark.parametrize("changed", ["extractor", "volumes", "contract"])
def test_nothing_is_taken_from_another_digest(kept, contract, tmp_path, finish, changed):
    finish(extract(CachedExtractor(Means(contract), tmp_path), kept))
    extractor = Means(contract)
    if changed == "extractor":
        extractor = replace(extractor, digest="2" * 64)
    if changed == "contract":
        extractor = replace(extractor, contract=contract.model_copy(update={"spacing_mm": (3.0,) * 3}))
    other = replace(kept, digest="b" * 64) if changed == "volumes" else kept
    finish(extract(CachedExtractor(extractor, tmp_path), other))
    assert extractor.asked == [1, BLOCK, BLOCK, 3]


def test_volumes_that_cannot_be_divided_give_the_same(kept, contract, tmp_path, finish):
    whole = replace(kept, volumes=Whole(kept.volumes), digest="c" * 64)
    expected = finish(extract(Means(contract), kept)).values
    np.testing.assert_array_equal(finish(extract(CachedExtractor(Means(contract), tmp_path), whole)).values, expected)


def test_sets_without_a_digest_leave_no_trace(make_heads, contract, tmp_path, finish):
    found = finish(extract(CachedExtractor(Means(contract), tmp_path), make_heads(3, 0)))
    assert len(found) == 3
    assert not list(tmp_path.iterdir())
