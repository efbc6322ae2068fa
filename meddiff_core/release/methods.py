"""The methods text: one sentence per stage, from what the study and its plan say."""

from collections.abc import Mapping

from meddiff_core.models.plan import Plan
from meddiff_core.study import Study


def describe_methods(study: Study, plan: Plan, sides: Mapping[str, int]) -> list[str]:
    """Sentences for a methods section, in the order of the stages."""
    contract, sampling = plan.contract, study.sampling
    size = " x ".join(map(str, contract.size))
    latent = " x ".join(map(str, plan.latent_size))
    conditions = ", ".join(spec.name for spec in contract.conditions) or "nothing"
    return [
        f"Scans of {sum(sides.values())} cases were brought to {size} voxels of {contract.spacing_mm:g} mm in RAS+ "
        f"orientation and split by subject into {sides['train']} for training, {sides['validation']} for validation "
        f"and {sides['holdout']} held out until the audit.",
        f"An autoencoder (MONAI AutoencoderKL, {plan.autoencoder_training.steps} steps of "
        f"{plan.autoencoder_training.batch} volumes) was trained over the image and {len(contract.labels)} label "
        f"groups with reconstruction, Kullback-Leibler, patch-adversarial and feature-matching terms; its latents "
        f"have {plan.autoencoder.latent_channels} channels of {latent}.",
        f"A denoiser (MONAI DiffusionModelUNet with EDM preconditioning, {plan.denoiser_training.steps} steps of "
        f"{plan.denoiser_training.batch} latents) was trained on them, conditioned on {conditions}, each hidden from "
        f"it {study.train.denoiser.condition_dropout:.0%} of the time.",
        f"Volumes were drawn with Heun's method over {sampling.steps} noise levels ({2 * sampling.steps - 1} "
        f"evaluations), guidance {sampling.guidance:g}, each from a seed of its own.",
        "Candidates outside the range of the training volumes, suspected copies of one, and near duplicates of each "
        "other were rejected and replaced by new draws of the same condition.",
        f"The cohort was compared with the held-out scans at equal sizes, with {study.audit.confidence:.0%} intervals "
        f"and the real-against-real value beside each distance; the gates are those of the preset "
        f"{study.audit.preset}{' as changed by the study' if study.audit.gates else ''}.",
    ]
