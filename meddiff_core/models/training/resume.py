"""Resume points on disk: folders `step-00000100` that appear whole or not at all.

Training resumes from the newest whole one of the same training; one that cannot be read is passed over for the one
before it. Old ones are removed by number, and optionally by age.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from meddiff_core.artefacts import write_json
from meddiff_core.errors import IntegrityError
from meddiff_core.models.checkpoint import Tensors, load_checkpoint, save_checkpoint

HOUR_S = 3600


@dataclass(frozen=True)
class Keep:
    """Which resume points stay."""

    newest: int = 2
    hourly: bool = False
    """Whether to keep, of the older ones, the last of each hour of training."""


class ResumePoint(NamedTuple):
    """What a resume point holds."""

    tensors: Tensors
    facts: dict[str, Any]


@dataclass(frozen=True)
class ResumePoints:
    """The resume points of one training, which `key` tells from others in the same folder."""

    folder: Path
    key: str
    keep: Keep = Keep()

    def write(self, step: int, tensors: Tensors, facts: dict[str, Any]) -> None:
        """Add a point. `facts` hold the `seconds` that the training has taken."""
        save_checkpoint(self._path(step), tensors, {"key": self.key, "step": step, **facts})
        kept = self._all()[-self.keep.newest :]
        if self.keep.hourly:
            kept += {
                _facts(path).get("seconds", 0) // HOUR_S: path for path in self._all() if path not in kept
            }.values()
        for path in set(self._all()) - set(kept):
            shutil.rmtree(path)

    def newest(self) -> tuple[ResumePoint | None, list[str]]:
        """The newest point that can be read, and the names of those after it that cannot."""
        broken = list[str]()
        for path in reversed(self._all()):
            if _facts(path).get("key", self.key) != self.key:
                continue
            try:
                return ResumePoint(*load_checkpoint(path)), broken
            except IntegrityError:
                broken.append(path.name)
        return None, broken

    def drop_after(self, step: int) -> None:
        """Remove all points later than a step."""
        for path in self._all():
            if path > self._path(step):
                shutil.rmtree(path, ignore_errors=True)

    def note_accumulation_steps(self, steps: int) -> None:
        """Remember, for when all processes start again, how many micro-batches fit a batch into the memory."""
        write_json(self.folder / "accumulation_steps.json", steps)

    def noted_accumulation_steps(self) -> int:
        """What `note_accumulation_steps` has written, or 1."""
        path = self.folder / "accumulation_steps.json"
        return int(path.read_text()) if path.exists() else 1

    def forget(self) -> None:
        """Remove all points: the training is finished, or it is another one."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def _facts(path: Path) -> dict[str, Any]:
    """Facts of a resume point; empty if they cannot be read."""
    try:
        return dict(json.loads((path / "facts.json").read_text()))
    except (OSError, ValueError, TypeError):
        return {}
