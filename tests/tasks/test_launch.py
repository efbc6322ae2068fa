"""Several processes train as one would; what happens to one of them, or to the command, leaves nothing half done."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import line_fit
import pytest
import torch

from meddiff_core.errors import ConfigurationError, IntegrityError, MeddiffError
from meddiff_core.models.training.ranks import Ranks
from meddiff_core.study import RuntimeConfig
from meddiff_core.types import Progress
from tasks.launch import count_processes, launch

ROOT = Path(__file__).parents[2]
PROGRAM = (line_fit.__file__,)
COMMAND = """
import sys
from pathlib import Path
from tasks.launch import launch

for _ in launch(sys.argv[1:2], (sys.argv[2], "linger"), "cpu", 2, Path(sys.argv[2], "state")):
    print("going", flush=True)
"""


@pytest.fixture(autouse=True)
def marked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Processes of a test find this code, and are known by their environment."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MEDDIFF_TEST", str(tmp_path))


@pytest.fixture
def alone(tmp_path: Path, finish: Callable[..., Any]) -> list[float]:
    """The weights of one process."""
    folder = tmp_path / "alone"
    folder.mkdir()
    return list(finish(line_fit.fit_line(folder, "none", Ranks()))["values"])


def fit(folder: Path, fault: str = "none", count: int = 2) -> tuple[dict[str, Any], list[Progress]]:
    seen: list[Progress] = []
    work = launch(PROGRAM, (str(folder), fault), "cpu", count, folder / "state")
    while True:
        try:
            seen.append(next(work))
        except StopIteration as end:
            return end.value, seen


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_end_with_the_weights_of_one(tmp_path: Path, alone: list[float], count: int) -> None:
    """Not bit for bit: the same gradients are added up in another order."""
    result, seen = fit(tmp_path, count=count)
    assert result["values"] == pytest.approx(alone, abs=1e-5)
    assert [progress.done for progress in seen] == list(range(1, line_fit.STEPS + 1))
    assert seen[-1].metrics["loss"] < seen[0].metrics["loss"]
    assert processes(tmp_path) == []


@pytest.mark.slow
def test_a_lost_process_costs_the_steps_since_the_resume_point_and_nothing_else(tmp_path: Path) -> None:
    quiet, disturbed = tmp_path / "quiet", tmp_path / "disturbed"
    quiet.mkdir()
    disturbed.mkdir()
    expected, _ = fit(quiet)
    result, seen = fit(disturbed, "lose-once")
    assert result["values"] == expected["values"]
    again = next(number for number, progress in enumerate(seen) if progress.note)
    assert "all processes had to start again" in seen[again].note
    assert [progress.done for progress in seen[again:]] == list(range(11, line_fit.STEPS + 1))


@pytest.mark.slow
def test_a_process_that_is_lost_every_time_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.launch.RESTARTS", 1)
    with pytest.raises(MeddiffError, match=r"2 processes must train to the end, they broke down: see .*log\.txt"):
        fit(tmp_path, "lose-always")
    assert "SIGKILL" in (tmp_path / "state" / "log.txt").read_text()
    assert processes(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("refuse", ConfigurationError, "^line must be straight, is bent$"),
        ("break", MeddiffError, "^ZeroDivisionError: no slope$"),
        ("drift", IntegrityError, "process 1 differs from process 0 in 1 tensors, the first is weight$"),
    ],
)
def test_what_a_process_raises_is_raised_here_at_once(
    tmp_path: Path, fault: str, error: type[MeddiffError], words: str
) -> None:
    with pytest.raises(error, match=words) as raised:
        fit(tmp_path, fault)
    assert raised.type is error
    assert not list(tmp_path.glob("state/*/meeting-1"))
    assert processes(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("launcher_first", [False, True])
def test_a_killed_command_leaves_no_process(tmp_path: Path, launcher_first: bool) -> None:
    """Also not if the launcher, which would end its workers, is gone before."""
    with command(tmp_path) as process:
        assert len(processes(tmp_path)) >= 4  # the command, the launcher, two workers
        if launcher_first:
            os.kill(launcher_of(tmp_path), signal.SIGKILL)
        process.kill()
    assert ended(tmp_path)


@pytest.mark.slow
def test_a_training_needs_its_launcher_no_more_once_it_runs(tmp_path: Path) -> None:
    with command(tmp_path) as process:
        os.kill(launcher_of(tmp_path), signal.SIGKILL)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert ended(tmp_path)


@pytest.mark.slow
def test_nobody_listens_to_the_network(tmp_path: Path) -> None:
    with command(tmp_path) as process:
        sockets = {inode for pid, _ in processes(tmp_path) for inode in open_sockets(pid)}
        addresses = {address for address, inode in listening() if inode in sockets}
        process.kill()
    assert addresses
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert ended(tmp_path)


@pytest.mark.slow
def test_a_training_that_is_no_longer_wanted_is_ended(tmp_path: Path) -> None:
    work = launch(PROGRAM, (str(tmp_path), "linger"), "cpu", 2, tmp_path / "state")
    next(work)
    work.close()
    assert processes(tmp_path) == []


@pytest.mark.parametrize(
    ("wanted", "device", "gpus", "batch", "count"),
    [
        (None, "cpu", 4, 8, 1),
        (2, "cpu", 0, 8, 2),
        (None, "cuda", 4, 8, 4),
        (None, "cuda", 4, 3, 3),
        (None, "cuda:1", 4, 8, 1),
        (4, "cpu", 0, 3, 3),
        (2, "cuda", 4, 8, 2),
    ],
)
def test_there_is_one_process_for_each_gpu_unless_set_otherwise(
    monkeypatch: pytest.MonkeyPatch, wanted: int | None, device: str, gpus: int, batch: int, count: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert count_processes(RuntimeConfig(processes=wanted), device, batch) == count


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigurationError, match=f"processes must be at most 1, the GPUs of .* {device}, is 2"):
        count_processes(RuntimeConfig(processes=2), device, 8)


@contextmanager
def command(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A command whose training goes on; ended with the block."""
    arguments = [sys.executable, "-c", COMMAND, line_fit.__file__, str(folder)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "going\n"
            yield process
        finally:
            process.kill()


def launcher_of(folder: Path) -> int:
    """Number of torch's launcher."""
    return next(pid for pid, line in processes(folder) if "torch.distributed.run" in line)


def ended(folder: Path, within_s: float = 40) -> bool:
    """Whether all processes of a test end in time."""
    deadline = time.monotonic() + within_s
    while processes(folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not processes(folder)


def processes(folder: Path) -> list[tuple[int, str]]:
    """Number and command line of what runs with the environment of a test."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"MEDDIFF_TEST={folder}\0".encode() in (process / "environ").read_bytes():
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found.append((int(process.name), line))
        except OSError:  # it has ended, or it is not ours
            continue
    return found


def open_sockets(pid: int) -> Iterator[str]:
    """Inodes of a process's sockets."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        target = str(descriptor.readlink())
        if target.startswith("socket:["):
            yield target.removeprefix("socket:[").removesuffix("]")


def listening() -> Iterator[tuple[str, str]]:
    """Address and inode of every socket that waits for connections."""
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A":
                yield local.split(":")[0], inode
