"""Which processor the networks run on."""

from meddiff_core.errors import ConfigurationError


def choose_device(wanted: str | None) -> str:
    """The wanted device, or a GPU if there is one, or the CPU."""
    import torch

    if wanted is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError(f"runtime.device must be cpu on a machine without a GPU, is {wanted!r}")
    return wanted
