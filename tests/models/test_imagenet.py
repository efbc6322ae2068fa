"""The ImageNet network as a judge of volumes: what its distance sees, and that it learns nothing itself."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

pytest.importorskip("efficientnet_lite_pytorch")

from meddiff_core.models.imagenet import imagenet_distance, imagenet_network

PLACES = torch.tensor([[0.25, 0.5], [0.3, 0.9], [0.0, 0.6]])


def volumes(count: int, seed: int = 0) -> Tensor:
    """Blocks of 4 voxels in [0, 1]: edges to be seen."""
    blocks = torch.rand(count, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
    return blocks.repeat_interleave(4, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)


def distance(found: Tensor, target: Tensor) -> Tensor:
    return imagenet_distance(imagenet_network("cpu"), found, target, PLACES, (1.0, 1.0, 1.0))


def test_blur_is_farther_than_a_brighter_image_of_the_same_error() -> None:
    sharp = volumes(2)
    blurred = torch.nn.functional.avg_pool3d(sharp[:, None], 3, stride=1, padding=1, count_include_pad=False)[:, 0]
    brighter = sharp + (blurred - sharp).abs().mean()
    assert distance(blurred, sharp) > 2 * distance(brighter, sharp)
    assert distance(sharp, sharp) == 0


def test_the_distance_of_a_batch_is_the_mean_of_its_items() -> None:
    found, target = volumes(3, 0), volumes(3, 1)
    each = [distance(found[n : n + 1], target[n : n + 1]) for n in range(3)]
    assert_close(distance(found, target), torch.stack(each).mean())


@pytest.mark.parametrize("size", [(16, 16, 16), (16, 16, 300)])
def test_it_looks_at_all_voxels_of_the_given_slices_and_nowhere_else(size: tuple[int, int, int]) -> None:
    found, target = (torch.rand(1, *size, generator=torch.Generator().manual_seed(n)) for n in (0, 1))
    distance(found.requires_grad_(), target).backward()
    assert found.grad is not None
    expected = torch.zeros(size, dtype=torch.bool)
    for axis, places in enumerate(PLACES.tolist()):
        expected.index_fill_(axis, torch.tensor([int(place * size[axis]) for place in places]), True)
    assert torch.equal(found.grad[0] != 0, expected)


def test_the_network_is_frozen() -> None:
    network = imagenet_network("cpu")
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
