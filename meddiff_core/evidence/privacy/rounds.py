"""Rounds of the search for copies: what is flagged is dropped and replaced, and the replacements are searched in turn.

Left out without a replacement, every suspected copy makes the cohort smaller than was asked for. Replaced without a
second look, the replacement is a volume that no copy test has seen. A volume is flagged by its own score, whatever
the others are, so that each is searched once and the final cohort is known to hold no flagged one.
"""

from collections.abc import Callable, Generator, Mapping, Sequence

import numpy as np
import pandas as pd

from meddiff_core.evidence.inputs import AuditInput, Round
from meddiff_core.evidence.intervals import from_count
from meddiff_core.evidence.metrics import MetricSpec, metric_of
from meddiff_core.evidence.privacy.copy_evidence import copy_scores, plant_copies, threshold_of
from meddiff_core.evidence.privacy.copy_views import copy_sets, copy_views
from meddiff_core.evidence.rejections import AUDITED, REJECTIONS, Rejection, reject
from meddiff_core.evidence.section import Section, Table
from meddiff_core.evidence.selection import Selection
from meddiff_core.types import Progress, Work

COPIES_LEFT = MetricSpec(
    name="copies_left", part="privacy", privacy=True, better="lower", reference="a cohort without suspected copies"
)
METRICS = (COPIES_LEFT,)
SEARCHED = "searched"
"""Column of a cohort's table: the round in which a volume was searched for copies, 0 for one that never was."""
DROPPED = "dropped"
"""Column of a cohort's table: whether it was dropped then."""
MOST_DROPPED = 0.5
"""Share of the first round beyond which nothing is dropped: such a model copies, no preset's gate lets its cohort pass,
and volumes picked from it until the test is silent would hide that."""
Search = Callable[[pd.DataFrame], Work[Mapping[str, Rejection]]]
"""Rows of a table to the suspected copies among them, by id."""
Refill = Callable[[pd.DataFrame], Work[pd.DataFrame]]
"""A table to the same one with further rows, in place of volumes that are not accepted."""


def suspected_copies(audit: AuditInput) -> Generator[Progress, None, dict[int, Rejection]]:
    """Accepted volumes that the copy test flags, by row.

    Raises:
        DataRefused: the holdout has fewer than 2 subjects.
    """
    canaries = plant_copies(audit)
    whole = Selection.of(canaries, canaries.whole)
    sets = copy_sets(audit, whole)
    views = yield from copy_views(audit, sets, {})
    scores, _ = copy_scores(views, sets)
    threshold = threshold_of(scores, sets, scores["canaries"], audit.seed).value
    flagged = np.flatnonzero(scores["synthetic"] < threshold).tolist()
    return {
        row: Rejection(measurement=AUDITED, value=float(scores["synthetic"][row]), bound=threshold, side="below")
        for row in flagged
    }


def fill_in_rounds(verdicts: pd.DataFrame, most: int, search: Search, refill: Refill) -> Work[pd.DataFrame]:
    """The table of a cohort without suspected copies, from that of screening; `most` is the number of rounds.

    A pure function of what `search` and `refill` give: broken off anywhere and begun anew, it comes to the same table.
    """
    table, searched, dropped = verdicts, dict[str, int](), set[str]()
    for number in range(1, most + 1):
        new = table[table["accepted"] & ~table["sample_id"].isin(searched)]
        flagged = (yield from search(new)) if len(new) else {}
        searched |= dict.fromkeys(new["sample_id"], number)
        if number == 1 and len(flagged) > MOST_DROPPED * len(new):
            break
        dropped |= flagged.keys()
        table = reject(table, {index: flagged[name] for index, name in new["sample_id"].items() if name in flagged})
        if not flagged or number == most:
            break
        table = yield from refill(table)
    ids = table["sample_id"]
    rounds = pd.Series([searched.get(name, 0) for name in ids], table.index, dtype="int64")
    return table.assign(**{SEARCHED: rounds}, **{DROPPED: ids.isin(dropped)})


def unsearched(verdicts: pd.DataFrame) -> pd.DataFrame:
    """The table of a cohort that no round has looked at."""
    return verdicts.assign(**{SEARCHED: 0}, **{DROPPED: False})


def first_round(cohort: pd.DataFrame) -> pd.DataFrame:
    """The volumes that screening accepted before any was dropped: what the model generates, untouched by the audit."""
    return cohort[cohort[SEARCHED] == 1]


def rounds_of(cohort: pd.DataFrame) -> tuple[Round, ...]:
    """What each round did."""
    found = (cohort[cohort[SEARCHED] == number] for number in range(1, int(cohort[SEARCHED].max()) + 1))
    return tuple(Round(searched=len(one), dropped=int(one[DROPPED].sum())) for one in found)


def screened(cohort: pd.DataFrame) -> pd.DataFrame:
    """The same table as screening alone left it: what the audit dropped counts as accepted."""
    kept = [[] if dropped else cell for dropped, cell in zip(cohort[DROPPED], cohort[REJECTIONS], strict=True)]
    return cohort.assign(accepted=cohort["accepted"] | cohort[DROPPED], **{REJECTIONS: kept})


def rounds_section(rounds: Sequence[Round], flagged: int, size: int, confidence: float) -> Section:
    """What the rounds did, and how many of the final cohort's `size` volumes are flagged still."""
    if not rounds:
        return Section()
    words = (
        "Share of the final cohort, after suspected copies were dropped, that is flagged and so not released. It says "
        "nothing of the model."
    )
    left = metric_of(COPIES_LEFT, from_count(flagged, size, confidence), words, reference=0.0)
    table = Table(
        part="privacy",
        title="Rounds of the search for copies",
        caption="Each round searched the volumes that were new in the cohort, and dropped those that it flagged. "
        "`copies_share` and `copies_excess` are those of the first round.",
        columns=("round", "searched", "dropped"),
        rows=tuple((number, one.searched, one.dropped) for number, one in enumerate(rounds, 1)),
    )
    return Section([left], [table], statements=[describe_rounds(rounds, flagged)])


def describe_rounds(rounds: Sequence[Round], flagged: int = 0) -> str:
    """How many rounds there were, and why a reader must know; `flagged` volumes were not dropped."""
    if not rounds:
        return ""
    if dropped := sum(one.dropped for one in rounds):
        copies = "1 suspected copy was" if dropped == 1 else f"{dropped} suspected copies were"
        replaced = "others were generated in their place and searched in turn"
        then = replaced if len(rounds) > 1 else "no others were generated"
        return (
            f"The search for copies took {_counted(len(rounds), 'round')}: {copies} dropped; {then}. Each round asks "
            "the same held-out scans and keeps what looks less like training, so the final cohort is a selected set, "
            "less like training than what the model generates. Quality, fidelity and utility are measured on this set; "
            "whether the model copies is measured, and gated, on the cohort as first generated."
        )
    if flagged:
        return (
            f"The search for copies took 1 round: {flagged} of {rounds[0].searched} volumes were flagged, more than "
            f"{MOST_DROPPED:.0%}, and none was replaced: such a model copies, and picking would hide it."
        )
    return f"The search for copies took 1 round and dropped none of {_counted(rounds[0].searched, 'volume')}."


def _counted(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"
