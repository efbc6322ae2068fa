"""A volume decoded in tiles is the volume decoded at once, in less memory."""

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from meddiff_core.models.autoencoder import Autoencoder, AutoencoderArguments, AutoencoderShape
from meddiff_core.models.fused_layers import UpsamplingConvolution, upsampled_and_convolved
from meddiff_core.models.inference import footprint
from meddiff_core.models.inference.exact_group_norm import ExactGroupNorm, use_exact_group_norms
from meddiff_core.models.inference.footprint import needs_tiles, untiled_bytes
from meddiff_core.models.inference.instructions import bfloat16_instructions
from meddiff_core.models.inference.packed import packed
from meddiff_core.models.inference.tiled import decode_tiled, first_streamed

TWO, THREE = (8, 16), (8, 16, 24)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def autoencoder(channels: tuple[int, ...] = THREE, **changes: Any) -> Autoencoder:
    """One whose norms, biases and shortcuts matter."""
    torch.manual_seed(0)
    network = Autoencoder(AutoencoderShape(in_channels=3, channels=channels, latent_channels=2, **changes))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval().requires_grad_(False)


def arguments(blocks: int, attention: tuple[bool, ...]) -> AutoencoderArguments:
    return AutoencoderArguments(
        num_res_blocks=(blocks,) * len(attention), attention_levels=attention, norm_num_groups=4
    )


def latents(u: int, v: int = 3, w: int = 4, count: int = 1) -> Tensor:
    """Brighter along i: what a tile sees is not what the volume is."""
    drawn = torch.randn(count, 2, u, v, w, generator=torch.Generator().manual_seed(0))
    return drawn + torch.linspace(-2, 2, u)[:, None, None]


def blocks(network: Autoencoder) -> list[nn.Module]:
    return list(network.network.decoder.get_submodule("blocks").children())


PLAIN = {channels: autoencoder(channels) for channels in (TWO, THREE)}
PACKED = {channels: packed(network) for channels, network in PLAIN.items()}


