"""A training small enough to be watched: a line through points, by several processes. Run by torch's launcher.

Its faults are named on the command line: `lose-once` and `lose-always` kill process 1 at step 13, `refuse` and
`break` raise in it, `drift` changes its weights, `linger` takes long.
"""

import os
import signal
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch

from meddiff_core.errors import ConfigurationError
from meddiff_core.models.checkpoint import load_checkpoint, save_checkpoint
from meddiff_core.models.randomness import generator_for
from meddiff_core.models.training.processes import require_agreement
from meddiff_core.models.training.ranks import Ranks, add_losses
from meddiff_core.types import Progress
from tasks.worker import serve

STEPS = 20
EVERY = 5
BATCH = 6


def fit_line(folder: Path, fault: str, ranks: Ranks) -> Generator[Progress, None, dict[str, Any]]:
    """Gradient descent with momentum; gives where each step was begun, and the weights."""
    line = torch.nn.Linear(3, 1)
    torch.nn.init.zeros_(line.weight)
    torch.nn.init.zeros_(line.bias)
    optimizer = torch.optim.SGD(line.parameters(), 0.05, momentum=0.5)
    momenta = {f"momentum.{number}": torch.zeros_like(p) for number, p in enumerate(line.parameters())}
    first = 0
    if (folder / "resume").exists():
        state, facts = load_checkpoint(folder / "resume")
        first = facts["step"]
        line.load_state_dict({name: state[name] for name in ("weight", "bias")})
        momenta = {name: state[name] for name in momenta}
    for number, parameter in enumerate(line.parameters()):
        optimizer.state[parameter]["momentum_buffer"] = momenta[f"momentum.{number}"]
    for step in range(first, STEPS):
        loss = descend(line, optimizer, step, ranks)
        if step == 12 and ranks.rank == 1:
            go_wrong(folder, fault, line)
        if fault == "linger":
            time.sleep(0.5)
        if (step + 1) % EVERY == 0:
            require_agreement(ranks, "line", line.state_dict())
            if ranks.first:
                save_checkpoint(folder / "resume", line.state_dict() | momenta, {"step": step + 1})
        yield Progress("line", step + 1, STEPS, {"loss": float(loss)})
    values = [float(value) for parameter in line.parameters() for value in parameter.detach().flatten()]
    return {"values": values, "threads": torch.get_num_threads()}


def descend(line: torch.nn.Linear, optimizer: torch.optim.Optimizer, step: int, ranks: Ranks) -> torch.Tensor:
    points = torch.randn(BATCH, 3, generator=generator_for("points", step))
    heights = points @ torch.tensor([[1.0], [-2.0], [0.5]]) + 3
    optimizer.zero_grad()
    losses = []
    for piece in ranks.micro_batches(BATCH, accumulation_steps=1):
        share = len(points[piece]) / BATCH
        loss = (line(points[piece]) - heights[piece]).square().mean()
        (share * loss).backward()
        losses.append((share, {"loss": loss}))
    ranks.sum_gradients(line)
    optimizer.step()
    return ranks.sum_losses(add_losses(losses))["loss"]


def go_wrong(folder: Path, fault: str, line: torch.nn.Linear) -> None:
    mark = folder / "lost"
    if fault == "lose-always" or (fault == "lose-once" and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "refuse":
        raise ConfigurationError("line must be straight, is bent")
    if fault == "break":
        raise ZeroDivisionError("no slope")
    if fault == "drift":
        line.weight.data += 1


if __name__ == "__main__":
    print("what a library prints is no message")
    device, scratch, where, what = sys.argv[1:]
    serve(lambda ranks, _: fit_line(Path(where), what, ranks), device, Path(scratch))
