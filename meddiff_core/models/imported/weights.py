"""Weights that come from elsewhere: read without running anything, and named as MONAI names them today.

A torch file is a pickle, which can run whatever its author liked; here it may hold tensors and nothing else. The
older GenerativeModels gave some layers other names, and kept one projection that it never used: taken over under its
new name, as MONAI itself does, it would change what the network says (MONAI issue 7991).
"""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from meddiff_core.errors import ConfigurationError
from meddiff_core.models.checkpoint import Tensors

_WRAPPERS = ("module.", "_orig_mod.")
"""Put before every name by data-parallel training and by torch.compile."""
_OLDER_NAMES = {
    ".attn.to_q.": ".to_q.",
    ".attn.to_k.": ".to_k.",
    ".attn.to_v.": ".to_v.",
    ".postconv.": ".conv.",
}
_PROJECTION, _UNUSED = ".attn.out_proj.", ".proj_attn."
MOST_SHARED = 4
"""Bytes of all tensors for each byte of the file: more is no network that shares weights."""
_SHOWN = 3
"""Names in a message."""


def read_weights(path: Path, state_key: str | None = None) -> Tensors:
    """The tensors of a safetensors or torch file, floating ones in float32.

    Raises:
        ConfigurationError: not readable, holds more than tensors, or holds several sets and `state_key` names none.
    """
    content = _read(path)
    chosen = _unwrapped(path, content if state_key is None else _at(path, content, state_key))
    _check_size(path, chosen)
    for name, tensor in chosen.items():
        if not torch.isfinite(tensor).all():
            raise ConfigurationError(f"{path.name}: {name} must be finite, is not")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in chosen.items()}


def _read(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _check_stored(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, pickle, zip and the file system each raise their own
        raise ConfigurationError(f"{path.name}: must be a file of tensors; {_why(path, error)}") from error
    if not isinstance(content, Mapping):
        raise ConfigurationError(f"{path.name}: must hold tensors by name, holds {type(content).__name__}")
    return content


def _check_stored(path: Path) -> None:
    """torch compresses nothing, so a zip of it that holds more than its size is made to fill the memory."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            held = sum(member.file_size for member in archive.infolist())
        if held > path.stat().st_size:
            raise ValueError(f"a torch file is not compressed, it claims {held} bytes in {path.stat().st_size}")


def _check_size(path: Path, tensors: Tensors) -> None:
    """A tensor may be a view that repeats a few numbers without end; networks that share weights hold them twice."""
    claimed, size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()), path.stat().st_size
    if claimed > MOST_SHARED * size:
        raise ConfigurationError(f"{path.name}: must hold what it claims, {claimed} bytes of tensors, has {size}")


def _why(path: Path, error: Exception) -> str:
    if not path.is_file():
        return f"{path} does not exist"
    if found := re.search(r"(?:GLOBAL|class) (\S+)", str(error)):
        return f"it holds {found[1]}, which reading would run"
    return f"it is not readable: {(str(error).splitlines() or [type(error).__name__])[0]}"


def _at(path: Path, content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    if not isinstance(content.get(key), Mapping):
        places = [name for name, value in content.items() if isinstance(value, Mapping)]
        raise ConfigurationError(f"{path.name}: state_key must be one of {places}, is {key!r}")
    found: Mapping[str, Any] = content[key]
    return found


def _unwrapped(path: Path, content: Mapping[str, Any]) -> Tensors:
    """The one set of tensors in what a training saved, without what its wrappers put before the names."""
    if not _is_state(content):
        inner = {name: value for name, value in content.items() if isinstance(value, Mapping) and _is_state(value)}
        if len(inner) != 1:
            raise ConfigurationError(f"{path.name}: state_key must say which to take, holds {list(content)[:10]}")
        content = next(iter(inner.values()))
    return _without_wrappers(dict(content))


def _without_wrappers(tensors: Tensors) -> Tensors:
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in tensors):
            return _without_wrappers({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    return tensors


def _is_state(content: Mapping[str, Any]) -> bool:
    return bool(content) and all(isinstance(value, Tensor) for value in content.values())


def renamed(given: Tensors, expected: Mapping[str, Tensor], what: str) -> Tensors:
    """Weights under the names of today, for a network whose own are `expected`.

    Raises:
        ConfigurationError: names that are missing, unknown, or of another shape.
    """
    sources = {name: source for name in expected if (source := _source(name, given)) is not None}
    found = {name: given[source] for name, source in sources.items()}
    found |= {name: _identity(name, own) for name, own in expected.items() if _never_projected(name, given)}
    unused = set(given) - set(sources.values())
    _refuse_missing([name for name in expected if name not in found], what)
    _refuse_unknown(sorted(name for name in unused if not (_UNUSED in name and _older(name, given))), what)
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{list(expected[name].shape)} for this network, is {list(tensor.shape)}"
            raise ConfigurationError(f"{what}: {name} must be {shapes}")
    return found


def _source(name: str, given: Tensors) -> str | None:
    """What a layer is called in the file: as today, or as it was once."""
    names = [name, *(name.replace(new, old) for new, old in _OLDER_NAMES.items() if new in name)]
    return next((known for known in names if known in given), None)


def _older(name: str, given: Tensors) -> bool:
    """Whether an attention block that has this layer is one of GenerativeModels."""
    block = re.split(f"{re.escape(_PROJECTION)}|{re.escape(_UNUSED)}", name)[0]
    return f"{block}.to_q.weight" in given


def _never_projected(name: str, given: Tensors) -> bool:
    return _PROJECTION in name and name not in given and _older(name, given)


def _identity(name: str, like: Tensor) -> Tensor:
    return torch.eye(len(like)) if name.endswith("weight") else torch.zeros_like(like)


def _refuse_missing(names: list[str], what: str) -> None:
    if not names:
        return
    advice = "; is its include_fc false?" if all(_PROJECTION in name for name in names) else ""
    raise ConfigurationError(f"{what}: must hold every weight of the network, lacks {_listed(names)}{advice}")


def _refuse_unknown(names: list[str], what: str) -> None:
    if names:
        raise ConfigurationError(f"{what}: must hold the weights of the network alone, also holds {_listed(names)}")


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest
