"""Networks in bfloat16 against themselves in float32, before a volume is sampled with them.

Kernels for bfloat16 are young: some gave wrong numbers for shapes that few people test, such as a side of 1 behind a
stride. So whole networks are compared, at the size at which they are about to work.
"""

import torch
from torch import Tensor

from meddiff_core.errors import ConfigurationError
from meddiff_core.models.autoencoder import Autoencoder
from meddiff_core.models.denoiser import Denoiser
from meddiff_core.models.inference.packed import packed
from meddiff_core.models.inference.tiled import decode_tiled
from meddiff_core.types import Latents

TOLERANCE = 0.03
"""Largest root mean square of a difference, as a share of that in float32. Rounding makes some 0.003 of it."""


@torch.inference_mode()
def check_denoiser(network: Denoiser, rounded: Denoiser, noise: Latents, levels: tuple[float, ...]) -> None:
    """Compare what both answer to standard normal `noise` (b, c, i, j, k) at noise levels, without conditions.

    Raises:
        ConfigurationError: they differ by more than `TOLERANCE`.
    """
    exact = packed(network)
    conditions = torch.full((len(noise), len(network.specs)), torch.nan)
    for level in levels:
        sigma = torch.full((len(noise),), level)
        row = network.clock(sigma)
        answers = [one(noise / row.c_in, sigma, conditions) - row.c_skip * noise / row.c_in for one in (exact, rounded)]
        _require_near(f"denoiser at noise level {level:g}", *answers)


@torch.inference_mode()
def check_decoder(network: Autoencoder, rounded: Autoencoder, latents: Latents, tiled: bool) -> None:
    """Compare what both decode latents (b, c, i, j, k) to.

    Raises:
        ConfigurationError: they differ by more than `TOLERANCE`.
    """
    decode = decode_tiled if tiled else Autoencoder.decode
    _require_near("decoder", decode(packed(network), latents), decode(rounded, latents))


def _require_near(what: str, exact: Tensor, found: Tensor) -> None:
    off, size = float((found - exact).norm()), float(exact.norm())
    if not off <= TOLERANCE * size:
        share = off / size if size else off
        raise ConfigurationError(
            f"sampling.precision: must be float32 for these models on this processor, is bfloat16; the {what} differs "
            f"by {share:.2%} from float32, more than {TOLERANCE:.0%}"
        )
