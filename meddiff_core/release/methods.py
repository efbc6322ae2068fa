"""The methods text: one sentence per stage, from what the study and its plan say."""

import math
from collections.abc import Mapping, Sequence

from meddiff_core.contract import ContinuousCondition, Contract, spacing_text
from meddiff_core.diffusion.checkpoint_selection import SelectionRecord, describe_selection
from meddiff_core.diffusion.solvers import evaluations
from meddiff_core.evidence.guidance_choice import GuidanceChoice, describe_choice
from meddiff_core.generation.best_of import draft_config
from meddiff_core.models.plan import Plan, TrainingPlan
from meddiff_core.study import AutoencoderConfig, SamplingConfig, Study

_PREDICTS = {
    "edm": "EDM preconditioning",
    "epsilon": "noise prediction",
    "v_prediction": "velocity prediction",
    "rectified_flow": "the velocity of a rectified flow",
}

_ELSEWHERE = (
    "The models had been trained elsewhere before; whether scans of this study were among their training scans is not "
    "known, and a held-out scan that they were trained on is not held out from them."
)

_SOLVERS = {
    "heun": "Heun's method",
    "dpmpp_2m": "DPM-Solver++(2M)",
    "adams": "an exponential Adams-Bashforth method of third order",
    "euler": "Euler's method",
    "ancestral": "ancestral sampling",
}


_GRAIN = (
    "After decoding, intensities were brought to the distribution of training scans where these are masked, and grain "
    "was added within the foreground: a random field from the sample's own seed, with the power by spatial frequency, "
    "label and intensity that reconstructions of training scans lack. It holds no detail of any scan."
)
_MASKS = {
    "none": "nothing was masked",
    "label": "voxels outside the label map were set to background",
    "brain": "voxels outside the brain were set to background",
}


def describe_methods(
    study: Study,
    plan: Plan,
    sides: Mapping[str, int],
    selection: SelectionRecord | None = None,
    guidance: GuidanceChoice | None = None,
    predicted: Sequence[str] = (),
) -> list[str]:
    """Sentences for a methods section, in the order of the stages. The guidance of the study is a number; `predicted`
    are conditions that volumes of a request were compared by although no label map shows them.
    """
    chosen = describe_choice(guidance) if guidance else None
    contract, sampling = plan.contract, study.sampling
    voxels = f"{' x '.join(map(str, contract.size))} voxels of {spacing_text(contract.spacing_mm)}"
    return [
        f"Scans of {sum(sides.values())} cases were brought to {voxels} in RAS+ orientation and split "
        f"by subject into {sides['train']} for training, {sides['validation']} for validation "
        f"and {sides['holdout']} held out until the audit.",
        _autoencoder(plan, study.train.autoencoder),
        _denoiser(plan, study),
        *([_ELSEWHERE] if plan.start_from else []),
        *([describe_selection(selection)] if selection else []),
        f"Volumes were sampled with {_SOLVERS[sampling.solver]} over {sampling.levels} noise levels "
        f"({evaluations(sampling.solver, sampling.levels)} evaluations{_precision(sampling)}), {_guidance(sampling)}, "
        "each from a seed of its own.",
        *([chosen] if chosen else []),
        *([_GRAIN] if sampling.grain else []),
        *_best_of(plan.contract, sampling, predicted),
        "Candidates outside the range of the training volumes, suspected copies of one, and near duplicates of each "
        "other were rejected and replaced by new samples of the same condition.",
        f"The cohort was compared with the held-out scans at equal sizes, with {study.audit.confidence:.0%} intervals "
        f"and the real-against-real value beside each distance; the gates are those of the preset "
        f"{study.audit.preset}{' as changed by the study' if study.audit.gates else ''}.",
    ]


def describe_preprocessing(contract: Contract) -> str:
    """What happened to every real scan before a network saw it, without anything that was measured on few of them."""
    mapping = contract.intensity
    voxels = f"{' x '.join(map(str, contract.size))} voxels of {spacing_text(contract.spacing_mm)}"
    scale = (
        f"percentiles {mapping.percentiles[0]:g} and {mapping.percentiles[1]:g} of each scan's foreground"
        if mapping.percentiles
        else f"{mapping.low:g} and {mapping.high:g} HU"
    )
    mask = _MASKS[contract.mask]
    return f"Scans were brought to {voxels} in RAS+ orientation; intensities were clipped to {scale}; {mask}."


