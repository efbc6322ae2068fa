"""Which instructions for bfloat16 the processor has.

Without any, oneDNN emulates them and a volume takes minutes; and each kind sums in its own order, so that a volume has
the bits of the kind that sampled it.
"""

import torch

from meddiff_core.errors import ConfigurationError
from meddiff_core.study import Study

INSTRUCTIONS = "instructions"
"""Name under which a release that was sampled in bfloat16 says by which instructions."""
KINDS = ("amx_bf16", "avx512_bf16")
"""By the names that processors give them, the fastest first."""


def bfloat16_instructions() -> str | None:
    """The fastest of `KINDS` that this processor has; None if it has none."""
    has = torch.cpu.get_capabilities()
    known = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return next((kind for kind in KINDS if known and has.get(kind)), None)


def require_bfloat16(key: str, device: str) -> str:
    """The instructions in which `key: bfloat16` computes on a CPU.

    Raises:
        ConfigurationError: there are none.
    """
    if device != "cpu":
        raise ConfigurationError(f"{key}: must be float32 on a GPU, is bfloat16, which is for processors alone")
    kind = bfloat16_instructions()
    if kind is None:
        raise ConfigurationError(
            f"{key}: must be float32 on this processor, which has none of {', '.join(KINDS)}; is bfloat16"
        )
    return kind


def describe_precision(study: Study, device: str) -> str | None:
    """One line for who plans: that sampling can be faster here, or that what is asked for needs another machine."""
    kind, asked = bfloat16_instructions() if device == "cpu" else None, study.sampling.precision == "bfloat16"
    if asked and kind is None:
        what = "a GPU" if device != "cpu" else f"this processor, which has none of {', '.join(KINDS)}"
        return f"sampling.precision: bfloat16 cannot be followed on {what}; sample elsewhere, or choose float32"
    if kind and not asked:
        return f"this processor has {kind}: with `sampling.precision: bfloat16` volumes take about 0.6 of the time"
    return None
