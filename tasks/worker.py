"""One of several processes that train a network together; torch's launcher starts them (see launch.py).

It speaks to the command in lines of JSON, on what was its standard output. Its standard input is a pipe whose
other end the command holds, so that it ends with the command, however that ends. It imports no engine:
that would cost every process, at every start, seconds.
"""

import json
import os
import select
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

from meddiff_core.errors import MeddiffError
from meddiff_core.models.training.processes import joined
from meddiff_core.models.training.ranks import Ranks
from meddiff_core.training import fit_model
from meddiff_core.types import Progress

Work = Callable[[Ranks, str], Generator[Progress, None, dict[str, Any]]]
"""From this process's place among the others, and its device, to a training."""


def serve(work: Work, device: str, scratch: Path) -> None:
    """Do this process's part of a training to its end, and report it.

    An error is reported once and ends the training. A RuntimeError may come from the loss of another process: it is
    raised, and the launcher restarts all of them.
    """
    channel = _take_standard_output()
    watch = _end_with_the_command()
    rank, count, attempt = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"))
    place = device if device == "cpu" else f"cuda:{rank}"
    with joined(Ranks(rank, count), scratch / f"meeting-{attempt}", place) as ranks:
        try:
            for message in _messages(work(ranks, place), attempt):
                if ranks.first:
                    _send(channel, message)
        except RuntimeError:
            raise
        except Exception as error:
            traceback.print_exc()
            _send(channel, {"error": _plain(error), "kind": type(error).__name__})
            watch.join()  # the command ends all processes


def _messages(work: Generator[Progress, None, dict[str, Any]], attempt: int) -> Generator[dict[str, Any], None, None]:
    again = "all processes had to start again, from the last resume point" if attempt else ""
    while True:
        try:
            progress = next(work)
        except StopIteration as end:
            yield {"result": end.value}
            return
        if again:
            progress, again = replace(progress, note="; ".join(filter(None, [again, progress.note]))), ""
        yield {"progress": asdict(progress)}


def _plain(error: Exception) -> str:
    return str(error) if isinstance(error, MeddiffError) else f"{type(error).__name__}: {error}"


def _take_standard_output() -> BinaryIO:
    """For messages alone; what libraries print goes to the log."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return channel


def _send(channel: BinaryIO, message: dict[str, Any]) -> None:
    channel.write(json.dumps(message).encode() + b"\n")
    channel.flush()


def _end_with_the_command() -> threading.Thread:
    """With status 0, so that the launcher does not start this process again."""

    def watch() -> None:
        select.select([0], [], [])  # nothing is ever sent: it is readable once it is closed
        os._exit(0)

    thread = threading.Thread(target=watch, name="end-with-the-command", daemon=True)
    thread.start()
    return thread


def main(device: str, scratch: str, folder: str, name: str, key: str) -> None:
    """Train a model of a study."""
    serve(lambda ranks, place: fit_model(Path(folder), name, key, place, ranks), device, Path(scratch))


if __name__ == "__main__":
    main(*sys.argv[1:])
