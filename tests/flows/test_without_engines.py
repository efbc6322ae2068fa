"""The whole chain from Python, with every engine blocked, comes to the artefacts of the command."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meddiff_core.stages.curves import read_curves
from meddiff_core.workspace import CHAIN, Workspace

ROOT = Path(__file__).parents[2]
RUN = """
import json, sys
for engine in ("prefect", "mlflow", "dask", "distributed"):
    sys.modules[engine] = None  # so that importing it fails
from meddiff_core.stages.chain import run_study
from meddiff_core.types import Message, Progress

seen, work = [], run_study(sys.argv[1])
while True:
    try:
        seen.append(next(work))
    except StopIteration as end:
        records = end.value
        break
assert {type(event) for event in seen} <= {Message, Progress}
print(json.dumps({"said": [event.text for event in seen if isinstance(event, Message)], "made": list(records)}))
"""


def run(folder: Path) -> dict[str, Any]:
    """What `run_study` said and made, in a process of its own."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    command = [sys.executable, "-c", RUN, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=variables | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_chain_runs_without_engines_and_comes_to_the_same(
    chain: Any, new_study: Callable[..., Path], subjects: list[str]
) -> None:
    folder = new_study("without-engines")
    first, second = run(folder), run(folder)
    assert first["made"] == list(CHAIN)
    ledgers = [Workspace.open(study).records() for study in (folder, chain.folder)]
    digests = [{name: record.digest for name, record in ledger.items() if name != "report"} for ledger in ledgers]
    assert digests[0] == digests[1]  # the report alone says how long things took
    assert [line for line in second["said"] if line.endswith(": up to date")] == [
        f"{name}: up to date" for name in CHAIN if name != "inventory"
    ]
    assert not any(subject in str(first["said"]) for subject in subjects)
    assert not (folder / "mlflow.db").exists()
    curves, of_command = (read_curves(Workspace.open(study)) for study in (folder, chain.folder))
    assert curves.keys() == of_command.keys() != set()
    assert "Training curve: " in (folder / "report.html").read_text()
