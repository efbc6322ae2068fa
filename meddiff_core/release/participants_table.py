"""The table of a release, three times: for a person, for a program, and what each column means.

Both tables hold the same rows in the order of the arrays, so row n always describes volume n. The one for a person may
be opened in a spreadsheet, which runs a cell that begins with `=`: such a text begins with an apostrophe there.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from meddiff_core.contract import EXTRAPOLATED, CategoricalCondition, Contract

IDENTIFIER = "participant_id"
BATCH = "sampling_batch"
"""Column with the batch that a volume was sampled in, where the memory did not hold the study's."""
NOISE = "noise"
"""Column with the number of the noise that was kept, where some volume is not from the first of its own."""
OLD_NOISE = "candidate"
"""Its name in older releases."""
TABLE = "participants.parquet"
TEXT = "participants.tsv"
AGES = ("age", "age_years")
AGE_STEP = 5
FORMULA = re.compile(r"[=+\-@\"']")
"""How a text begins that a spreadsheet would run, or take the beginning of."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def public_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table as it is released: the id first, under the name that BIDS gives it; no index."""
    renamed = table.rename(columns={"sample_id": IDENTIFIER}).reset_index(drop=True)
    return renamed[[IDENTIFIER, *(name for name in renamed.columns if name != IDENTIFIER)]]


def with_batches(table: pd.DataFrame, batches: Sequence[int], usual: int) -> pd.DataFrame:
    """The table with the batch that each volume was sampled in, if any of them is not the study's."""
    return table if set(batches) <= {usual} else table.assign(**{BATCH: list(batches)})


def with_noises(table: pd.DataFrame, kept: Sequence[int]) -> pd.DataFrame:
    """The table with the noise that each volume is from, if any is not from the first of its own."""
    return table.assign(**{NOISE: list(kept)}) if any(kept) else table


def as_tsv(table: pd.DataFrame) -> str:
    """Tab-separated and never quoted, a missing value is `n/a`, a truth `true` or `false` (BIDS)."""
    text = table.copy()
    for name, column in table.items():
        if pd.api.types.is_bool_dtype(column):
            text[name] = column.map({True: "true", False: "false"})
        elif not pd.api.types.is_numeric_dtype(column):
            text[name] = column.map(as_cell, na_action="ignore")
    return str(text.to_csv(sep="\t", index=False, na_rep="n/a", lineterminator="\n", quoting=csv.QUOTE_NONE))


def as_cell(value: Any) -> str:
    """A text as a cell of the tab-separated table: on one line, and no formula. A number stays a number."""
    text = re.sub(r"[\t\r\n]+", " ", str(value))
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def age_range(table: pd.DataFrame) -> tuple[int, int] | None:
    """Youngest and oldest of the synthetic volumes in years, rounded outwards to fives; None without a column of ages.

    Only a column that is called so is taken: an age in days or weeks would be published as one in years.
    """
    column = next((name for name in table.columns if str(name).lower() in AGES), None)
    if column is None or not pd.api.types.is_numeric_dtype(table[column]):
        return None
    known = table[column].dropna()
    if known.empty:
        return None
    return int(known.min() // AGE_STEP * AGE_STEP), int(-(-known.max() // AGE_STEP) * AGE_STEP)


def describe_columns(columns: Iterable[str], contract: Contract) -> dict[str, dict[str, Any]]:
    """What each column means, in the words of a BIDS sidecar."""
    return {name: _describe(name, contract) for name in columns}


def _describe(name: str, contract: Contract) -> dict[str, Any]:
    conditions = {condition.name: condition for condition in contract.conditions}
    if name == IDENTIFIER:
        return {"Description": "Name of the synthetic volume. It stands for no person."}
    if name == "seed":
        return {"Description": "Seed of the noise that the volume was sampled from."}
    if name == BATCH:
        return {"Description": "Volumes of the batch that it was sampled in; a GPU may round by it."}
    if name == NOISE:
        return {
            "Description": "Which of the volumes that were sampled for its conditions was kept, because it measures "
            "nearest to them. Its noise is of the seed where it is 0, else of the seed and this number."
        }
    if name == EXTRAPOLATED:
        return {"Description": "Whether a requested condition lies outside the range that the models were trained on."}
    if condition := conditions.get(name):
        if isinstance(condition, CategoricalCondition):
            return {"Description": f"Requested {name}.", "Levels": {level: level for level in condition.categories}}
        return {"Description": f"Requested {name}.", **({"Units": "mm3"} if condition.group else {})}
    if (measured := name.removeprefix("measured_")) in conditions and measured != name:
        return {"Description": f"{measured}, measured on the synthetic label map.", "Units": "mm3"}
    if (group := name.removesuffix("_mm3")) in contract.labels and group != name:
        return {"Description": f"Volume of {group} in the synthetic label map.", "Units": "mm3"}
    return {"Description": f"{name.replace('_', ' ')}, of the synthetic volume."}
