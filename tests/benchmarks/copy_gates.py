"""How often gates on copying hold back cohorts that copy nobody, and cohorts that do, in a world of Gaussian features.

    python tests/benchmarks/copy_gates.py [--train 101] [--validation 22] [--holdout 22] [--cohort 64] [--repeats 40]

Real volumes are Gaussian vectors of different lengths, synthetic ones as wide or narrower. "copies" puts near copies of
training volumes in place of a part of the cohort; "half" makes each volume half a training volume and half a fresh one.
Columns are shares of cohorts: `copies_excess` and `membership_release_auc` (its nearest-over-next attack alone) beyond
the limits of `research`; `closer_share` with its upper bound beyond 0.90, and with its exact test at 1 and 5%.
"""

import argparse
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meddiff_core.evidence.intervals import Bootstrap
from meddiff_core.evidence.neighbours import nearest, rank_rows
from meddiff_core.evidence.privacy.authenticity import RealVolumes, closer_by_chance, closer_interval
from meddiff_core.evidence.privacy.copies import copy_test, copy_threshold
from meddiff_core.evidence.privacy.membership import auc_interval
from meddiff_core.evidence.privacy.release_membership import distance_scores

Rows = NDArray[np.float64]
NEAR = 0.1
"""Standard deviation of a near copy around what it copies, where real volumes have 1."""
COHORTS = (
    ("honest", 0.0, 1.0), ("honest", 0.0, 0.7), ("copies", 0.1, 0.85), ("copies", 0.2, 0.85), ("copies", 0.5, 0.85),
    ("copies", 1.0, 0.85), ("half", 1.0, 0.85),
)  # fmt: skip
"""Kind, the part of the cohort that is made so, and the spread of the rest."""
DIMS = (20, 60)
LIMITS = {"copies_excess": 0.10, "membership_release_auc": 0.75, "closer_share": 0.90}


@dataclass(frozen=True)
class World:
    """Features of the three sides."""

    train: Rows
    validation: Rows
    holdout: Rows

    def cohort(self, size: int, kind: str, part: float, spread: float, rng: np.random.Generator) -> Rows:
        made = spread * rng.standard_normal((size, self.train.shape[1]))
        chosen = self.train[rng.integers(0, len(self.train), round(part * size))]
        if kind == "copies":
            made[: len(chosen)] = chosen + NEAR * rng.standard_normal(chosen.shape)
        if kind == "half":
            made[: len(chosen)] = np.sqrt(0.5) * (chosen + made[: len(chosen)])
        return made


def make_world(sizes: list[int], dim: int, rng: np.random.Generator) -> World:
    lengths = np.exp(0.15 * rng.standard_normal((sum(sizes), 1)))
    return World(*np.split(lengths * rng.standard_normal((sum(sizes), dim)), np.cumsum(sizes)[:-1]))


def held_back(world: World, cohort: Rows, seed: int) -> list[bool]:
    """By each column."""
    bootstrap = Bootstrap(100, 0.95, seed)
    return [_copies(world, cohort, bootstrap), _membership(world, cohort), *_closer(world, cohort, bootstrap)]


def _copies(world: World, cohort: Rows, bootstrap: Bootstrap) -> bool:
    null = np.concatenate([nearest(side, world.train).score for side in (world.holdout, world.validation)])
    grain = NEAR * np.random.default_rng(bootstrap.seed).standard_normal(world.train.shape)
    threshold = copy_threshold(null, nearest(world.train + grain, world.train).score)
    found = copy_test(nearest(cohort, world.train).score, threshold, bootstrap)
    return found.excess.high > LIMITS["copies_excess"]


def _membership(world: World, cohort: Rows) -> bool:
    sides = (world.train, world.holdout)
    members, others = (distance_scores(nearest(side, cohort), None)["nearest over the next"] for side in sides)
    area = float((members[:, None] > others).mean())
    return auc_interval(area, len(members), len(others), 0.95).high > LIMITS["membership_release_auc"]


def _closer(world: World, cohort: Rows, bootstrap: Bootstrap) -> list[bool]:
    pool = np.concatenate([world.train, world.holdout])
    real = RealVolumes(np.arange(len(pool)), len(world.train))
    ranking = rank_rows(cohort, pool, real.subjects)
    found = closer_interval(ranking, real, bootstrap)
    chance = closer_by_chance(ranking, real, bootstrap.seed)
    p = (1 + int((chance >= found.value - 1e-12).sum())) / (1 + len(chance))
    return [found.high > LIMITS["closer_share"], p <= 0.01, p <= 0.05]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, count in (("train", 101), ("validation", 22), ("holdout", 22), ("cohort", 64), ("repeats", 40)):
        parser.add_argument(f"--{name}", type=int, default=count)
    options = parser.parse_args()
    print("| cohort | dimensions | spread | copies_excess | membership_release_auc | closer_share | p 1% | p 5% |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for dim in DIMS:
        for kind, part, spread in COHORTS:
            rng = np.random.default_rng([dim, round(100 * part), round(100 * spread)])
            sizes = [options.train, options.validation, options.holdout]
            decided = []
            for seed in range(options.repeats):
                world = make_world(sizes, dim, rng)
                decided.append(held_back(world, world.cohort(options.cohort, kind, part, spread, rng), seed))
            name = f"{kind} {part:.0%}" if part else kind
            shares = " | ".join(f"{share:.2f}" for share in np.mean(decided, axis=0))
            print(f"| {name} | {dim} | {spread:g} | {shares} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
