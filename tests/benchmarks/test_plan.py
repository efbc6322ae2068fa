"""What a plan says of memory and time, beside what the trainings then take, each in a process of its own.

Memory is what the process grew by, from before the networks were built to its peak.
"""

import json
import subprocess
import sys

import pytest

MEASURE = """
import json, resource, time, sys
import numpy as np, torch
from meddiff_core.contract import Contract, IntensityMapping
from meddiff_core.diffusion import sizing
from meddiff_core.study import Study

threads, network, side = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
torch.set_num_threads(threads)
contract = Contract(
    spacing_mm=4.0, size=(side, side, side), mask="none", labels={"one": (1,), "two": (2,)}, conditions=(),
    intensity=IntensityMapping(modality="MR", low=0, high=1, percentiles=(0.5, 99.5)),
)
study = Study.model_validate({"name": "bench", "data": {"images": "x"}})
if sys.argv[4] == "plan":
    plan = sizing.infer_plan(contract, {}, study, 100, "cpu")
    part = getattr(plan, f"{network}_training")
    print(json.dumps([part.seconds_per_step, part.memory_gb]))
    sys.exit()
import monai.networks.nets
probe = {"autoencoder": lambda: sizing._autoencoder_probe(
             sizing._autoencoder_shape(contract, study, "cpu"), contract, study, sizing.Way(2), "cpu"),
         "denoiser": lambda: sizing._denoiser_probe(
             sizing._denoiser_shape(4, (side // 4,) * 3, study, "cpu"), contract, (side // 4,) * 3, study,
             sizing.Way(8), "cpu")}[network]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
training = probe()
training.step(0)
started = time.perf_counter()
for step in range(1, 6):
    training.step(step)
seconds = (time.perf_counter() - started) / 5
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([seconds, (peak - before) / 2**20]))
"""


@pytest.mark.parametrize("network", ["autoencoder", "denoiser"])
@pytest.mark.parametrize("side", [32, 48])
def test_predicted_beside_actual(network: str, side: int) -> None:
    (planned_s, planned_gb), (actual_s, actual_gb) = (_run(network, side, what) for what in ("plan", "train"))
    print(
        f"\n{network} at {side}^3: {planned_s:.2f} s a step planned, {actual_s:.2f} taken ({planned_s / actual_s:.2f});"
        f" {planned_gb:.2f} GB planned, {actual_gb:.2f} taken ({planned_gb / actual_gb:.2f})",
        end="",
    )
    assert 0.75 < planned_gb / actual_gb < 1.33


def _run(network: str, side: int, what: str) -> tuple[float, float]:
    command = [sys.executable, "-c", MEASURE, "2", network, str(side), what]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, memory_gb = json.loads(found.stdout.splitlines()[-1])
    return seconds, memory_gb
