"""Data set to models."""

from typing import Any

from prefect import flow

from tasks.generate import design_of
from tasks.stage import make, open_stage
from tasks.train import encode_dataset, train_autoencoder, train_denoiser


@flow(name="train")
def train(study: str) -> dict[str, Any]:
    """An autoencoder over image and labels, and a denoiser on its latents."""
    with open_stage(study, "train") as workspace:
        workspace.require("dataset")
        design_of(workspace)  # a cohort that cannot be asked for is refused before a night of training
        autoencoder = make(workspace, "autoencoder", train_autoencoder)
        make(workspace, "latents", encode_dataset)
        denoiser = make(workspace, "denoiser", train_denoiser)
        return {"autoencoder": autoencoder.summary, "denoiser": denoiser.summary}
