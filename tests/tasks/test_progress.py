"""Progress is shown at its own pace and never changes the work."""

import sys
from collections.abc import Generator

import pytest

from meddiff_core.types import Message, Progress
from tasks.progress import Console, console_for, echo, show, speaking

AT_ONCE = Console(line_every_s=0, metrics_every_s=0)


def count(total: int, label: str = "count") -> Generator[Progress, None, str]:
    for done in range(1, total + 1):
        yield Progress(label, done, total, {"loss": 1 / done} if done % 2 else {})
    return "counted"


def fail_after_three() -> Generator[Progress, None, str]:
    yield from count(3)
    raise ValueError("the work failed")


def test_the_value_of_the_generator_is_returned() -> None:
    assert show(count(3)) == "counted"


def test_nothing_to_do_is_nothing_to_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(count(0)) == "counted"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("bars", [False, True])
def test_progress_goes_to_standard_error_alone(bars: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with speaking(Console(bars=bars)):
        show(count(3, label="train autoencoder"))
    out, err = capsys.readouterr()
    assert out == ""
    assert "train autoencoder" in err


def test_a_line_marks_the_beginning_and_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    show(count(100))
    assert capsys.readouterr().err.splitlines() == ["count: 1 of 100", "count: 100 of 100"]


def test_lines_tell_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with speaking(AT_ONCE):
        show(count(3))
    assert capsys.readouterr().err.splitlines()[1] == "count: 2 of 3, less than a minute left"


@pytest.mark.parametrize("bars", [False, True])
def test_a_note_is_a_line_of_its_own_whatever_the_pace(bars: bool, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> Generator[Progress, None, None]:
        yield Progress("train", 5, 10)
        yield Progress("train", 3, 10, note="rolled back to step 3 [half the rate]")

    with speaking(Console(bars=bars)):
        show(work())
    lines = capsys.readouterr().err.splitlines()
    assert "train: rolled back to step 3 [half the rate]" in [line.strip() for line in lines]


@pytest.mark.parametrize("bars", [False, True])
def test_a_message_is_a_line_as_it_stands(bars: bool, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> Generator[Progress | Message, None, None]:
        yield Progress("train", 1, 2)
        yield Message("attempt 2: 3 volumes [in place of rejected ones]")

    with speaking(Console(bars=bars)):
        show(work())
    lines = capsys.readouterr().err.splitlines()
    assert "attempt 2: 3 volumes [in place of rejected ones]" in [line.strip() for line in lines]


def test_work_that_is_done_twice_begins_twice(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> Generator[Progress, None, None]:
        yield from count(100)
        yield from count(50)

    show(work())
    assert capsys.readouterr().err.splitlines() == [
        "count: 1 of 100", "count: 100 of 100", "count: 1 of 50", "count: 50 of 50",
    ]  # fmt: skip


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with speaking(Console(quiet=True)):
        show(count(3))
        echo("a line")
    assert capsys.readouterr() == ("", "")


def test_the_console_is_the_former_one_after_the_block(capsys: pytest.CaptureFixture[str]) -> None:
    with speaking(Console(quiet=True)):
        pass
    echo("a line")
    assert capsys.readouterr().err == "a line\n"


def test_a_log_gets_lines_and_a_terminal_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert console_for().bars
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert not console_for().bars


def test_metrics_come_in_one_batch_and_in_order() -> None:
    batches: list[list[int]] = []
    show(count(6), on_metrics=lambda records: batches.append([record.done for record in records]))
    assert batches == [[1, 3, 5]]


def test_metrics_are_handed_on_while_the_work_goes_on() -> None:
    batches: list[list[int]] = []
    with speaking(AT_ONCE):
        show(count(3), on_metrics=lambda records: batches.append([record.done for record in records]))
    assert batches == [[1], [3]]


def test_metrics_of_failed_work_are_kept() -> None:
    seen: list[int] = []
    with pytest.raises(ValueError, match="the work failed"):
        show(fail_after_three(), on_metrics=lambda records: seen.extend(record.done for record in records))
    assert seen == [1, 3]


def test_the_generator_is_closed_when_a_reader_of_metrics_fails() -> None:
    closed: list[bool] = []

    def work() -> Generator[Progress, None, None]:
        try:
            yield from count(3)
        finally:
            closed.append(True)

    def refuse(records: object) -> None:
        raise OSError("disk full")

    with speaking(AT_ONCE), pytest.raises(OSError, match="disk full"):
        show(work(), on_metrics=refuse)
    assert closed == [True]


@pytest.mark.server
def test_prefect_sees_one_artifact_per_label(prefect_api: None) -> None:
    import prefect
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    def both() -> Generator[Progress, None, None]:
        yield from count(3, "Train: denoiser (EMA)")
        yield from count(2, "Encode")

    prefect.flow(lambda: show(both()), name="train")()
    keys = ArtifactFilter(key=ArtifactFilterKey(any_=["train-denoiser-ema", "encode"]))
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=keys)
    assert {(artifact.key, artifact.data) for artifact in found} == {("train-denoiser-ema", 100.0), ("encode", 100.0)}
