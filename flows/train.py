"""Data set to models."""

from typing import Any

from prefect import flow

from tasks.finished import run_stage


@flow(name="train")
def train(study: str) -> dict[str, Any]:
    """An autoencoder over image and labels, and a denoiser on its latents.

    Args:
        study: The study.yaml of a study, or its folder, as the worker sees it.
    """
    return run_stage(study, "train")
