"""Data set to models."""

from typing import Any

from prefect import flow

from tasks.stage import run_stage


@flow(name="train")
def train(study: str) -> dict[str, Any]:
    """An autoencoder over image and labels, and a denoiser on its latents."""
    return run_stage(study, "train")
