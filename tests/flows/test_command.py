"""What the command answers before any engine starts: mistakes are reported at once, with what to do about them."""

import os
import re
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from meddiff_core.release.manifest import read_manifest
from meddiff_core.release.signing import read_signer, sign_manifest
from meddiff_core.stages.lock import locked

Run = Callable[..., Any]
GOLDEN = Path(__file__).parents[1] / "release" / "golden" / "heads-1.0.0.zip"


def test_an_unknown_key_is_refused_with_the_nearest_one(meddiff: Run, new_study: Run) -> None:
    done = meddiff("run", new_study("typing-error", cohort={"sise": 8}))
    assert done.status == 2
    assert done.err == "meddiff: cohort.sise: unknown key; did you mean size?\n"


def test_a_folder_without_a_study_is_refused(meddiff: Run, tmp_path: Path) -> None:
    done = meddiff("run", tmp_path)
    assert done.status == 2
    assert "does not exist; make one with `meddiff init`" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_is_refused_before_it_touches_anything(meddiff: Run, new_study: Run) -> None:
    folder = new_study("held")
    with locked(folder):
        done = meddiff("run", folder)
    assert done.status == 2
    owner = re.escape(f"(process {os.getpid()} on {socket.gethostname()}, for 0 min)")
    assert re.fullmatch(f"meddiff: study held: another meddiff is working on it {owner}; wait, or .*\n", done.err)
    assert sorted(path.name for path in folder.iterdir()) == [".meddiff", "study.yaml"]
    assert list((folder / ".meddiff" / "prefect").iterdir()) == []


def test_a_new_study_is_all_missing(meddiff: Run, new_study: Run) -> None:
    folder = new_study("new")
    done = meddiff("status", folder)
    assert done.status == 0
    table, _, following = done.out.rpartition("\n\n")
    assert {line.split()[1] for line in table.splitlines()} == {"missing"}
    assert following == f"next    meddiff run {folder}\n"
    assert [path.name for path in folder.iterdir()] == ["study.yaml"]


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """The release that the first version of meddiff wrote."""
    with ZipFile(GOLDEN) as archive:
        archive.extractall(tmp_path)
    return next(path.parent for path in tmp_path.rglob("manifest.json"))


def test_a_release_as_it_was_released_is_confirmed(meddiff: Run, release: Path) -> None:
    done = meddiff("verify", release)
    assert (done.status, done.err) == (0, "")
    said, signature = done.out.splitlines()
    assert said == f"{release}: every file is as it was released"
    assert signature == "signature  not signed: hashes show damage, not who made it"


def test_what_a_deep_check_finds_is_said(meddiff: Run, release: Path) -> None:
    """The first version's test data gave volumes in mm3 that nothing measured."""
    done = meddiff("verify", release, "--sample", "50%", "--seed", "1")
    assert (done.status, done.out) == (1, "")
    progress, *faults = done.err.splitlines()
    assert progress == "checking files: 42 of 42"
    assert [fault.split(":")[0] for fault in faults[1:]] == ["cortex_mm3", "measured_ventricles"]
    assert meddiff("verify", release, "--sample", "5 percent").status == 2


def test_a_key_pair_signs_and_checks(meddiff: Run, release: Path, tmp_path: Path) -> None:
    made = meddiff("keygen", tmp_path / "keys")
    assert made.status == 0
    assert "PRIVATE" not in made.out + made.err
    private, public = tmp_path / "keys" / "meddiff-release.key", tmp_path / "keys" / "meddiff-release.pub"
    assert meddiff("verify", release, "--key", public).err.startswith("manifest.dsse.json: must be there for --key")
    sign_manifest(release, read_manifest(release), read_signer(private))
    done = meddiff("verify", release, "--key", public)
    assert done.status == 0
    assert done.out.splitlines()[-1] == f"signature  signed by the key {made.out.split()[-1]}"
    assert meddiff("keygen", tmp_path / "keys").status == 2
    assert meddiff("verify", release, "--key", private).status == 2


def test_a_damaged_release_is_refused_with_the_files(meddiff: Run, release: Path) -> None:
    table, card = release / "participants.tsv", release / "README.md"
    table.write_bytes(table.read_bytes().replace(b"0", b"1", 1))
    card.unlink()
    done = meddiff("verify", release)
    assert (done.status, done.out) == (1, "")
    assert {line.split(":")[0] for line in done.err.splitlines()} == {"participants.tsv", "README.md"}


def test_what_is_no_release_is_reported_in_a_line(meddiff: Run, tmp_path: Path) -> None:
    done = meddiff("verify", tmp_path)
    assert done.status == 1
    assert "manifest.json" in done.err
    assert "Traceback" not in done.err


@pytest.mark.skipif(sys.platform == "win32", reason="asks Unix for the time of child processes")
def test_help_is_instant(meddiff: Run) -> None:
    """In seconds of the processor, because the machine may be busy."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert meddiff("--help").status == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.mark.slow
def test_phantoms_and_a_study_of_them_are_two_commands(meddiff: Run, tmp_path: Path) -> None:
    scans, study = tmp_path / "scans", tmp_path / "study"
    assert meddiff("phantoms", scans, "--subjects", 2, "--spacing-mm", 12).status == 0
    options = ["--images", scans / "images", "--labels", scans / "labels", "--groups", scans / "groups.yaml"]
    done = meddiff("init", study, *options, "--volume", "ventricles", "--size", 9)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[1] == "scans       2 of 2 subjects, 0 refused, 0 notes"
    assert done.out.splitlines()[-1] == f"next    meddiff plan {study / 'study.yaml'}"
    assert meddiff("status", study).status == 0
    shutil.rmtree(scans / "images")
    assert "the scans cannot be read" in meddiff("status", study).out
