"""The table of a release, three times: for a person, for a program, and what each column means.

Both tables hold the same rows in the order of the arrays, so row n always describes volume n.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from meddiff_core.contract import EXTRAPOLATED, CategoricalCondition, Contract

IDENTIFIER = "participant_id"
BATCH = "sampling_batch"
"""Column with the batch that a volume was sampled in, where the memory did not hold the study's."""
TABLE = "participants.parquet"
TEXT = "participants.tsv"


def public_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table as it is released: the id first, under the name that BIDS gives it; no index."""
    renamed = table.rename(columns={"sample_id": IDENTIFIER}).reset_index(drop=True)
    return renamed[[IDENTIFIER, *(name for name in renamed.columns if name != IDENTIFIER)]]


def with_batches(table: pd.DataFrame, batches: Sequence[int], usual: int) -> pd.DataFrame:
    """The table with the batch that each volume was sampled in, if any of them is not the study's."""
    return table if set(batches) <= {usual} else table.assign(**{BATCH: list(batches)})


def as_tsv(table: pd.DataFrame) -> str:
    """Tab-separated, a missing value is `n/a`, a truth `true` or `false` (BIDS)."""
    truths = table.select_dtypes("bool").replace({True: "true", False: "false"})
    return str(table.assign(**truths).to_csv(sep="\t", index=False, na_rep="n/a", lineterminator="\n"))


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