@settings(max_examples=30)
@given(
    channels=st.sampled_from([TWO, THREE]),
    sizes=st.tuples(*[st.integers(1, 6)] * 3),
    count=st.integers(1, 2),
    slab=st.integers(1, 30),
)
def test_tiles_change_nothing(channels: tuple[int, ...], sizes: tuple[int, int, int], count: int, slab: int) -> None:
    drawn = latents(*sizes, count=count)
    wanted = PLAIN[channels].decode(drawn)
    torch.testing.assert_close(decode_tiled(PLAIN[channels], drawn, slab), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(decode_tiled(PACKED[channels], drawn, slab), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("slab", [1, 5, 8, 100])
def test_tiles_of_a_packed_network_change_no_bit(slab: int) -> None:
    drawn = latents(7)
    assert torch.equal(decode_tiled(PACKED[THREE], drawn, slab), PACKED[THREE].decode(drawn))


@pytest.mark.skipif(bfloat16_instructions() is None, reason="no instructions for bfloat16")
@pytest.mark.parametrize("slab", [1, 5, 100])
def test_tiles_in_bfloat16_change_no_bit(slab: int) -> None:
    network, drawn = packed(PLAIN[THREE], torch.bfloat16), latents(7)
    assert torch.equal(decode_tiled(network, drawn, slab), network.decode(drawn))


def test_it_is_as_exact_in_float64() -> None:
    network = autoencoder().double()
    drawn = latents(5).double()
    torch.testing.assert_close(decode_tiled(network, drawn, 3), network.decode(drawn), rtol=1e-12, atol=1e-12)


def test_norms_of_tiles_by_themselves_give_another_volume() -> None:
    """The data can tell the two apart, so the tests above hold norms to the whole volume."""
    network, drawn = PLAIN[TWO], latents(8)
    halves = torch.cat([decode_tiled(network, half) for half in drawn.split(4, dim=2)], dim=2)
    inner = slice(0, 4)  # far from the cut, where no halo is missing
    assert (halves - network.decode(drawn))[:, :, inner].abs().max() > 1e-2


@pytest.mark.parametrize(
    ("attention", "whole"), [((False, False, False), 0), ((False, False, True), 3), ((False, True, False), 5)]
)
@pytest.mark.parametrize("form", [lambda network: network, packed])
def test_what_needs_the_whole_volume_runs_at_once(
    attention: tuple[bool, ...], whole: int, form: Callable[[Autoencoder], Autoencoder]
) -> None:
    network = form(autoencoder(arguments=arguments(1, attention)))
    assert first_streamed(blocks(network)) == whole
    torch.testing.assert_close(decode_tiled(network, latents(5), 3), network.decode(latents(5)), rtol=1e-5, atol=1e-5)


def test_several_blocks_a_level_and_another_range() -> None:
    network = autoencoder(arguments=arguments(2, (False,) * 3), image_range=(0.0, 1.0))
    torch.testing.assert_close(decode_tiled(network, latents(5), 3), network.decode(latents(5)), rtol=1e-5, atol=1e-5)


def test_an_empty_slab_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 slice, got 0"):
        decode_tiled(PLAIN[TWO], latents(2), 0)


def test_nothing_stays_in_the_scratch_folder(tmp_path: Path) -> None:
    decode_tiled(PLAIN[TWO], latents(4), scratch=tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):  # it is used
        decode_tiled(PLAIN[TWO], latents(4), scratch=tmp_path / "absent")


@pytest.mark.parametrize("haloed", [False, True])
def test_upsampling_of_a_gpu_is_that_of_a_cpu(haloed: bool) -> None:
    """It needs no GPU to be computed."""
    layer = next(block for block in blocks(PLAIN[TWO]) if isinstance(block, UpsamplingConvolution))
    x = torch.randn(1, 16, 5, 3, 4)
    found = upsampled_and_convolved(x, layer.convolution, haloed)
    torch.testing.assert_close(found, layer(x, haloed=haloed), rtol=1e-4, atol=1e-5)


def test_exact_moments_are_those_of_float64() -> None:
    norm = nn.GroupNorm(2, 4, eps=1e-3).requires_grad_(False)
    norm.weight.normal_()
    norm.bias.normal_()
    x = (torch.randn(3, 4, 40, 40, 40) + 10).contiguous(memory_format=torch.channels_last_3d)
    network = nn.Sequential(norm)
    use_exact_group_norms(network)
    assert isinstance(network[0], ExactGroupNorm)
    assert list(network.state_dict()) == ["0.weight", "0.bias"]
    wanted = functional.group_norm(x.double(), 2, norm.weight.double(), norm.bias.double(), 1e-3)
    torch.testing.assert_close(network(x).double(), wanted, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_a_group_norm() -> None:
    norm, x = nn.GroupNorm(2, 4), torch.randn(2, 4, 3, 3, 3, requires_grad=True)
    network = nn.Sequential(norm)
    use_exact_group_norms(network)
    with torch.enable_grad():
        wanted, found = (torch.autograd.grad(f(x).pow(3).sum(), [x, norm.weight]) for f in (norm, network))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


class Residents(TorchDispatchMode):
    """The most bytes that tensors held at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self._now = 0
        self._known = set[int]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, result)):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place not in self._known:
            self._known.add(place)
            self._now += size
            self.most = max(self.most, self._now)
            weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self._known.discard(place)
        self._now -= size


def resident(work: Callable[[], Tensor]) -> int:
    with Residents() as residents:
        work()
    return residents.most


@pytest.mark.parametrize("network", [PLAIN[THREE], PACKED[THREE]])
def test_a_long_volume_takes_a_fraction_of_the_memory(network: Autoencoder) -> None:
    drawn = latents(40, 8, 8)
    assert resident(lambda: decode_tiled(network, drawn)) < resident(lambda: network.decode(drawn)) / 4


@pytest.mark.parametrize("channels", [TWO, THREE, (8, 8), (8, 24, 24)])
@pytest.mark.parametrize("count", [1, 2])
def test_memory_is_foreseen(channels: tuple[int, ...], count: int) -> None:
    network = packed(autoencoder(channels))
    drawn = latents(10, 8, 8, count)
    i, j, k = (side * factor for side, factor in zip(drawn.shape[2:], network.shape.downsampling, strict=True))
    found = resident(lambda: network.decode(drawn))
    assert found == pytest.approx(untiled_bytes(network, (i, j, k), count), rel=0.25)


def test_tiles_are_for_volumes_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    network, size = PLAIN[THREE], (16, 16, 16)
    needed = untiled_bytes(network, size)
    for ample, wanted in [(needed, False), (needed - 1, True)]:
        monkeypatch.setattr(footprint, "AMPLE_BYTES", ample)
        assert needs_tiles(network, size, 8, "cpu") == wanted  # a CPU decodes one at a time, whatever the batch
