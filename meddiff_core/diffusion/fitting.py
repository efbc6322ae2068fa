"""Noise levels fitted to a denoiser: dense where its flow is curved, sparse where it is straight.

Karras's levels are a compromise for many data sets; a study has one. The error of a step follows from derivatives of
the denoised latents along a few fine walks, so levels can be placed where this denoiser needs them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from meddiff_core.diffusion.solvers import DenoisedAt, solve_adams
from meddiff_core.types import Latents, Sigma

Matrix = NDArray[np.float64]
TRACED = 64
"""Levels of the fine walk, at even distances in ln(sigma)."""
ELEMENTS = 20_000
"""Elements of the latents that are followed, at most."""
EVEN = 1 / 3
"""Share of the levels that is spread evenly over ln(sigma) whatever was found: where a flow seems straight, terms
beyond the leading one would grow with the step."""
EDGE = 3
"""Levels at either end of the walk where a third derivative would look beyond it."""


@dataclass(frozen=True)
class Trace:
    """A fine walk down a flow, seen at some elements of some samples."""

    places: Matrix
    """(levels,) -ln(sigma), rising evenly."""
    states: Matrix
    """(levels, samples, elements) latents with noise."""
    denoised: Matrix
    """(levels, samples, elements) their expectation without."""


class Leading(NamedTuple):
    """The leading term of the error that a solver makes in a step h of -ln(sigma)."""

    order: int
    """The term is of order h ** (order + 1)."""
    terms: tuple[float, float, float]
    """It is a multiple of these times the first three derivatives of the denoised latents along the flow."""
    history: int
    """Steps from the oldest level that the solver remembers to where it leads; 0 if it remembers none."""


LEADING = {
    "euler": Leading(1, (1, 0, 0), 0),
    "heun": Leading(2, (2, 1, 0), 0),
    "dpmpp_2m": Leading(2, (1, 5, 0), 2),
    "adams": Leading(3, (0, 0, 1), 3),
}
"""Leading error terms by the solvers' names in a study, for even steps: from Taylor's theorem and solvers.py."""


def trace_flow(denoiser: DenoisedAt, noise: Latents, low: float, high: float) -> Trace:
    """Walk from `high` to `low`, from standard normal noise of two samples or more."""
    chosen = torch.randperm(noise[0].numel(), generator=torch.Generator().manual_seed(0))[:ELEMENTS]
    seen = list[Matrix]()

    def followed(noisy: Latents, sigma: Sigma) -> Latents:
        denoised = denoiser(noisy, sigma)
        seen.append(torch.stack([noisy, denoised]).flatten(2).cpu()[:, :, chosen].double().numpy())
        return denoised

    sigmas = torch.logspace(np.log10(high), np.log10(low), TRACED, dtype=torch.float64)
    solve_adams(followed, noise * high, torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)]))
    return Trace(-sigmas.log().numpy(), *np.stack(seen, axis=1))


def fit_levels(trace: Trace, solver: str, count: int) -> tuple[float, ...]:
    """`count` falling noise levels between the ends of a trace, to five digits, such that all steps err alike.

    The principle of equidistribution (de Boor 1973): a step h errs by `density * h ** (order + 1)`, so levels lie as
    densely as `density ** (1 / (order + 1))`. A multistep solver errs by the worst of all that it looks back on.
    """
    order, _, history = LEADING[solver]
    back = round(history * (len(trace.places) - 1) / (count - 1))
    density = _highest_behind(error_density(trace, solver), back) ** (1 / (order + 1))
    share = (1 - EVEN) * density / density.mean() + EVEN
    reached = np.concatenate([[0], np.cumsum((share[1:] + share[:-1]) / 2)])
    places = np.interp(np.linspace(0, reached[-1], count), reached, trace.places)
    return tuple(float(f"{level:.5g}") for level in np.exp(-places))


def error_density(trace: Trace, solver: str) -> Matrix:
    """(levels,) root mean square, up to a factor, of what a solver's steps add to the end's error at each place.

    Later steps shrink an error. By how much is taken from the spread of an element over the samples, there and at the
    end, which is exact for Gaussian data of independent elements.
    """
    derivatives = _derivatives(trace.denoised, float(trace.places[1] - trace.places[0]))
    terms = zip(LEADING[solver].terms, derivatives, strict=True)
    error = np.add.reduce([factor * derivative for factor, derivative in terms if factor])
    spread = trace.states.std(axis=1, keepdims=True)
    density = np.sqrt(np.square(error * (spread[-1:] / spread)).mean(axis=(1, 2)))
    return np.asarray(np.pad(density[EDGE:-EDGE], EDGE, mode="edge") + np.finfo(np.float64).tiny)


def _derivatives(values: Matrix, step: float) -> list[Matrix]:
    """The first three by the first axis."""
    found = [values]
    for _ in range(3):
        found.append(np.gradient(found[-1], step, axis=0))
    return found[1:]


def _highest_behind(values: Matrix, count: int) -> Matrix:
    """The highest of each value and so many before it."""
    padded = np.pad(values, (count, 0), mode="edge")
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, count + 1).max(axis=1))
