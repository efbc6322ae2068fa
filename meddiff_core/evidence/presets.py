"""Gates to start from: three presets, each gate with the fault that it is there for."""

from meddiff_core.evidence.metrics import EVERY, MetricSpec
from meddiff_core.evidence.privacy.canaries import COPY_POWER
from meddiff_core.evidence.privacy.copies import COPIES_EXCESS
from meddiff_core.evidence.privacy.covariates import COVARIATES_RISK, EXACT_ROWS
from meddiff_core.evidence.privacy.membership import MEMBERSHIP_AUC, MEMBERSHIP_TPR
from meddiff_core.evidence.privacy.release_membership import RELEASE_AUC
from meddiff_core.evidence.quality.anatomy import EFFECT
from meddiff_core.evidence.quality.comparison import COVERAGE, FRECHET_RATIO, MS_SSIM_GAP, RECALL
from meddiff_core.evidence.quality.distinct import DISTINCT_SHARE
from meddiff_core.evidence.quality.fidelity import FIDELITY
from meddiff_core.evidence.screening.expected import ACCEPTED_SHARE
from meddiff_core.study import GateConfig

FIDELITY_R = FIDELITY["labels"]
SHAPE = ("random-conv", "latents")
"""Features that see anatomy. Radiomics see texture, in which the softness of a small autoencoder sets any synthetic
volume apart from any real one: `strict` asks for that too, `research` shows it in the report."""


def _at_most(limit: float, spec: MetricSpec, detail: str = "") -> GateConfig:
    return GateConfig(metric=spec.named(detail), max=limit)


def _at_least(limit: float, spec: MetricSpec, detail: str = "") -> GateConfig:
    return GateConfig(metric=spec.named(detail), min=limit)


PRESETS: dict[str, tuple[GateConfig, ...]] = {
    # For a cohort that methods are developed on: what a small study can show.
    "research": (
        # copies: more suspected copies than fresh real volumes would give
        _at_most(0.10, COPIES_EXCESS),
        # blindness: copies planted on purpose must be found, or the gate above says nothing
        _at_least(0.90, COPY_POWER),
        # memory: the released volumes tell training subjects from others; 18 held-out ones can show this little
        _at_most(0.75, RELEASE_AUC),
        # memory: the table of conditions says more of training subjects than of others
        _at_most(0.50, COVARIATES_RISK, EVERY),
        # a training subject's own row among the conditions
        _at_most(0, EXACT_ROWS),
        # collapse: the same volume over and over
        _at_least(0.80, DISTINCT_SHARE),
        # collapse: real volumes that nothing synthetic resembles
        *(_at_least(0.20, RECALL, view) for view in SHAPE),
        # collapse: kinds of real volumes with none synthetic nearby, however far single ones reach; with 18 held-out
        # volumes the interval is half a unit wide
        *(_at_least(0.10, COVERAGE, view) for view in SHAPE),
        # blur: the mean synthetic volume is less sharp than nearly every real one; blur by half a voxel is refused,
        # the softness of a small autoencoder is not, though the report shows it
        _at_most(2.0, EFFECT, "sharpness"),
        # noise: the mean synthetic volume is noisier than nearly every real one, or lacks the noise that nearly every
        # real one has
        _at_most(2.0, EFFECT, "noise"),
        # collapse or noise: synthetic volumes that are more, or less, alike than real ones
        _at_most(0.10, MS_SSIM_GAP),
        # another distribution: blur, noise, wrong contrast
        *(_at_most(10.0, FRECHET_RATIO, view) for view in SHAPE),
        # a screen that makes the cohort: what it lets through is no longer what the model generates
        _at_least(0.20, ACCEPTED_SHARE),
        # conditions that the volumes do not follow
        _at_least(0.30, FIDELITY_R, EVERY),
    ),
    # The same with tighter limits, for a cohort that is published. Privacy gates of this preset cannot be waived.
    "strict": (
        _at_most(0.05, COPIES_EXCESS),
        _at_least(0.95, COPY_POWER),
        _at_most(0.60, RELEASE_AUC),
        # and the weights do, though they stay: who holds them may lose them
        _at_most(0.60, MEMBERSHIP_AUC, EVERY),
        _at_most(0.10, MEMBERSHIP_TPR, EVERY),
        _at_most(0.20, COVARIATES_RISK, EVERY),
        _at_most(0, EXACT_ROWS),
        _at_least(0.90, DISTINCT_SHARE),
        _at_least(0.50, RECALL, EVERY),
        _at_least(0.50, COVERAGE, EVERY),
        # a large effect in Cohen's words: what an eye that knows real scans may notice
        _at_most(0.8, EFFECT, "sharpness"),
        _at_most(0.8, EFFECT, "noise"),
        _at_most(0.05, MS_SSIM_GAP),
        _at_most(4.0, FRECHET_RATIO, EVERY),
        _at_least(0.50, ACCEPTED_SHARE),
        _at_least(0.70, FIDELITY_R, EVERY),
    ),
    # A dozen held-out volumes and minutes of training: copies are still looked for with full power, but the
    # intervals of everything else are too wide to say much. Not for scans of patients.
    "trial": (
        _at_most(0.40, COPIES_EXCESS),
        # of copies that were turned, warped and blurred together half may go unseen in heads as alike as phantoms are
        _at_least(0.75, COPY_POWER),
        # a dozen held-out ones leave the upper bound at 0.69 in the mean without a leak
        _at_most(0.85, RELEASE_AUC),
        _at_most(0, EXACT_ROWS),
        _at_least(0.50, DISTINCT_SHARE),
        _at_least(0.05, ACCEPTED_SHARE),
    ),
}
ON_WEIGHTS: dict[str, GateConfig] = {
    "research": _at_most(0.75, MEMBERSHIP_AUC, EVERY),
    "strict": _at_most(0.60, MEMBERSHIP_AUC, EVERY),
    "trial": _at_most(0.85, MEMBERSHIP_AUC, EVERY),
}
"""In force where the models are given away: what they remember then leaves with them."""
OPTIONAL = (FIDELITY_R.named(EVERY), COVARIATES_RISK.named(EVERY), EXACT_ROWS.named())
"""Preset gates that a study without label maps or conditions does without."""
