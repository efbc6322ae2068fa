"""What a volume costs in the whole flow, beside the bare loop that samples it: same weights, same samples, one run.

    python tests/benchmarks/flow.py STUDY_FOLDER [--workers 2] [--few 32] [--more 128] [--without-outliers]

Works on a copy of a study with a trained denoiser. The loop is `Engine.sample` in as many processes as the flow has
workers, with nothing else. A command has a fixed cost, to start and to check what is there, and one per volume: both
come from two cohorts of different size, the second grown from the first, so that only its new volumes are sampled.
Screening judges the whole cohort each time, with all that the study's `screen` asks for, or without `screen.outliers`,
which runs the denoiser again.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import yaml

from meddiff_core.generation.engine import open_engine
from meddiff_core.generation.schedule import SampleRequest
from meddiff_core.stages.generate import shards_of
from meddiff_core.workspace import Workspace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--few", type=int, default=32)
    parser.add_argument("--more", type=int, default=128)
    parser.add_argument("--without-outliers", action="store_true")
    options = parser.parse_args()
    whole = options.few + options.more
    with tempfile.TemporaryDirectory(prefix="meddiff-flow-") as scratch:
        folder = Path(scratch) / "study"
        shutil.copytree(options.study, folder, ignore=shutil.ignore_patterns("candidates.zarr", "releases"))
        if options.without_outliers:
            change(folder, "screen", outliers=False)
            settle(folder, 1, options.workers)
            for name in ("generate", "screen"):  # fits the bounds that are left
                command(name, folder)
        settle(folder, options.few, options.workers)
        first = {name: command(name, folder) for name in ("generate", "screen")}
        settle(folder, whole, options.workers)
        second = {name: command(name, folder) for name in ("generate", "screen")}
        loop = bare_loop(folder, range(options.few, whole), options.workers) / options.more
    generate = (second["generate"] - first["generate"]) / (options.more - options.few)
    screen = (second["screen"] - first["screen"]) / options.more
    print(f"{options.workers} workers; seconds a volume")
    print(f"bare loop            {loop:.3f}")
    print(f"generate             {generate:.3f}  {generate / loop:.2f} x, and {first['generate']:.0f} s for the first")
    print(f"generate and screen  {generate + screen:.3f}  {(generate + screen) / loop:.2f} x")


def settle(folder: Path, size: int, workers: int) -> None:
    """Ask for a cohort of `size` volumes."""
    change(folder, "cohort", size=size)
    change(folder, "runtime", workers=workers, dask="local", device="cpu")


def change(folder: Path, section: str, **values: Any) -> None:
    """Set some keys of a section of the study."""
    path = folder / "study.yaml"
    content = yaml.safe_load(path.read_text())
    content[section] = content.get(section, {}) | values
    path.write_text(yaml.safe_dump(content))


def command(name: str, folder: Path) -> float:
    """Seconds that a command takes."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "flows.cli", name, str(folder), "--quiet"], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - started


def bare_loop(folder: Path, slots: Sequence[int], workers: int) -> float:
    """Seconds in which processes that are warm sample the slots, shared out evenly."""
    workspace, context = Workspace.open(folder), get_context("spawn")
    samples = [sample for shard in shards_of(workspace, slots, 0) for sample in shard.samples]
    pipes = list[Connection]()
    for number in range(workers):
        here, there = context.Pipe()
        context.Process(target=_serve, args=(folder, samples[number::workers], there), daemon=True).start()
        pipes.append(here)
    for pipe in pipes:
        pipe.recv()
    started = time.perf_counter()
    _all(pipes, lambda pipe: pipe.send(True))
    _all(pipes, lambda pipe: pipe.recv())
    return time.perf_counter() - started


def _all(pipes: Sequence[Connection], act: Callable[[Connection], object]) -> None:
    for pipe in pipes:
        act(pipe)


def _serve(folder: Path, samples: Sequence[SampleRequest], pipe: Connection) -> None:
    workspace = Workspace.open(folder)
    digest = workspace.models_digest()
    config = workspace.sampling
    engine = open_engine(workspace.folder / "models", digest, config, "cpu")
    engine.sample(samples[: config.batch])
    pipe.send(True)
    pipe.recv()
    for start in range(0, len(samples), config.shard):
        engine.sample(samples[start : start + config.shard])
    pipe.send(True)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
