"""The power spectrum of real, reconstructed and generated volumes: which half of the model leaves detail out.

A cohort that is too smooth looks alike whichever half is to blame, and more training of the other one would not help.
What reconstructions of held-out scans lack, the autoencoder leaves out; what generated volumes lack beyond that, the
denoiser. Each volume is seen through a window that fades out within its foreground, so that its outline hardly counts.
"""

from collections.abc import Generator, Mapping

import numpy as np
from scipy import fft

from meddiff_core.contract import Contract
from meddiff_core.evidence.disclosure import FEWEST
from meddiff_core.evidence.inputs import AuditInput
from meddiff_core.evidence.intervals import Bootstrap, Estimate, Matrix, from_resamples, resample_weights
from meddiff_core.evidence.metrics import Part
from meddiff_core.evidence.screening.reconstructed import Reconstructed
from meddiff_core.evidence.section import Curve, Line, Section
from meddiff_core.evidence.selection import Selection
from meddiff_core.evidence.subjects import one_of_each
from meddiff_core.generation.grain import inner_window, power_under
from meddiff_core.models.autoencoder import load_autoencoder
from meddiff_core.types import FloatArray, Progress, Volumes

PART: Part = "quality"
BANDS = 8
"""At most; of equal width, up to the highest frequency along the finest axis. The last has what lies beyond, too."""
MOST = 64
"""Volumes of each set that are looked at."""
LACKING = 0.1
"""Share of a band's power from which on it is said to be lacking."""
CAPTION = (
    "Mean power within the foreground by band of spatial frequency, as a share of that of held-out scans, with "
    "intervals over subjects. Reconstructed: these scans as the autoencoder gives them back. Training: how far real "
    "scans are from real ones."
)
Found = Mapping[str, list[Estimate]]
"""Share of the power of held-out scans in each band, by set."""


def spectra(audit: AuditInput, bootstrap: Bootstrap) -> Generator[Progress, None, Section]:
    """A figure, and a sentence on what is lacking; one volume of each subject."""
    holdout, train = (
        _some(audit.dataset.volumes(side), audit.dataset.subjects(side), audit.seed) for side in ("holdout", "train")
    )
    if min(len(holdout), len(train)) < FEWEST:
        return Section()
    real = yield from _powers("held-out scans", holdout, audit.contract)
    beside = resample_weights(len(real), bootstrap.repeats, bootstrap.seed)
    found: dict[str, list[Estimate]] = {}
    if audit.models is not None:
        network, _ = load_autoencoder(audit.models / "autoencoder", audit.device)
        copies = yield from Reconstructed.of(network, holdout, audit.contract, audit.device)
        powers = yield from _powers("reconstructions", copies, audit.contract)
        found["reconstructed"] = _shares(powers, real, beside, beside, bootstrap)
    for number, (name, volumes) in enumerate({"generated": _some(audit.accepted), "training": train}.items(), start=1):
        powers = yield from _powers(f"{name} volumes", volumes, audit.contract)
        weights = resample_weights(len(powers), bootstrap.repeats, bootstrap.seed + number)
        found[name] = _shares(powers, real, weights, beside, bootstrap)
    middles = (np.arange(real.shape[1]) + 0.5) / real.shape[1] * _highest(audit.contract)
    lines = tuple(_line(name, middles, shares) for name, shares in found.items())
    curve = Curve(
        part=PART, title="Power spectrum", caption=CAPTION, x="frequency (1/mm)", y="share of real power", lines=lines
    )
    return Section(curves=[curve], statements=[describe(found, middles)])


def _some(volumes: Volumes, subjects: list[str] | None = None, seed: int = 0) -> Selection:
    """At most `MOST`, one of each subject, spread evenly."""
    rows = one_of_each(subjects, len(volumes), seed)
    kept = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST)).astype(int))
    return Selection.of(volumes, rows[kept].tolist())


def _powers(name: str, volumes: Volumes, contract: Contract) -> Generator[Progress, None, Matrix]:
    """(n, bands)."""
    rows = []
    for index in range(len(volumes)):
        rows.append(band_powers(contract.intensity.unit(volumes.image(index)), contract))
        yield Progress(f"spectra of {name}", index + 1, len(volumes))
    return np.stack(rows)


def band_powers(unit: FloatArray, contract: Contract) -> Matrix:
    """(bands,) mean power of a volume (i, j, k) in [0, 1] under a window within its foreground; 0 if it has none."""
    power = power_under(inner_window(unit), unit)
    *others, last = (
        np.asarray(fft.fftfreq(side, mm)) for side, mm in zip(unit.shape, contract.spacing_mm, strict=True)
    )
    last = np.abs(last[: power.shape[2]])
    squares = [np.square(axis) for axis in np.meshgrid(*others, last, indexing="ij", sparse=True)]
    bands = _bands(contract)
    places = np.minimum((np.sqrt(sum(squares)) / _highest(contract) * bands).astype(int), bands - 1).ravel()
    counts = np.bincount(places, minlength=bands)
    return np.asarray(np.bincount(places, power.ravel(), minlength=bands) / np.maximum(counts, 1))


def _highest(contract: Contract) -> float:
    """Frequency along the finest axis, 1/mm."""
    return 0.5 / min(contract.spacing_mm)


def _bands(contract: Contract) -> int:
    """No more than there are frequencies for."""
    finest = int(np.argmin(contract.spacing_mm))
    return max(2, min(BANDS, contract.size[finest] // 4))


def _shares(powers: Matrix, real: Matrix, weights: Matrix, beside: Matrix, bootstrap: Bootstrap) -> list[Estimate]:
    """Of the mean power of real volumes in each band, over bootstrap samples of both sets."""
    values = powers.mean(0) / np.maximum(real.mean(0), 1e-12)
    resamples = (weights @ powers / len(powers)) / np.maximum(beside @ real / len(real), 1e-12)
    return [
        from_resamples(value, column, bootstrap.confidence, len(powers))
        for value, column in zip(values, resamples.T, strict=True)
    ]


def _line(name: str, middles: Matrix, shares: list[Estimate]) -> Line:
    value, low, high = (
        tuple(float(f"{one:.4g}") for one in column) for column in zip(*(s.figures for s in shares), strict=True)
    )
    return Line(name=name, x=tuple(round(float(x), 4) for x in middles), y=value, low=low, high=high)


def describe(found: Found, middles: Matrix) -> str:
    """Which half leaves out most of what the generated volumes lack, in the band in which they lack the most."""
    generated = [share.value for share in found["generated"]]
    band = int(np.argmin(generated))
    if generated[band] > 1 - LACKING:
        return "Generated volumes lack no power in any band of spatial frequency that held-out scans have."
    lack = f"Around {middles[band]:.2g}/mm generated volumes have {generated[band]:.0%} of the power of held-out scans"
    if "reconstructed" not in found:
        return f"{lack}; without the autoencoder it cannot be told which half of the model leaves out the rest."
    copies = found["reconstructed"][band].value
    half = "autoencoder" if 1 - copies >= copies - generated[band] else "denoiser"
    return f"{lack}, reconstructions of these {copies:.0%}: it is the {half} that leaves out most of it."
