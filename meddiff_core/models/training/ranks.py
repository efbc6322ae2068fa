"""A batch in slices: over processes that train together, and over parts that fit the memory.

Every process draws the random numbers of the whole batch and works on its own slices of it, so the sum of
all gradients is that of one process with the whole batch, whatever their number. One idea serves
both data-parallel training and gradient accumulation.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    """This process among those that train one network together. Alone unless told otherwise."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and reports progress."""
        return self.rank == 0

    def slices(self, batch: int, parts: int) -> list[slice]:
        """The items of a batch that this process works on, in `parts` slices that differ by one item at most."""
        total = min(batch, self.count * parts)
        bounds = [batch * piece // total for piece in range(total + 1)]
        return [slice(bounds[piece], bounds[piece + 1]) for piece in range(self.rank, total, self.count)]

    def sum_gradients(self, network: nn.Module) -> None:
        """Replace each gradient by its sum over the processes; a parameter without one counts as zero."""
        if self.count == 1:
            return
        gradients = []
        for parameter in network.parameters():
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        joined = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(joined)
        for gradient, part in zip(gradients, joined.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def sum_losses(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each loss summed over the processes; slices give theirs weighted by their share of the batch."""
        if self.count == 1 or not losses:
            return losses
        # In plain order: of a tensor in another one gloo's sum is silently lost.
        joined = torch.stack([loss.detach().float() for loss in losses.values()]).contiguous()
        torch.distributed.all_reduce(joined)
        return dict(zip(losses, joined, strict=True))


def add_losses(slices: Iterable[tuple[float, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """Losses of slices, each with its share of the batch, as those of the whole."""
    total: dict[str, Tensor] = {}
    for share, losses in slices:
        for name, loss in losses.items():
            total[name] = total.get(name, torch.zeros_like(loss.detach())) + share * loss.detach()
    return total
