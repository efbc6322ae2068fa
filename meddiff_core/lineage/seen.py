"""Which artefacts saw a subject, and how: it depends on the subject's side of the split.

Whoever was held out is in the evidence and in no model; whoever was validated on chose a checkpoint and gave it no
gradient. To retrain for the one is a duty, for the other it may not be, so the table says it artefact by artefact. A
test runs the chain and compares it with what each artefact opens.
"""

from collections.abc import Callable, Mapping

from meddiff_core.data.split.sides import SIDES, Side
from meddiff_core.lineage.graph import DATASET, Key, Lineage
from meddiff_core.workspace import CHAIN

SAW: Mapping[str, Mapping[Side, str]] = {
    "inventory": dict.fromkeys(SIDES, "lists its scans"),
    "fingerprint": dict.fromkeys(SIDES, "measured its scans"),
    "split": dict.fromkeys(SIDES, "names it"),
    "plan": {"train": "grid, intensities and conditions were inferred from its scans"},
    DATASET: dict.fromkeys(SIDES, "holds its volumes"),
    "autoencoder": {"train": "was trained on its volumes", "validation": "was validated on its volumes"},
    "latents": {"train": "holds its latents", "validation": "holds its latents"},
    "denoiser": {"train": "was trained on its latents", "validation": "the checkpoint was selected by its latents"},
    "grain": {"train": "was fitted on its volumes"},
    "predictors": {"train": "were fitted on its latents", "validation": "were validated on its latents"},
    "guidance": {
        "train": "samples were compared with its latents",
        "validation": "the weight was chosen by its latents and conditions",
    },
    "candidates": {"train": "conditions were modelled on its own"},
    "reference": {"train": "bounds were fitted on its volumes", "validation": "bounds were validated on its volumes"},
    "verdicts": {"train": "conditions of further attempts were modelled on its own"},
    "cohort": dict.fromkeys(SIDES, "copies were searched for among its volumes"),
    "audit": dict.fromkeys(SIDES, "measured with its volumes"),
    "report": {"train": "may show its volumes", "validation": "may show its volumes"},
}
"""By artefact and side: what it did with the subject's own data. What is not here has it from its parents alone."""
HOLDERS = ("inventory", "fingerprint", "split", "plan", "scans", "scan", DATASET)
"""What is made from them has a subject only by what it did itself: a model is made from a data set with a holdout."""
BEFORE = ("inventory", "fingerprint", "split", "plan")
"""Made before any data set."""
MODELS = ("autoencoder", "denoiser")


def seen_by(lineage: Lineage, side: Side, held: Callable[[Key], bool]) -> dict[Key, str]:
    """Every node that a subject's data are in, and how, in the order of the chain.

    `held` says of a data set, or of what was made before one, whether the subject was in it.
    """
    found: dict[Key, str] = {}
    for key in _from_the_start(lineage):
        own, dataset = SAW.get(key.kind, {}).get(side), lineage.dataset_of(key)
        origin = key if key.kind in BEFORE else None if dataset is None else Key(DATASET, dataset)
        through = [parent.kind for parent in lineage.parents(key) if parent in found and parent.kind not in HOLDERS]
        if own is not None and origin is not None and held(origin):
            found[key] = own
        elif through:
            found[key] = f"was made from {', '.join(through)}"
    return dict(sorted(found.items(), key=lambda item: _place(lineage, item[0])))


def _place(lineage: Lineage, key: Key) -> tuple[bool, int]:
    """What stands today first, in the order of the chain."""
    return lineage.nodes[key].status == "replaced", list(CHAIN).index(key.kind) if key.kind in CHAIN else 0


def _from_the_start(lineage: Lineage) -> list[Key]:
    """Each after what it was made from."""
    ordered, waiting = dict[Key, None](), list(lineage.nodes)
    while waiting:
        key = waiting.pop()
        behind = [parent for parent in lineage.parents(key) if parent not in ordered]
        if behind:
            waiting += [key, *behind]
        else:
            ordered[key] = None
    return list(ordered)