def _precision(sampling: SamplingConfig) -> str:
    return "" if sampling.precision == "float32" else f" in {sampling.precision}"


def _guidance(sampling: SamplingConfig) -> str:
    assert sampling.guidance is not None, "what was sampled had a guidance"
    if sampling.guidance == 1:
        return "without guidance"
    kinds = {"classifier_free": "classifier-free guidance", "autoguidance": "autoguidance"}
    low, high = sampling.guidance_interval or (0.0, math.inf)
    where = "" if sampling.guidance_interval is None else f" between noise levels {low:g} and {high:g}"
    return f"with {kinds[sampling.guided_by]} (weight {sampling.guidance:g}{where})"


def _best_of(contract: Contract, sampling: SamplingConfig, predicted: Sequence[str]) -> list[str]:
    measured = [spec.name for spec in contract.conditions if isinstance(spec, ContinuousCondition) and spec.group]
    ways = [f"{' and '.join(measured)} on the label map"] if measured else []
    ways += [f"{' and '.join(predicted)} by a regression from latents"] if predicted else []
    if sampling.best_of == 1 or not ways:
        return []
    drafts = draft_config(sampling)
    short = f", compared by drafts over {drafts.levels} noise levels, was sampled in full" if drafts else " was kept"
    return [
        f"Of {sampling.best_of} volumes from different noise for each request, the one that came nearest to it"
        f"{short}, measured as {' and as '.join(ways)}: rejection sampling from the volumes that measure what was "
        "asked for."
    ]


def _autoencoder(plan: Plan, config: AutoencoderConfig) -> str:
    latents = (
        f"its latents have {plan.autoencoder.latent_channels} channels of {' x '.join(map(str, plan.latent_size))}"
    )
    if not plan.autoencoder_training.steps:
        return f"An autoencoder (MONAI AutoencoderKL) was used as it had been trained elsewhere; {latents}."
    *terms, last = _loss_terms(config, labelled=bool(plan.contract.labels))
    return (
        f"An autoencoder (MONAI AutoencoderKL, {_training(plan, plan.autoencoder_training)} volumes) was trained over "
        f"the image and {len(plan.contract.labels)} label groups with {', '.join(terms)} and {last} terms; {latents}."
    )


def _loss_terms(config: AutoencoderConfig, labelled: bool) -> list[str]:
    """Terms of the autoencoder's loss whose weight is not 0; at least reconstruction and Kullback-Leibler."""
    perceptual = config.perceptual_weight > 0
    kind = config.perceptual
    terms = {
        "reconstruction": True,
        "label cross-entropy": labelled and config.label_weight > 0,
        "Dice": labelled and config.dice_weight > 0,
        "feature-matching": perceptual and kind in ("discriminator", "both"),
        "Fourier spectrum": perceptual and kind in ("fft", "both"),
        "ImageNet perceptual": perceptual and kind == "imagenet",
        "patch-adversarial": config.adversarial_weight > 0,
        "Kullback-Leibler": True,
    }
    return [name for name, present in terms.items() if present]


def _denoiser(plan: Plan, study: Study) -> str:
    conditions = ", ".join(spec.name for spec in plan.contract.conditions) or "nothing"
    network = f"MONAI DiffusionModelUNet with {_PREDICTS[plan.denoiser.parametrisation.kind]}"
    if not plan.denoiser_training.steps:
        return f"A denoiser ({network}) was used as it had been trained elsewhere, conditioned on {conditions}."
    return (
        f"A denoiser ({network}, {_training(plan, plan.denoiser_training)} latents) was trained on them, conditioned "
        f"on {conditions}, each dropped with a probability of {study.train.denoiser.condition_dropout:.0%}."
    )


def _training(plan: Plan, training: TrainingPlan) -> str:
    start = "on from imported weights, " if plan.start_from else ""
    return f"{start}{training.steps} steps of {training.batch}"
