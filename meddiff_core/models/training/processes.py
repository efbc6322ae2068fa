"""Processes of one machine that train a network together: how they meet, and how they know that they agree.

They meet in a file and speak over loopback alone, so that nothing listens to the network. Weights that drift
apart would end as a model that no process has ever validated: it is looked for at every resume point.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, distributed

from meddiff_core.errors import IntegrityError
from meddiff_core.models.checkpoint import Tensors
from meddiff_core.models.training.ranks import Ranks

PATIENCE = timedelta(hours=2)
"""How long one waits for the others, who may be busy validating."""


@contextmanager
def joined(ranks: Ranks, meeting: Path, device: str) -> Iterator[Ranks]:
    """In this block the processes can sum and compare: over NCCL on GPUs, over gloo on processors.

    `meeting` is a file that no other group of processes has used.
    """
    if device != "cpu":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl",
        store=distributed.FileStore(str(meeting), ranks.count),  # type: ignore[attr-defined]  # its stub lacks it
        rank=ranks.rank,
        world_size=ranks.count,
        timeout=PATIENCE,
    )
    yield ranks
    distributed.destroy_process_group()  # not after an error: it may wait for those that wait for this process


def require_agreement(ranks: Ranks, label: str, tensors: Tensors) -> None:
    """Check that every process holds the same tensors, bit for bit. All must call it.

    Raises:
        IntegrityError: names the process and the first of the tensors in which it differs from process 0.
    """
    if ranks.count == 1:
        return
    counts = [int(count) for count in _gathered(ranks, torch.tensor(len(tensors)))]
    if len(set(counts)) > 1:
        raise IntegrityError(f"{label}: all processes must hold the same weights, they hold {counts} tensors")
    everybody = _gathered(ranks, torch.tensor([_digest(tensor) for tensor in tensors.values()]))
    for rank, digests in enumerate(everybody):
        if differing := (digests != everybody[0]).nonzero().flatten().tolist():
            name = list(tensors)[differing[0]]
            raise IntegrityError(
                f"{label}: all processes must hold the same weights, "
                f"process {rank} differs from process 0 in {len(differing)} tensors, the first is {name}"
            )


def _gathered(ranks: Ranks, own: Tensor) -> list[Tensor]:
    found = [torch.empty_like(own) for _ in range(ranks.count)]
    distributed.all_gather(found, own)
    return found


def _digest(tensor: Tensor) -> int:
    """63 bits of the SHA-256 of a tensor's bytes."""
    values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return int.from_bytes(hashlib.sha256(values.data).digest()[:8], "big") >> 1
