"""The table says who wins by pairs of the same subjects, and says a loss as plainly as a win."""

import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from meddiff_core.applications.measured.figures import STATISTICS, average_precision, coverage, dice_at_false_positives
from meddiff_core.applications.measured.table import (
    Goal,
    Measure,
    TasksMeasured,
    TaskTable,
    Value,
    as_markdown,
    as_tsv,
    tabulate,
)
from meddiff_core.evidence.intervals import Bootstrap

PSNR = Measure(name="PSNR (dB)")
ERROR = Measure(name="error", better="lower")
ROLES = {"fill": "task", "mean": "baseline", "harmonic": "baseline", "truth": "bound"}
BOOTSTRAP = Bootstrap(200, 0.95, 0)
Table = Callable[..., TaskTable]


@pytest.fixture
def table() -> Table:
    def make(measure: Measure = PSNR, goals: Sequence[Goal] = (), **methods: Sequence[float]) -> TaskTable:
        values = [
            Value("in the hole", measure, method, subject, (value,))
            for method, row in methods.items()
            for subject, value in enumerate(row)
        ]
        return tabulate("fill", values, ROLES, goals, BOOTSTRAP)  # type: ignore[arg-type]

    return make


def test_a_small_gain_on_every_subject_wins_though_subjects_differ_by_more(table: Table) -> None:
    (found,) = table(fill=[11, 21, 31, 41], mean=[10, 20, 30, 40], harmonic=[5, 5, 5, 5], truth=[99] * 4).comparisons
    assert (found.verdict, found.baseline, found.gain) == ("wins", "mean", 1.0)
    assert (found.low, found.high) == (1.0, 1.0)


def test_a_loss_is_a_loss(table: Table) -> None:
    made = table(fill=[10, 20, 30], mean=[12, 21, 33], harmonic=[1, 1, 1])
    assert [one.verdict for one in made.comparisons] == ["loses"]
    assert made.losses
    text = as_markdown(TasksMeasured(models="m", side="holdout", scans=3, samples=1, tasks=(made,)))
    assert "**loses** (mean): -2" in text


def test_a_gain_on_one_subject_alone_is_not_told_apart(table: Table) -> None:
    (found,) = table(fill=[10, 20, 36], mean=[11, 21, 30]).comparisons
    assert found.verdict == "not told apart"


def test_lower_is_better_where_the_figure_says_so(table: Table) -> None:
    (found,) = table(measure=ERROR, fill=[1, 2, 3], mean=[2, 3, 4], harmonic=[9, 9, 9]).comparisons
    assert (found.verdict, found.baseline, found.gain) == ("wins", "mean", 1.0)


def test_a_bound_is_never_what_a_task_is_held_against(table: Table) -> None:
    assert table(fill=[1, 2], truth=[3, 4]).comparisons == ()


def test_goals_are_values_or_differences_from_a_method(table: Table) -> None:
    goals = [
        Goal(text="20", setting="in the hole", measure="PSNR (dB)", least=20),
        Goal(text="2 above", setting="in the hole", measure="PSNR (dB)", least=2, over="mean"),
        Goal(text="at most 19", setting="in the hole", measure="PSNR (dB)", least=0, most=19),
        Goal(text="never measured", setting="elsewhere", measure="PSNR (dB)", least=0),
    ]
    made = table(goals=goals, fill=[19, 21], mean=[18, 20])
    assert [(one.goal.text, one.value, one.reached) for one in made.goals] == [
        ("20", 20, True),
        ("2 above", 1, False),
        ("at most 19", 20, False),
    ]


def test_rows_of_all_subjects_make_one_statistic() -> None:
    rows = np.array([[1.0, 0], [2, 0], [3, 1], [4, 1], [2, 1]])
    assert STATISTICS["auroc"](rows) == pytest.approx(5.5 / 6)
    asked = np.array([[-1.0, -0.5], [0, 0.1], [1, 0.6]])
    assert STATISTICS["slope"](asked) == pytest.approx(0.55)
    assert STATISTICS["r"](asked) == pytest.approx(np.corrcoef(asked.T)[0, 1])
    assert STATISTICS["r"](np.ones((3, 2))) == 0


def test_a_tab_separated_table_has_a_row_a_method_and_json_keeps_all(table: Table) -> None:
    measured = TasksMeasured(models="m", side="holdout", scans=2, samples=1, tasks=(table(fill=[1, 2], mean=[0, 1]),))
    lines = [line.split("\t") for line in as_tsv(measured).splitlines()]
    assert len({len(line) for line in lines}) == 1
    assert [line[3] for line in lines] == ["method", "fill", "mean"]
    assert TasksMeasured.model_validate(json.loads(measured.model_dump_json())) == measured


def test_a_task_measured_again_takes_its_old_place(table: Table) -> None:
    old, new = table(fill=[1, 2], mean=[0, 1]), table(fill=[5, 6], mean=[0, 1])
    other = old.model_copy(update={"task": "first"})
    begun = TasksMeasured(models="m", side="holdout", scans=2, samples=1)
    whole = begun.with_task(old, ["first", "fill"]).with_task(other, ["first", "fill"])
    assert [one.task for one in whole.tasks] == ["first", "fill"]
    assert whole.with_task(new, ["first", "fill"]).tasks == (other, new)
    assert begun.goes_on_from(whole)
    assert not begun.model_copy(update={"samples": 2}).goes_on_from(whole)


def test_figures_of_lesions_are_one_for_who_knows_them() -> None:
    body = np.ones((12, 12, 12), bool)
    lesion = np.zeros_like(body)
    lesion[2:5, 2:5, 2:5] = True
    noise = np.random.default_rng(0).uniform(size=body.shape).astype(np.float32)
    known = (lesion + 0.01 * noise).astype(np.float32)
    assert average_precision(known, lesion, body) == 1
    assert average_precision(noise, lesion, body) < 0.1
    found = dice_at_false_positives(known, lesion, body)
    assert found == pytest.approx(2 * 27 / (2 * 27 + 0.05 * (12**3 - 27)), abs=0.02)
    assert dice_at_false_positives(noise, lesion, body) < 0.1


def test_a_band_of_the_right_width_covers_what_it_says() -> None:
    random, everywhere = np.random.default_rng(0), np.ones((30, 30, 30), bool)
    spread = random.uniform(0.01, 0.1, everywhere.shape)
    truth = (spread * random.standard_normal(everywhere.shape)).astype(np.float32)
    zeros = np.zeros_like(truth)
    assert coverage(zeros, spread.astype(np.float32), truth, everywhere) == pytest.approx(0.8, abs=0.01)
    assert coverage(zeros, (spread / 2).astype(np.float32), truth, everywhere) < 0.55
