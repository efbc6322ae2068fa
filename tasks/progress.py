"""Drives the core's generators and shows how far they are: on the terminal, in Prefect, as curves.

The core yields small records and knows nothing of where they go. A night's training that shows nothing is
killed by its user; one that shows every step through a slow channel is slowed by it. So each channel here
has its own pace.
"""

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from meddiff_core.types import Message, Progress, Work

if TYPE_CHECKING:
    from rich.progress import TaskID

T = TypeVar("T")
Watcher = Callable[[Progress | Message], None]
MetricSink = Callable[[Sequence[Progress]], None]


@dataclass(frozen=True)
class Console:
    """How the command speaks on standard error."""

    quiet: bool = False
    bars: bool = False
    """Moving bars, for a terminal; otherwise a plain line now and then."""
    line_every_s: float = 15.0
    artifact_every_s: float = 5.0
    metrics_every_s: float = 5.0
    event_every_s: float = 60.0


_PLAIN = Console()
_console: ContextVar[Console] = ContextVar("console", default=_PLAIN)


@contextmanager
def speaking(console: Console) -> Iterator[Console]:
    """Use `console` for every `show` in this block."""
    token = _console.set(console)
    try:
        yield console
    finally:
        _console.reset(token)


def console_for(*, quiet: bool = False) -> Console:
    """The console that suits standard error: bars on a terminal, lines in a log."""
    return Console(quiet=quiet, bars=sys.stderr.isatty())


def echo(line: str) -> None:
    """One plain line on standard error, unless the command is quiet."""
    if not _console.get().quiet:
        print(line, file=sys.stderr, flush=True)


def warn(line: str) -> None:
    """`echo`, and a warning in Prefect's log of the run if there is one: who waits there must read it as well."""
    echo(line)
    if _runs_in_prefect():
        from prefect.logging import get_run_logger

        get_run_logger().warning(line)


def show(generator: Work[T], *, on_metrics: MetricSink | None = None) -> T:
    """Run a generator of the core to its end and return its value.

    `on_metrics` gets the records that carry metrics, in order and in batches; the last batch comes even if
    the work fails.
    """
    with ExitStack() as stack:
        stack.enter_context(closing(generator))
        watchers = _watchers(_console.get(), on_metrics, stack)
        while True:
            try:
                progress = next(generator)
            except StopIteration as end:
                value: T = end.value
                return value
            for watch in watchers:
                watch(progress)


def _watchers(console: Console, on_metrics: MetricSink | None, stack: ExitStack) -> list[Watcher]:
    watchers: list[Watcher] = []
    if not console.quiet:
        watchers.append(_bars(stack) if console.bars else _lines(console.line_every_s))
    if _runs_in_prefect():
        watchers += [_artifacts(console.artifact_every_s), _log, _beats(console.event_every_s)]
    if on_metrics is not None:
        watchers.append(_batches(on_metrics, console.metrics_every_s, stack))
    return watchers


def _runs_in_prefect() -> bool:
    if "prefect" not in sys.modules:
        return False
    from prefect.context import FlowRunContext, TaskRunContext

    return TaskRunContext.get() is not None or FlowRunContext.get() is not None


def _bars(stack: ExitStack) -> Watcher:
    """One bar per label."""
    from rich.console import Console as Terminal
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars = stack.enter_context(Bars(*columns, console=Terminal(stderr=True)))
    tasks: dict[str, TaskID] = {}

    def watch(progress: Progress | Message) -> None:
        if isinstance(progress, Message):
            bars.console.print(progress.text, markup=False, highlight=False, soft_wrap=True)
            return
        if progress.note:
            bars.console.print(_note(progress), markup=False, highlight=False)
        if progress.label not in tasks:
            tasks[progress.label] = bars.add_task(progress.label, total=progress.total or None, completed=progress.done)
        bars.update(tasks[progress.label], completed=progress.done, total=progress.total or None)

    return watch


def _lines(every_s: float) -> Watcher:
    """A line when a label begins, also for another time, every so often, and when it is done."""
    started: dict[str, tuple[float, int]] = {}
    complete = set[str]()
    due = _Pace(every_s)

    def watch(progress: Progress | Message) -> None:
        if isinstance(progress, Message):
            print(progress.text, file=sys.stderr, flush=True)
            return
        if progress.note:
            print(_note(progress), file=sys.stderr, flush=True)
        begins = progress.label not in started or progress.label in complete
        if begins:
            started[progress.label] = time.monotonic(), progress.done
        since, first = started[progress.label]
        (complete.add if _is_complete(progress) else complete.discard)(progress.label)
        if due.now(at_once=begins or _is_complete(progress)):
            left = _time_left(time.monotonic() - since, progress.done - first, progress.total - progress.done)
            print(f"{progress.label}: {progress.done} of {progress.total}{left}", file=sys.stderr, flush=True)

    return watch


def _artifacts(every_s: float) -> Watcher:
    """A Prefect progress artifact per label. An API that does not answer must not end the work."""
    from httpx import HTTPError
    from prefect.artifacts import create_progress_artifact, update_progress_artifact

    made: dict[str, Any] = {}
    due = _Pace(every_s)

    def watch(progress: Progress | Message) -> None:
        if isinstance(progress, Message):
            return
        label, percent = progress.label, 100 * progress.done / max(progress.total, 1)
        with suppress(HTTPError):
            if label not in made:
                key = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
                made[label] = create_progress_artifact(percent, key=key, description=label)
            elif due.now(at_once=_is_complete(progress)):
                update_progress_artifact(made[label], percent)

    return watch


def _log(progress: Progress | Message) -> None:
    """A note, in Prefect's log of the run."""
    if isinstance(progress, Progress) and progress.note:
        from prefect.logging import get_run_logger

        get_run_logger().warning(_note(progress))


def _beats(every_s: float) -> Watcher:
    """An event now and then while something goes on, so that an automation may miss it."""
    from tasks.events import emit

    due, last = _Pace(every_s), -1

    def watch(progress: Progress | Message) -> None:
        nonlocal last
        if isinstance(progress, Progress) and progress.done != last and due.now():
            last = progress.done
            emit("progress", label=progress.label, done=progress.done, total=progress.total)

    return watch


def _batches(sink: MetricSink, every_s: float, stack: ExitStack) -> Watcher:
    batch: list[Progress] = []
    due = _Pace(every_s)

    def flush() -> None:
        if batch:
            sink(tuple(batch))
            batch.clear()

    def watch(progress: Progress | Message) -> None:
        if isinstance(progress, Progress) and progress.metrics:
            batch.append(progress)
        if due.now():
            flush()

    stack.callback(flush)
    return watch


class _Pace:
    """Says at most every so many seconds that something is due; the first time after that pause."""

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s
        self.last = time.monotonic()

    def now(self, at_once: bool = False) -> bool:
        """Whether it is due; if so, the next pause begins."""
        if not at_once and time.monotonic() - self.last < self.every_s:
            return False
        self.last = time.monotonic()
        return True


def _note(progress: Progress) -> str:
    return f"{progress.label}: {progress.note}"


def _is_complete(progress: Progress) -> bool:
    return progress.done >= progress.total


def _time_left(elapsed_s: float, done: int, remaining: int) -> str:
    if done <= 0 or remaining <= 0:
        return ""
    minutes = elapsed_s / done * remaining / 60
    return ", less than a minute left" if minutes < 1 else f", about {minutes:.0f} min left"
