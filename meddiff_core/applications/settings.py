"""How a task is done: what a person may choose, and what follows from it."""

from pydantic import Field

from meddiff_core.contract import Condition, Frozen


class TaskSettings(Frozen):
    """Settings of one task; a result is a function of these, the scan and the models."""

    samples: int = 8
    """Posterior samples: their mean is the result, their spread its uncertainty."""
    steps: int = 15
    """Noise levels."""
    levels: int = Field(default=9, ge=2)
    """Noise levels of tasks that sample volumes given a scan: each costs more there."""
    seed: int = 0
    asked: Condition = Field(default_factory=dict)
    """Conditions that the result shall have, where they differ from the scan's."""
    noise: float | None = None
    """denoise: standard deviation of the noise, as a share of the intensity range. None: estimated from the scan."""
    undersampling: int = 4
    """reconstruct: how many times fewer lines than the grid has."""
    strength: float = 0.4
    """edit: how far back to noise, from 0 (the scan itself) to 1 (nothing of it is left)."""
    extrapolate: bool = False
    """Allow conditions outside the range that training saw."""
