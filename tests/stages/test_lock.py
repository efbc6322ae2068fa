"""Two processes on one study: the second is refused, or waits for its turn, as it wishes."""

import subprocess
import sys
from pathlib import Path

import pytest

from meddiff_core.errors import ConfigurationError
from meddiff_core.stages.lock import locked

HOLD = """
import sys
from pathlib import Path
from meddiff_core.stages.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_second_process_is_refused_or_waits_until_the_first_has_ended(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(ConfigurationError, match="another meddiff"), locked(tmp_path):
            pass
        said = []

        def before_waiting() -> None:
            said.append(first.poll())
            assert first.stdin is not None
            first.stdin.close()

        with locked(tmp_path, before_waiting):
            assert said == [None]
            assert first.wait(timeout=30) == 0
