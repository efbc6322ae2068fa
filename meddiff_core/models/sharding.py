"""Networks of which each process keeps a part alone, for those that one GPU cannot train (torch's FSDP2).

Every weight is cut along its first axis, and its gradient, moments and averages with it. The processes put a block of
layers together when it is used, and drop it again: all must make the same passes in the same order, or they would
wait for each other for ever. On disk tensors are whole, so a training may go on with other processes, or undivided.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from meddiff_core.errors import ConfigurationError
from meddiff_core.models.training.ranks import Ranks


def shard(network: nn.Module, blocks: Sequence[nn.Module], ranks: Ranks, device: str) -> None:
    """Keep of a whole network, alike in all processes, this process's part alone, and move it to the device.

    No two of its `blocks` are ever whole for longer than they are used. Gradients are summed over the processes while
    they are computed.

    Raises:
        ConfigurationError: there is but one process.
    """
    if ranks.count == 1:
        raise ConfigurationError("runtime.sharded: must be false for one process, is true; see runtime.processes")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.split(":")[0], (ranks.count,))
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()  # it takes no other memory format
    for part in (*blocks, network):
        sharded: Any = fully_shard(part, mesh=mesh, reshard_after_forward=True)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo knows no other


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of which this process has a part, put together in its main memory; others as they are.

    All processes must call it.
    """
    return {name: _together(tensor) if _is_part(tensor) else tensor for name, tensor in tensors.items()}


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """What this process keeps of a whole tensor if it has but a part of `like`; otherwise the tensor itself."""
    if not _is_part(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    parted: Any = like
    found = distribute_tensor(tensor.to(like.device), parted.device_mesh, parted.placements, src_data_rank=None)
    return found.clone()  # it is a view, which would hold all of the tensor in the device's memory


def parts_for(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors as `network.load_state_dict` takes them."""
    own = network.state_dict()
    return {name: part_of(tensor, own.get(name, tensor)) for name, tensor in tensors.items()}


def idle_passes(ranks: Ranks, batch: int, parts: int) -> int:
    """How many passes this process makes for the others' sake, who have a slice of the batch more than it has."""
    most, own = (len(Ranks(rank, ranks.count).slices(batch, parts)) for rank in (0, ranks.rank))
    return most - own


def _is_part(tensor: Tensor) -> bool:
    """Whether it is a DTensor; to import that class would cost every other training seconds."""
    return hasattr(tensor, "full_tensor")


@torch.no_grad()
def _together(tensor: Any) -> Tensor:
    full: Tensor = tensor.full_tensor()
    return full.cpu()
