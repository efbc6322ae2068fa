"""What is known of a wanted volume, as operators on the decoded volume.

Latents are never masked: one of them reaches far into a volume, and a mask on them would change regions far away.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from meddiff_core.applications.models import Decoded

Operator = Callable[[Decoded], Tensor]
"""A decoded batch to what would be measured of it, (b, ...); differentiable."""


@dataclass(frozen=True)
class Observation:
    """A measurement of the wanted volume, with Gaussian noise."""

    operator: Operator
    value: Tensor
    """(...) what was measured, the same for every sample of a batch."""
    std: Tensor
    """Standard deviation of the measurement and of the autoencoder there, a number or of the value's shape."""
