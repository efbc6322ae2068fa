"""Checkpoints without pickle: tensors as safetensors, everything else as JSON.

A checkpoint is a folder that appears whole or not at all. Loading one can execute nothing, and a half
written one cannot be read.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from meddiff_core.artefacts import digest_tree, write_json, writing_folder
from meddiff_core.errors import IntegrityError

Tensors = dict[str, Tensor]


def save_checkpoint(
    folder: Path, tensors: Tensors, facts: dict[str, Any], beside: dict[str, Tensors] | None = None
) -> None:
    """Write tensors and JSON-able facts as one folder, replacing an older one.

    `beside` holds further sets of tensors by name, which `load_beside` reads.
    """
    with writing_folder(folder) as partial:
        for name, group in {"tensors": tensors, **(beside or {})}.items():
            contiguous = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in group.items()}
            save_file(contiguous, partial / f"{name}.safetensors")
        write_json(partial / "facts.json", facts)


def load_beside(folder: Path, name: str) -> Tensors | None:
    """A further set of tensors of a checkpoint, or None if it has no such set."""
    path = folder / f"{name}.safetensors"
    return load_file(path) if path.exists() else None


def load_checkpoint(folder: Path) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and facts of a checkpoint.

    Raises:
        IntegrityError: it is incomplete or not readable.
    """
    try:
        return load_file(folder / "tensors.safetensors"), load_facts(folder)
    except Exception as error:  # safetensors raises its own, json and the file system theirs
        what = f"checkpoint {folder.name} must hold tensors.safetensors and facts.json"
        raise IntegrityError(f"{what}: {error}") from error


def load_facts(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, without its tensors."""
    return dict(json.loads((folder / "facts.json").read_text()))


def digest_checkpoint(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a checkpoint."""
    return digest_tree(folder)


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    """`{name: t}` as `{prefix.name: t}`, to keep several sets in one file."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def unprefixed(prefix: str, tensors: Tensors) -> Tensors:
    """The tensors saved by `prefixed` under `prefix`."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """The state of an optimiser as flat tensors `parameter.key`; its settings come from the configuration."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": torch.as_tensor(value) for index, slots in state.items() for key, value in slots.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Put back what `optimizer_tensors` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, slots in state.items():
        for slot, tensor in slots.items():
            if tensor.shape == parameters[number].shape:
                # In the parameter's memory format: another one takes other kernels, and ends in other bits.
                slots[slot] = torch.empty_like(parameters[number]).copy_(tensor)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def load_weights(network: nn.Module, tensors: Tensors) -> None:
    """Fill a network, refusing names or shapes that differ."""
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        difference = str(error).splitlines()[-1].strip()
        raise IntegrityError(f"weights do not fit {type(network).__name__}: {difference}") from error


def load_initial(network: nn.Module, folder: Path) -> dict[str, Any]:
    """Fill a network with the weights of a finished checkpoint, to train on from; returns the checkpoint's facts.

    A denoiser goes on with the latent scale in those facts (`scale`): its weights know no other.
    """
    tensors, facts = load_checkpoint(folder)
    load_weights(network, tensors)
    return facts
