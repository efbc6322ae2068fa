"""A batch in micro-batches: over processes that train together, and over steps of gradient accumulation.

Every process makes the random choices of the whole batch and works on its own micro-batches, so the sum of all
gradients is that of one process with the whole batch, whatever their number. The same code serves data-parallel
training and gradient accumulation.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    """This process among those that train one network together; by default it is alone."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and reports progress."""
        return self.rank == 0

    def micro_batches(self, batch: int, accumulation_steps: int) -> list[slice]:
        """The items of a batch that this process works on, one slice a step; sizes differ by one item at most."""
        total = min(batch, self.count * accumulation_steps)
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
        """Each loss summed over the processes; micro-batches give theirs weighted by their share of the batch."""
        if self.count == 1 or not losses:
            return losses
        # In plain order: of a tensor in another one gloo's sum is silently lost.
        joined = torch.stack([loss.detach().float() for loss in losses.values()]).contiguous()
        torch.distributed.all_reduce(joined)
        return dict(zip(losses, joined, strict=True))


def add_losses(micro_batches: Iterable[tuple[float, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """Losses of the whole batch, from those of micro-batches with their shares of it."""
    total: dict[str, Tensor] = {}
    for share, losses in micro_batches:
        for name, loss in losses.items():
            total[name] = total.get(name, torch.zeros_like(loss.detach())) + share * loss.detach()
    return total
