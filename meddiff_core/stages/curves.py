"""Training curves, in a small file beside each model: the study's report shows them without any tracking server.

A training that resumes after a kill adds to the curves of its own key and replaces those of another training. They are
no part of the model's digest: equal weights stay equal, however often their training was interrupted.
"""

import json
import math
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from meddiff_core.artefacts import write_text
from meddiff_core.types import Message, Progress, Result, Work
from meddiff_core.workspace import DECIDED, Workspace

Curves = Mapping[str, list[tuple[int, float]]]
"""(step, value) by the name of a metric."""
WRITE_EVERY_S = 2.0
"""Seconds of a curve that a kill may lose."""


def record_curves(workspace: Workspace, name: str, key: str, training: Work[Result]) -> Work[Result]:
    """Pass on what a training yields, and write its metrics beside the model; gives what the training gives."""
    path = _path(workspace, name)
    points, written = _read(path, key), time.monotonic()
    with closing(training):
        while True:
            try:
                event = next(training)
            except StopIteration as end:
                _write(path, key, points)
                result: Result = end.value
                return result
            _add(points, event)
            if points and time.monotonic() - written > WRITE_EVERY_S:
                _write(path, key, points)
                written = time.monotonic()
            yield event


def read_curves(workspace: Workspace) -> Curves:
    """Every metric that the trainings of a study measured over time; none of a study without the files."""
    merged = {name: line for model in DECIDED for name, line in _read(_path(workspace, model)).items()}
    return {name: sorted(line.items()) for name, line in merged.items() if len(line) > 1}


def _path(workspace: Workspace, name: str) -> Path:
    return workspace.path(name).with_suffix(".curves.json")


def _add(points: dict[str, dict[int, float]], event: Progress | Message) -> None:
    if isinstance(event, Progress):
        for metric, value in event.metrics.items():
            if math.isfinite(value):
                points.setdefault(metric, {})[event.done] = value


def _read(path: Path, key: str | None = None) -> dict[str, dict[int, float]]:
    """Value by step by metric; nothing of a training with another key."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):  # none yet
        return {}
    if key is not None and content["key"] != key:
        return {}
    return {metric: {int(step): value for step, value in line} for metric, line in content["curves"].items()}


def _write(path: Path, key: str, points: Mapping[str, Mapping[int, float]]) -> None:
    curves = {metric: sorted(line.items()) for metric, line in points.items()}
    write_text(path, json.dumps({"key": key, "curves": curves}))
