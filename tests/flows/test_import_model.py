"""Models that were trained elsewhere become those of a study with one command, and generate or train on from there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet  # type: ignore[attr-defined]

from meddiff_core.models.checkpoint import load_checkpoint
from meddiff_core.models.latents import LatentSet
from meddiff_core.workspace import Workspace

Run = Callable[..., Any]
AUTOENCODER = {"channels": [8, 8], "num_res_blocks": 1, "attention_levels": [False, False], "norm_num_groups": 4}
UNET = {
    "in_channels": 3,
    "out_channels": 3,
    "channels": [32],
    "num_res_blocks": 1,
    "attention_levels": [True],
    "num_head_channels": 16,
    "norm_num_groups": 8,
}
CONTRACT = {
    "spacing_mm": 10.0,
    "size": [16, 16, 16],
    "intensity": {"modality": "MR", "low": 0.0, "high": 900.0, "percentiles": [0.5, 99.5], "storage": "uint8"},
    "mask": "label",
    "labels": {},
    "conditions": [],
}


@pytest.fixture
def description(tmp_path: Path) -> Path:
    """Of two networks that were never trained."""
    torch.manual_seed(0)
    torch.save(AutoencoderKL(spatial_dims=3, **AUTOENCODER).state_dict(), tmp_path / "autoencoder.pt")  # type: ignore[arg-type]
    torch.save(DiffusionModelUNet(spatial_dims=3, **UNET).state_dict(), tmp_path / "unet.pt")  # type: ignore[arg-type]
    content = {
        "autoencoder": {"weights": "autoencoder.pt", "network": AUTOENCODER, "image_range": [0, 1]},
        "denoiser": {
            "weights": "unet.pt",
            "network": UNET,
            "kind": "v_prediction",
            "schedule": {"name": "linear_beta"},
            "scale_factor": 1.0,
        },
        "contract": CONTRACT,
    }
    path = tmp_path / "description.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_description_that_does_not_fit_is_reported_before_any_engine_starts(
    meddiff: Run, new_study: Run, description: Path
) -> None:
    description.write_text(description.read_text().replace("scale_factor", "scale_facto"))
    folder = new_study("misdescribed")
    done = meddiff("import-model", folder, description)
    assert done.status == 2
    assert "meddiff: denoiser.scale_facto: unknown key; did you mean scale_factor?\n" in done.err
    assert [path.name for path in folder.iterdir()] == ["study.yaml"]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_imported_models_generate_as_they_are_and_train_on(served: Run, new_study: Run, description: Path) -> None:
    untrained = {"autoencoder": {"channels": [8, 8, 8]}, "denoiser": {"channels": [32]}, "checkpoint_every": 2}
    folder = new_study("imported", train=untrained, plan={"budget_minutes": 0.1})
    done = served("import-model", folder, description)
    assert (done.status, done.err.count("Traceback")) == (0, 0), done.err
    assert done.out.endswith(f"next    meddiff generate {folder}\n"), done.out
    kept = {name: load_checkpoint(folder / "models" / name)[0] for name in ("autoencoder", "denoiser")}
    source = torch.load(description.parent / "unet.pt", weights_only=True)
    assert all(torch.equal(kept["denoiser"][f"network.{name}"], tensor) for name, tensor in source.items())
    assert served("generate", folder).status == 0
    assert Workspace.open(folder).state("candidates").condition == "done"

    # The latents of these scans have a scale of their own; given, it can be trained on from.
    content = yaml.safe_load(description.read_text())
    del content["denoiser"]["scale_factor"]
    content["denoiser"]["latent_scale"] = (
        LatentSet.open(folder / "latents.zarr", "train").scale().model_dump(mode="json")
    )
    description.write_text(yaml.safe_dump(content))
    done = served("import-model", folder, description)
    assert "denoiser: start_from changed" in done.err, done.err
    plan = json.loads((folder / "plan.json").read_text())
    assert (plan["start_from"], plan["contract"]) == ("imported", CONTRACT)
    plan["denoiser_training"]["steps"] = 3
    (folder / "plan.json").write_text(json.dumps(plan))
    done = served("train", folder)
    assert done.status == 0, done.err
    tensors, facts = load_checkpoint(folder / "models" / "denoiser")
    assert (facts["steps"], facts["shape"]["parametrisation"]["kind"]) == (3, "v_prediction")
    assert facts["scale"] == content["denoiser"]["latent_scale"]
    changes = torch.cat([(tensors[name] - tensor).flatten() for name, tensor in kept["denoiser"].items()]).abs()
    assert 0 < changes.max() < 0.1
