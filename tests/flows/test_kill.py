"""A run that is killed and started again ends with the bytes of one that was left in peace.

SIGKILL is what a scheduler or a machine out of memory sends: no handler runs, nothing is tidied up.
"""

import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meddiff_core.artefacts import digest_tree

Run = Callable[..., Any]
KILLS = int(os.environ.get("MEDDIFF_TEST_KILLS", "5"))
WORKERS = ({"dask": "off"}, {"dask": "local", "workers": 1})
"""By turns: with and without other processes that must not survive either."""


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_kills_change_no_byte_of_the_release_and_leave_no_process(
    chain: Any, new_study: Run, meddiff: Run, start_meddiff: Run
) -> None:
    """The instants are spread over the whole of a quiet run. A study is killed until it is finished; then a new one."""
    left, number = instants(chain.seconds), 0
    while left:
        folder = new_study(f"killed-{number}", runtime=WORKERS[number % 2])
        kills = 0
        while left and killed(start_meddiff("run", folder), left[-1]):
            left.pop()
            kills += 1
        if left and not kills:
            left[-1] *= 0.8  # the machine is faster now than during the quiet run
        done = meddiff("run", folder)
        assert done.status == 0, done.err
        assert digest_tree(folder / "releases" / "heads-1.0.0") == digest_tree(chain.release)
        assert [path.name for path in (folder / "releases").iterdir()] == ["heads-1.0.0"]
        assert processes_of(folder, within_s=30) == []
        number += 1


def instants(seconds: float) -> list[float]:
    """One in each of `KILLS` parts of a run, in random order."""
    chance = random.Random(2026)
    spread = [seconds * (part + chance.random()) / KILLS for part in range(KILLS)]
    chance.shuffle(spread)
    return spread


def killed(process: "subprocess.Popen[str]", after_s: float) -> bool:
    """Whether the command had to be killed; otherwise it had ended well before."""
    with process:
        try:
            _, said = process.communicate(timeout=after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return True
    assert process.returncode == 0, said
    return False


def processes_of(study: Path, within_s: float) -> list[str]:
    """Command lines of what still runs for a study, after a while to end."""
    deadline = time.monotonic() + within_s
    while (found := running(study)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def running(study: Path) -> list[str]:
    """Processes whose environment was set up for a study: the command gives it to all that it starts."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"PREFECT_HOME={study}/".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has ended, or it is not ours
            continue
    return found
