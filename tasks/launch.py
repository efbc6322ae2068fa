"""A training over several processes of this machine, by torch's elastic launcher.

The launcher is a child of its own, and its workers import no engine (see worker.py). When one of them is lost,
all start again from the last resume point; when the command is gone, they end. They meet in files and over
loopback: torch's usual meeting place is a port that is open to the network.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meddiff_core.artefacts import STATE
from meddiff_core.errors import ConfigurationError, DataRefused, IntegrityError, MeddiffError, TrainingFailed
from meddiff_core.models.plan import load_plan
from meddiff_core.study import RuntimeConfig
from meddiff_core.types import Progress
from meddiff_core.workspace import Workspace

RESTARTS = 8
"""How often processes are started again after one was lost or memory ran out."""
_GOODBYE_S = 40
"""The launcher gives its workers 30."""
_LOOPBACK = {
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # it listens on every interface
}
_KINDS = {kind.__name__: kind for kind in (ConfigurationError, DataRefused, IntegrityError, TrainingFailed)}


def choose_processes(workspace: Workspace, name: str, device: str) -> int:
    """Number of processes that train a model of a study."""
    plan, runtime = load_plan(workspace.path("plan")), workspace.study.runtime
    if name == "denoiser" and workspace.study.train.denoiser.privacy:
        return 1  # its gradients are taken subject by subject, with noise that is secret
    training = {"autoencoder": plan.autoencoder_training, "denoiser": plan.denoiser_training}[name]
    return count_processes(runtime, device, training.batch)


def count_processes(runtime: RuntimeConfig, device: str, batch: int) -> int:
    """Number of processes: as the study gives, or one for each GPU, or one; at most one for each item of a batch.

    Raises:
        ConfigurationError: more are wanted than there are GPUs.
    """
    import torch

    wanted, gpus = runtime.processes, torch.cuda.device_count() if device == "cuda" else 1
    if device != "cpu" and wanted is not None and wanted > gpus:
        raise ConfigurationError(
            f"runtime.processes must be at most {gpus}, the GPUs of runtime.device {device}, is {wanted}"
        )
    return min(wanted or gpus, batch)


def fit_together(
    folder: Path, name: str, key: str, device: str, count: int
) -> Generator[Progress, None, dict[str, Any]]:
    """`fit_model` of the core, by `count` processes."""
    program = ("--module", "tasks.worker")
    return launch(program, (str(folder), name, key), device, count, folder / STATE / "launch" / name)


def launch(
    program: Sequence[str], arguments: Sequence[str], device: str, count: int, state: Path
) -> Generator[Progress, None, dict[str, Any]]:
    """Run a program that calls `worker.serve` in `count` processes; yields and returns what the first one does.

    Raises:
        MeddiffError: what a process raised; or processes were lost again and again.
    """
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)
    scratch, result = tempfile.mkdtemp(dir=state), None
    with _launcher((*program, device, scratch, *arguments), count, Path(scratch), state / "log.txt") as process:
        for message in _messages(process):
            if "error" in message:
                raise _KINDS.get(message["kind"], MeddiffError)(message["error"])
            if "progress" in message:
                yield Progress(**message["progress"])
            result = message.get("result", result)
    if result is None:
        raise MeddiffError(f"{count} processes must train to the end, they broke down: see {state / 'log.txt'}")
    return dict(result)


@contextmanager
def _launcher(command: Sequence[str], count: int, scratch: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    import torch

    options = {
        "nnodes": "1",
        "nproc-per-node": str(count),
        "max-restarts": str(RESTARTS),
        "rdzv-backend": "c10d",
        "rdzv-conf": "store_type=file",
        "rdzv-endpoint": str(scratch / "rendezvous"),
        "local-addr": "127.0.0.1",
        "log-dir": os.devnull,
    }
    threads = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // count))}
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *(f"--{k}={v}" for k, v in options.items()), *command],
            env=os.environ | _LOOPBACK | threads,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # an interrupt is for the command, which ends the others
        )
    with process:
        try:
            yield process
        finally:
            _stop(process)


def _messages(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """Until the launcher and all workers have ended."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(b"{"):
            yield json.loads(line)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe that the workers end with, and end the launcher."""
    assert process.stdin is not None
    process.stdin.close()
    process.terminate()
    try:
        process.wait(_GOODBYE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
