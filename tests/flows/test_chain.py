"""The whole chain, run as a user runs it: what it leaves behind, and what it does when it is run again."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from meddiff_core.artefacts import digest_tree
from meddiff_core.release import open_release
from meddiff_core.release.signing import fingerprint, generate_keys, read_public_key

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
Run = Callable[..., Any]
GOLDEN = Path(__file__).with_name("golden_files.txt")
STATE = re.compile(r"^(\.meddiff/|mlruns/|mlflow\.db)")
"""What the engines keep for themselves."""


def artefacts(folder: Path) -> dict[str, str]:
    """Digest by path of everything that a study made."""
    return {path: digest for path, digest in digest_tree(folder).items() if not STATE.match(path)}


def written(folder: Path) -> dict[str, int]:
    """When each file was written, in ns."""
    return {path.as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def states(text: str) -> dict[str, str]:
    """Condition by artefact, from what `status` and `run` print."""
    return dict(line.split()[:2] for line in text.split("\n\n")[0].splitlines())


def test_a_run_ends_well_and_says_where_everything_is(chain: Any) -> None:
    assert chain.run.status == 0, chain.run.err
    assert set(states(chain.run.out).values()) == {"done"}
    assert f"release {chain.release}\n" in chain.run.out
    assert chain.run.out.endswith(f"next    meddiff verify {chain.release}\n")
    assert "Traceback" not in chain.run.err


def test_a_run_leaves_exactly_these_files(chain: Any) -> None:
    """Chunks apart; a new file is added to the list on purpose, and its privacy thought about."""
    found = sorted(path for path in digest_tree(chain.folder) if not re.match(r"\.meddiff/|mlruns/|.*/c[/.]", path))
    assert found == GOLDEN.read_text().split()


def test_the_release_is_confirmed(chain: Any, meddiff: Run) -> None:
    assert meddiff("verify", chain.release).status == 0
    assert json.loads((chain.release / "manifest.json").read_text())["samples"] == 8


def test_nothing_that_leaves_the_study_or_is_logged_names_a_subject(chain: Any, subjects: list[str]) -> None:
    folders = [chain.release, chain.folder / "mlruns", chain.folder / ".meddiff", chain.folder / "mlflow.db"]
    files = [path for folder in folders for path in [folder, *folder.rglob("*")] if path.is_file()]
    names = [subject.encode() for subject in subjects]
    assert any(path.name == "prefect.db" for path in files)
    assert [path for path in files if any(name in path.read_bytes() for name in names)] == []
    assert not any(subject in chain.run.out + chain.run.err for subject in subjects)


def test_the_real_names_are_where_only_the_study_sees_them(chain: Any, subjects: list[str]) -> None:
    """Otherwise the test before this one could not fail."""
    assert subjects[0] in (chain.folder / "fingerprint.json").read_text()


def test_nothing_on_disk_runs_code_when_it_is_read(chain: Any) -> None:
    pickled = [path for path in chain.folder.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt", ".ckpt")]
    results = [path for path in (chain.folder / ".meddiff").glob("**/results/*") if path.is_file()]
    results += [path for path in (chain.folder / ".meddiff").glob("**/storage/*") if path.is_file()]
    assert pickled == []
    assert results == []


def test_a_second_run_makes_nothing_and_starts_no_engine(finished: Path, meddiff: Run) -> None:
    before, log = artefacts(finished), finished / ".meddiff" / "prefect" / "server.log"
    started = log.stat().st_mtime_ns
    done = meddiff("run", finished)
    assert done.status == 0, done.err
    said = done.err.splitlines()
    assert said
    assert all(line.endswith(": up to date") for line in said), done.err
    assert artefacts(finished) == before
    assert set(states(done.out).values()) == {"done"}
    assert "next    meddiff verify" in done.out
    assert log.stat().st_mtime_ns == started


def test_a_larger_cohort_makes_only_its_new_shards(finished: Path, served: Run, write_study: Run) -> None:
    before = written(finished)
    write_study(finished, cohort={"size": 12}, release={"version": "1.1.0"})
    done = served("run", finished)
    assert done.status == 0, done.err
    after = written(finished)
    shards = sorted(path.name for path in (finished / "candidates.zarr").iterdir())
    assert shards == ["00-000000", "00-000004", "00-000008", "zarr.json"]
    kept = ("candidates.zarr/00-000000", "candidates.zarr/00-000004", "dataset.zarr", "models", "latents.zarr")
    for path, moment in before.items():
        if path.startswith(tuple(str(finished / folder) for folder in (*kept, "releases/heads-1.0.0"))):
            assert after[path] == moment, path
    old, new = (open_release(finished / "releases" / f"heads-{version}") for version in ("1.0.0", "1.1.0"))
    assert (len(old), len(new)) == (8, 12)
    ids = list(new.table["participant_id"])
    for row, name in enumerate(old.table["participant_id"]):
        np.testing.assert_array_equal(old.image(row), new.image(ids.index(name)))
        np.testing.assert_array_equal(old.label(row), new.label(ids.index(name)))
        kept_bytes = [
            (release.path / "cohort.ome.zarr" / array / f"c.{place}.0.0.0").read_bytes()
            for array in ("image", "labels/structures/0")
            for release, place in ((old, row), (new, ids.index(name)))
        ]
        assert kept_bytes[::2] == kept_bytes[1::2]
    assert "- left out: 0" in (new.path / "CHANGES.md").read_text()


def test_deleted_candidates_are_screened_again(finished: Path, served: Run) -> None:
    shutil.rmtree(finished / "candidates.zarr")
    assert served("generate", finished).status == 0
    # Verdicts that stayed would speak of later attempts, which nothing would sample again.
    assert not (finished / "verdicts.parquet").exists()
    assert not (finished / "cohort.parquet").exists()


def test_another_version_makes_another_release_signed_and_nothing_else(
    finished: Path, served: Run, write_study: Run, tmp_path: Path
) -> None:
    before, (private, public) = artefacts(finished), generate_keys(tmp_path)
    write_study(finished, release={"version": "1.0.1", "signing_key": str(private)})
    table = served("status", finished).out.split("\n\n")[0]
    assert table.splitlines()[-1].split(maxsplit=2) == [
        "release", "stale", "study.release changed",
    ]  # fmt: skip
    done = served("run", finished)
    assert done.status == 0, done.err
    changed = {path for path, digest in artefacts(finished).items() if before.get(path) != digest}
    others = {path for path in changed if not path.startswith("releases/heads-1.0.1/")}
    assert others <= {"study.yaml", "inventory.json"}  # where the scans lie: this study was copied
    release = finished / "releases" / "heads-1.0.1"
    verified = served("verify", "--deep", "--key", public, release)
    assert verified.status == 0, verified.err
    assert f"signature  signed by the key {fingerprint(read_public_key(public))}" in verified.out
    files = [path.read_text(errors="replace") for path in release.rglob("*") if path.is_file()]
    secrets = (private.read_text().splitlines()[1], str(tmp_path))
    assert not any(secret in text for secret in secrets for text in (done.out, done.err, *files))


def test_an_edited_plan_makes_models_stale_and_not_the_data(finished: Path, served: Run) -> None:
    path = finished / "plan.json"
    plan = json.loads(path.read_text())
    plan["denoiser_training"]["steps"] = 4
    path.write_text(json.dumps(plan))
    found = states(served("status", finished).out)
    assert {name: found[name] for name in ("dataset", "autoencoder", "latents", "denoiser", "release")} == {
        "dataset": "done", "autoencoder": "done", "latents": "done", "denoiser": "stale", "release": "stale",
    }  # fmt: skip
    done = served("train", finished)
    assert done.status == 0, done.err
    assert "plan: edited by hand" not in done.err  # `train` does not plan
    assert "train denoiser: 4 of 4" in done.err
    assert json.loads((finished / "models" / "denoiser" / "facts.json").read_text())["steps"] == 4


def test_decisions_stand_until_the_study_contradicts_them(finished: Path, served: Run, write_study: Run) -> None:
    """Steps that were given are left to the plan, and another rate of learning is asked for."""
    before = json.loads((finished / "plan.json").read_text())
    autoencoder = {"batch": 3, "channels": [8, 8, 8]}
    denoiser = {"steps": 5, "batch": 3, "channels": [32], "augmentations": ["mirror", "shift"]}
    write_study(finished, train={"autoencoder": autoencoder, "denoiser": denoiser})
    done = served("plan", finished)
    assert done.status == 0, done.err
    after = json.loads((finished / "plan.json").read_text())
    assert after["autoencoder_training"] == before["autoencoder_training"]
    assert after["denoiser_training"]["steps"] == 5
    anew = next(line for line in done.out.splitlines() if line.startswith("made again"))
    assert [part.split()[0] for part in anew.removeprefix("made again").split(";")[0].split(",")] == [
        "denoiser", "guidance", "candidates", "reference", "verdicts", "cohort", "audit", "report", "release",
    ]  # fmt: skip
    assert states(served("status", finished).out)["autoencoder"] == "done"


def test_an_edited_plan_is_used_and_never_overwritten(finished: Path, served: Run) -> None:
    path = finished / "plan.json"
    path.write_text(path.read_text().replace('"steps": 6', '"steps": 5', 1))
    edited = path.read_bytes()
    done = served("plan", finished)
    assert done.status == 0, done.err
    assert "plan: edited by hand, used as it is" in done.err
    assert path.read_bytes() == edited


def test_a_failed_gate_refuses_the_release_and_says_by_how_much(finished: Path, served: Run, write_study: Run) -> None:
    gates = yaml.safe_load((finished / "study.yaml").read_text())["audit"]["gates"]
    next(gate for gate in gates if gate["metric"] == "distinct_share")["min"] = 1.5
    write_study(finished, audit={"gates": gates}, release={"version": "2.0.0"})
    done = served("run", finished)
    assert done.status == 4
    assert "audit: measured before; only gates and waivers are applied anew" in done.err
    refusal = done.err.splitlines()[-1]
    assert refusal.startswith("meddiff: release refused: ")
    assert re.search(
        r"distinct_share: lower confidence bound [\d.]+ \(value [\d.]+, n 8\) must be at least 1\.5", refusal
    )
    assert [path.name for path in (finished / "releases").iterdir()] == ["heads-1.0.0"]
    assert states(done.out)["release"] == "stale"


def test_a_release_is_not_overwritten_by_other_content(finished: Path, served: Run, write_study: Run) -> None:
    before = digest_tree(finished / "releases")
    write_study(finished, release={"contact": "somebody else"})
    done = served("run", finished)
    assert done.status == 2
    assert done.err.splitlines()[-1] == "meddiff: release.version: must be new, 1.0.0 exists"
    assert digest_tree(finished / "releases") == before


def test_a_stage_asks_for_the_one_before_it(new_study: Run, meddiff: Run) -> None:
    done = meddiff("audit", new_study("impatient"))
    assert done.status == 2
    assert done.err.splitlines()[-1] == "meddiff: verdicts must be up to date, is missing; run `meddiff screen` first"


def test_a_folder_without_scans_is_refused(new_study: Run, meddiff: Run, tmp_path: Path) -> None:
    folder = new_study("empty", data={"images": str(tmp_path)})
    done = meddiff("run", folder)
    assert done.status == 3
    assert done.err.splitlines()[-1].startswith(f"meddiff: data.images: no scans in {tmp_path}")
