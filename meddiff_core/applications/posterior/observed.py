"""A posterior is another denoiser: the expectation of the latents without noise, given observations as well.

Given noisy latents, those without noise are taken for Gaussian around what the denoiser says, with the variance that
Gaussian data of prior variance `v` have there, `v sigma^2 / (v + sigma^2)`; so a sample is exact for Gaussian data and
linear observations. The most likely latents under both are found through the decoder alone, as in DiffPIR (Zhu et al.
2023) and JFPS (as azula has it); `through_denoiser` takes the denoiser's own Jacobian for the covariance, as TMPD
(Boys et al. 2023) and MMPS (Rozet et al. 2024) do. With as many gradients, 20 a sample, that met the image of one brain
scan at 4 mm to 3.5 standard deviations instead of 0.6, in half as much time again, and was left an option. DPS
(Chung et al. 2023) makes one gradient step instead. How well the observations are met is a figure of every result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from meddiff_core.applications.models import Decoded
from meddiff_core.applications.posterior.observation import Observation
from meddiff_core.diffusion.solvers import DenoisedAt
from meddiff_core.models.randomness import generator_for
from meddiff_core.types import Latents, Sigma

Decode = Callable[[Latents], Decoded]
PROBES = 8
"""Random signs by which the curvature of the observations is measured at each latent."""
LEAST_CURVATURE = 0.03
"""Of a latent, as a share of the mean over its neighbours: few signs may happen to cancel out."""
MEMORY = 24
"""Steps whose curvature is remembered."""
SUFFICIENT = 1e-4
"""Share of the decrease along a tangent that a step must reach (Armijo's rule)."""
SMALLEST_STEP = 0.1


@dataclass(frozen=True)
class Effort:
    """Evaluations of the decoder with its gradient, of which nearly all time is spent."""

    first: int = 16
    """Before the first noise level, for what all samples have in common."""
    level: int = 2
    """At each noise level."""
    last: int = 3
    """At noise levels below `low`, where what is observed decides."""
    low: float = 0.15
    """Standard deviations of the latents."""

    def at(self, sigma: float) -> int:
        """Evaluations at a noise level."""
        return self.last if sigma <= self.low else self.level


class Misfit:
    """How far decoded latents (1, z, u, v, w) are from what was observed."""

    def __init__(self, decode: Decode, observations: Sequence[Observation]) -> None:
        self._decode, self._observations = decode, observations
        self.names = [observation.name for observation in observations]

    def residuals(self, latents: Latents) -> list[Tensor]:
        """Differences of each observation, in its standard deviations."""
        decoded = self._decode(latents)
        return [(one.operator(decoded) - one.value) / one.std for one in self._observations]

    def at(self, latents: Latents) -> "Point":
        """Latents, and the sum of squared differences there with its gradient."""
        with torch.enable_grad():
            tracked = latents.detach().requires_grad_()
            residuals = self.residuals(tracked)
            half = torch.stack([0.5 * residual.double().square().sum() for residual in residuals])
            gradient = torch.autograd.grad(half.sum(), tracked)[0]
        chi = [float(residual.detach().square().mean().sqrt()) for residual in residuals]
        return Point(latents, float(half.detach().sum()), gradient, tuple(chi))

    def curvature(self, latents: Latents) -> Latents:
        """Second derivative of the sum at each latent, at least a small share of its neighbours' mean.

        Its expectation over random signs is the diagonal of J'J, where J is the Jacobian of the residuals. It is not
        averaged over neighbours: latents within a hole would no longer be free.
        """
        with torch.enable_grad():
            tracked = latents.detach().requires_grad_()
            residuals = self.residuals(tracked)
            squares = torch.zeros_like(latents)
            for number in range(PROBES):
                random = generator_for("posterior", "curvature", number)
                signs = [torch.randint(0, 2, one.shape, generator=random).to(one) * 2 - 1 for one in residuals]
                along = torch.autograd.grad(residuals, tracked, signs, retain_graph=number + 1 < PROBES)[0]
                squares += along.square() / PROBES
        near = functional.avg_pool3d(functional.pad(squares, (1,) * 6, mode="replicate"), 3, stride=1)
        return torch.maximum(squares, LEAST_CURVATURE * near)


@dataclass(frozen=True)
class Point:
    """Latents of one sample, and the misfit there."""

    latents: Latents
    half: float
    """Half the sum of squared differences, in standard deviations."""
    gradient: Latents
    """Of `half`."""
    chi: tuple[float, ...]
    """Root mean square of the differences of each observation: about 1 where it is met as well as it was measured."""


@dataclass(frozen=True)
class Curvature:
    """Second derivatives of the misfit alone: those of the prior are known, and change with the noise level."""

    diagonal: Latents
    steps: tuple[tuple[Latents, Latents], ...] = ()
    """Steps that were made, and by how much the misfit's gradient changed along each; the newest last."""

    def grown(self, old: Point, new: Point) -> "Curvature":
        """With one step more."""
        step, change = new.latents - old.latents, new.gradient - old.gradient
        if _dot(step, change) <= 1e-6 * _dot(step, step):
            return self
        return replace(self, steps=(*self.steps, (step, change))[-MEMORY:])

    def newton_step(self, gradient: Latents, precision: Latents) -> Latents:
        """Minus the inverse of misfit's and prior's curvature, times the gradient of both (L-BFGS in two loops)."""
        pairs = [(step, change + precision * step) for step, change in self.steps]
        left, shares = gradient, list[float]()
        for step, change in reversed(pairs):
            shares.append(_dot(step, left) / _dot(step, change))
            left = left - shares[-1] * change
        left = left / (self._scale() * self.diagonal + precision)
        for (step, change), share in zip(pairs, reversed(shares), strict=True):
            left = left + (share - _dot(change, left) / _dot(step, change)) * step
        return -left

    def _scale(self) -> float:
        """By how much the diagonal falls short along the last step, as latents act on voxels together."""
        if not self.steps:
            return 4.0
        step, change = self.steps[-1]
        return max(1.0, _dot(change, change / (self.diagonal + 1e-3 * self.diagonal.mean())) / _dot(step, change))


@dataclass(frozen=True)
class Fitted:
    """Where one sample is."""

    point: Point
    curvature: Curvature


@dataclass(frozen=True)
class Dual:
    """Where one sample is under a covariance whose inverse nobody knows."""

    point: Point
    dual: Latents
    """Inverse covariance times the latents' distance from the prior's mean."""
    length: float
    """Of the next step."""


def fit(misfit: Misfit, begin: Fitted, centre: Latents, precision: Latents, evaluations: int) -> Fitted:
    """Steps towards the most likely latents, given a Gaussian prior around `centre` besides what was observed."""

    def potential(point: Point) -> float:
        offset = point.latents - centre
        return point.half + 0.5 * _dot(offset, precision * offset)

    point, curvature, length = begin.point, begin.curvature, 1.0
    for _ in range(evaluations):
        gradient = point.gradient + precision * (point.latents - centre)
        step = curvature.newton_step(gradient, precision)
        reached = misfit.at(point.latents + length * step)
        curvature = curvature.grown(point, reached)
        if potential(reached) <= potential(point) + SUFFICIENT * length * _dot(gradient, step):
            point, length = reached, 1.0
        else:
            length = max(length / 3, SMALLEST_STEP**2)
    return Fitted(point, curvature)


def fit_through(
    misfit: Misfit, centre_at: Callable[[Latents], Latents], noisy: Latents, sigma: float, begin: Dual, evaluations: int
) -> Dual:
    """As `fit`, with `sigma^2` times the denoiser's Jacobian for the prior's covariance, of which products are enough.

    Latents are `centre + covariance(dual)`, and at the solution `dual` is minus the misfit's gradient. Steps have the
    length of Barzilai & Borwein (1988), in the metric of the covariance; the best point is kept.
    """
    with torch.enable_grad():
        tracked = noisy.detach().requires_grad_()
        centre = centre_at(tracked)

    def covariance(dual: Latents) -> Latents:
        return sigma**2 * torch.autograd.grad(centre, tracked, dual, retain_graph=True)[0]

    dual, length = begin.dual, begin.length
    point = misfit.at(centre.detach() + covariance(dual))
    best, lowest = Dual(point, dual, length), float("inf")
    for _ in range(evaluations):
        slope = dual + point.gradient
        across = covariance(slope)
        dual, reached = dual - length * slope, misfit.at(point.latents - length * across)
        change = dual + reached.gradient - slope
        curved, travelled = -_dot(change, across), length * _dot(slope, across)
        length = travelled / curved if curved > 0 else length
        point, potential = reached, reached.half + 0.5 * _dot(dual, reached.latents - centre.detach())
        if potential < lowest:
            best, lowest = Dual(point, dual, length), potential
    return best


@dataclass
class Posterior:
    """A `DenoisedAt` that heeds observations. It walks down the noise levels once, and remembers where it was.

    Samples are computed one by one, so none depends on the others of its batch. Each starts from what all have in
    common, and at each level from its own solution of the last one.
    """

    denoised_at: DenoisedAt
    misfit: Misfit
    effort: Effort
    variance: Latents | float
    start: Latents | None
    through_denoiser: bool
    _common: Fitted | None = None
    _samples: dict[int, Fitted | Dual] = field(default_factory=dict)

    def __call__(self, noisy: Latents, sigma: Sigma) -> Latents:
        """Expectation of the latents without noise."""
        self.begin(noisy[:1], sigma[:1])
        rows = range(len(noisy))
        if self.through_denoiser:
            return torch.cat([self._through(row, noisy[row : row + 1], sigma[row : row + 1]) for row in rows])
        with torch.no_grad():
            centres = self.denoised_at(noisy, sigma)
        return torch.cat([self._of_sample(row, centres[row : row + 1], float(sigma[row])) for row in rows])

    def begin(self, noisy: Latents, sigma: Sigma) -> None:
        """Find what all samples have in common, at the first noise level; their own noise plays no part in it."""
        if self._common is None:
            self._common = self._in_common(noisy, sigma)

    def anew(self) -> "Posterior":
        """For another walk, with what was found in common."""
        return replace(self, _samples={})

    def _of_sample(self, row: int, centre: Latents, sigma: float) -> Latents:
        before = self._samples.get(row) or self._common
        assert isinstance(before, Fitted)
        after = fit(self.misfit, before, centre, self._precision(centre, sigma), self.effort.at(sigma))
        self._samples[row] = after
        return after.point.latents

    def _through(self, row: int, noisy: Latents, sigma: Sigma) -> Latents:
        before, level = self._samples.get(row), float(sigma[0])
        if not isinstance(before, Dual):
            assert self._common is not None
            steepest = 4 * float(self._common.curvature.diagonal.mean()) * level**2 / (1 + level**2)
            before = Dual(self._common.point, torch.zeros_like(noisy), 1 / (1 + steepest))

        def centre_at(tracked: Latents) -> Latents:
            return self.denoised_at(tracked, sigma)

        after = fit_through(self.misfit, centre_at, noisy, level, before, self.effort.at(level))
        self._samples[row] = after
        return after.point.latents

    def _in_common(self, noisy: Latents, sigma: Sigma) -> Fitted:
        with torch.no_grad():
            centre = self.denoised_at(torch.zeros_like(noisy), sigma)
        begin = centre if self.start is None else self.start
        known = Fitted(self.misfit.at(begin), Curvature(self.misfit.curvature(begin)))
        return fit(self.misfit, known, centre, self._precision(centre, float(sigma[0])), self.effort.first)

    def _precision(self, centre: Latents, sigma: float) -> Latents:
        return torch.zeros_like(centre) + 1 / sigma**2 + 1 / self.variance

    def chi(self) -> dict[str, float]:
        """How well each observation is met by the samples: the root mean square difference, in standard deviations."""
        values = torch.tensor([fitted.point.chi for fitted in self._samples.values()], dtype=torch.float64)
        return dict(zip(self.misfit.names, values.square().mean(dim=0).sqrt().tolist(), strict=True))


def observed(
    denoised_at: DenoisedAt,
    decode: Decode,
    observations: Sequence[Observation],
    effort: Effort = Effort(),
    variance: Latents | float = 1.0,
    start: Latents | None = None,
    through_denoiser: bool = False,
) -> Posterior:
    """The denoiser given observations as well; one for each walk of a solver down the noise levels.

    `variance` is the prior's, of standardised latents; `start` are latents (1, z, u, v, w) near which to begin.
    `through_denoiser` needs a denoiser with gradients, which a packed one has not.
    """
    return Posterior(denoised_at, Misfit(decode, observations), effort, variance, start, through_denoiser)


def _dot(one: Tensor, other: Tensor) -> float:
    return float((one.double() * other.double()).sum())
