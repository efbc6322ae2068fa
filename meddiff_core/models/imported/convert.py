"""Models that were trained elsewhere as checkpoints of ours.

From then on nothing tells them apart: they load, generate and train on as any other, under the same contract.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from meddiff_core.artefacts import digest_file, digest_of
from meddiff_core.errors import ConfigurationError
from meddiff_core.models.autoencoder import Autoencoder, save_autoencoder
from meddiff_core.models.checkpoint import digest_checkpoint, load_weights
from meddiff_core.models.denoiser import Denoiser, save_denoiser
from meddiff_core.models.imported.description import Recipe, Source
from meddiff_core.models.imported.weights import read_weights, renamed

Built = TypeVar("Built", bound=nn.Module)
CLASSES = "class_embedding"


def convert_models(recipe: Recipe, folder: Path) -> None:
    """Write the checkpoints `folder/autoencoder` and `folder/denoiser`.

    Raises:
        ConfigurationError: weights that cannot be read, or that are not those of the networks described.
    """
    autoencoder, denoiser = convert_autoencoder(recipe), convert_denoiser(recipe)
    save_autoencoder(folder / "autoencoder", autoencoder, recipe.contract, _origin(recipe.autoencoder_source))
    of = digest_of(digest_checkpoint(folder / "autoencoder"))
    origin = _origin(recipe.denoiser_source)
    save_denoiser(folder / "denoiser", denoiser, recipe.contract, recipe.scale, of, origin)


def convert_autoencoder(recipe: Recipe) -> Autoencoder:
    """Our autoencoder around the network described, with its weights."""
    network = _built(lambda: Autoencoder(recipe.autoencoder), "autoencoder")
    given = read_weights(recipe.autoencoder_source.path, recipe.autoencoder_source.state_key)
    load_weights(network.network, renamed(given, network.network.state_dict(), "autoencoder.weights"))
    return network


@torch.no_grad()
def convert_denoiser(recipe: Recipe) -> Denoiser:
    """Our denoiser around the network described, with its weights.

    Classes become the one condition of the contract; the class that is not known is the mean of all, until trained on.
    """
    network = _built(lambda: Denoiser(recipe.denoiser, recipe.contract.conditions), "denoiser")
    given = read_weights(recipe.denoiser_source.path, recipe.denoiser_source.state_key)
    own = network.network.state_dict()
    # What MONAI's network has not says nothing: neither does it with these weights.
    embedding = {name: torch.zeros_like(tensor) for name, tensor in own.items() if name.startswith(CLASSES)}
    expected = {name: tensor for name, tensor in own.items() if name not in embedding}
    table = f"{CLASSES}.embeddings.0.table.weight"
    if table in embedding:
        expected[f"{CLASSES}.weight"] = embedding[table]
    found = renamed(given, expected, "denoiser.weights")
    if table in embedding:
        embedding[table] = found.pop(f"{CLASSES}.weight")
        embedding[f"{CLASSES}.absent"] = embedding[table].mean(dim=0, keepdim=True)
    load_weights(network.network, found | embedding)
    return network


def _built(build: Callable[[], Built], name: str) -> Built:
    try:
        return build()
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigurationError(f"{name}.network: MONAI builds no such network: {error}") from error


def _origin(source: Source) -> dict[str, Any]:
    return {"imported_from": {"file": source.path.name, "sha256": digest_file(source.path)}}
