"""What makes one person's brain and scan differ from another's, by seed, age and sex."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Traits:
    """What makes one person's brain and scan differ from another's."""

    matrix: NDArray[np.float64]
    """(3, 3), scanner mm to anatomical mm: size, proportions and pose."""
    waves: NDArray[np.float64]
    """(3, 3, 7): per axis three smooth displacements, each an amplitude, three lengths and three phases."""
    ventricle: float
    """Factor on the radius of the ventricles."""
    cortex_mm: float
    sulcus_mm: float
    """Half of a sulcus's width at depth."""
    fold_seed: int
    bias: NDArray[np.float64]
    """(3, 2): per axis an amplitude and a phase of the coil's sensitivity."""
    gain: float
    noise: float
    """Standard deviation, as a share of white matter."""
    grey: float
    """Brightness of the cortex."""


def random_traits(rng: np.random.Generator, age: float, sex: str) -> Traits:
    """Random traits of a person; the random numbers behind them do not depend on age and sex."""
    years = (min(max(age, 18.0), 90.0) - 50) / 30
    size, ventricle, cortex, sulcus, gain, noise, grey = (float(u) for u in np.clip(rng.standard_normal(7), -2, 2))
    volume = 1.04 if sex == "M" else 0.96
    proportions = 1 + 0.015 * np.clip(rng.standard_normal(3), -2, 2)
    scale = 0.97 * volume ** (1 / 3) * (1 + 0.02 * size) * proportions
    pitch, roll, yaw = np.deg2rad([2.2, 0.9, 0.9]) * np.clip(rng.standard_normal(3), -2, 2)
    return Traits(
        matrix=_rotation(pitch, roll, yaw) / scale[:, None],
        waves=rng.uniform(-1, 1, (3, 3, 7)),
        ventricle=1.35 * math.exp(0.37 * years + 0.15 * ventricle),
        cortex_mm=2.5 - 0.23 * years + 0.1 * cortex,
        sulcus_mm=max(0.15, 0.55 + 0.4 * years + 0.12 * sulcus),
        fold_seed=int(rng.integers(2**53)),
        bias=rng.uniform(-1, 1, (3, 2)),
        gain=600 * math.exp(0.15 * gain),
        noise=0.012 * (1 + 0.25 * noise),
        grey=0.66 * (1 - 0.04 * years + 0.03 * grey),
    )


def _rotation(pitch: float, roll: float, yaw: float) -> NDArray[np.float64]:
    (cp, cr, cy), (sp, sr, sy) = np.cos([pitch, roll, yaw]), np.sin([pitch, roll, yaw])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_y = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return np.asarray(about_x @ about_y @ about_z)
