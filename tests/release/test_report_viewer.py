"""Volumes that turn inside a report: the vendored code, what the page holds of the cohort, and what may run."""

import base64
import gzip
import hashlib
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from meddiff_core.release import report, viewer
from meddiff_core.release.ome import affine_of, released_image

TEMPLATES = Path(report.__file__).parent / "templates"
CHROMIUM = shutil.which("chromium")


def turned(page: str, kind: str) -> list[Any]:
    """The volumes of a page, `image` or `label`."""
    packed = re.findall(rf'data-{kind}="data:application/gzip;base64,([^"]+)"', page)
    return [nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text))) for text in packed]


def test_the_vendored_viewer_is_the_file_that_its_readme_names() -> None:
    digest = hashlib.sha256((TEMPLATES / "niivue.umd.js").read_bytes()).hexdigest()
    assert digest in (TEMPLATES / "niivue.md").read_text()


def test_a_page_turns_released_voxels_where_they_lie(content: Any) -> None:
    page, by_age = report.render_report(content), content.table["age"].to_numpy().argsort(kind="stable")
    images, labels = turned(page, "image"), turned(page, "label")
    assert 0 < len(images) == len(labels) <= viewer.TURNED
    for image, label, index in ((images[0], labels[0], by_age[0]), (images[-1], labels[-1], by_age[-1])):
        assert np.array_equal(image.dataobj, released_image(content.volumes.image(index), content.contract).T)
        assert np.array_equal(label.dataobj, content.volumes.label(index))
        assert np.allclose(image.affine, affine_of(content.contract))
        assert content.table["sample_id"][index] in page


def test_large_volumes_are_halved_and_stay_in_place(content: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = turned(report.render_report(content), "image")[0]
    monkeypatch.setattr(viewer, "VOXELS", np.prod(whole.shape) // 8)
    page = report.render_report(content)
    half = turned(page, "image")[0]
    assert half.shape == tuple(-(-size // 2) for size in whole.shape)
    assert np.allclose(half.affine @ (0, 0, 0, 1), whole.affine @ (0.5, 0.5, 0.5, 1))
    assert "larger voxels" in page


def test_thick_slices_are_halved_last(content: Any) -> None:
    thick = content.contract.model_copy(update={"spacing_mm": (0.5, 0.5, 4.0), "size": (512, 512, 20)})
    assert list(viewer._halvings(thick)) == [(1, 2, 2), (1, 2, 2)]


def test_all_volumes_of_a_page_stay_below_its_bound(content: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [len(one["image"]) + len(one["label"]) for one in viewer.turned_volumes(content, (0.0, 1.0))]
    monkeypatch.setattr(viewer, "CHARACTERS", sum(sizes) - 1)
    assert len(viewer.turned_volumes(content, (0.0, 1.0))) == len(sizes) - 1


def test_only_the_two_scripts_of_the_page_may_run_and_none_may_fetch(content: Any) -> None:
    page = report.render_report(replace(content, title="</script><script>alert(1)</script>"))
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]  # type: ignore[index]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    scripts += [gzip.decompress(base64.b64decode(re.search(r'data-code="[^,]+,([^"]+)"', page)[1])).decode()]  # type: ignore[index]
    digests = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts}
    assert {source[len("'sha256-") : -1] for source in rules.pop("script-src").split()} == digests
    assert len(digests) == 2
    assert rules == {"default-src": "'none'", "img-src": "data:", "style-src": "'unsafe-inline'"}


def test_a_page_loads_no_address(content: Any) -> None:
    page = report.render_report(content)
    assert not re.findall(r"(?:src|href|action|poster|data-\w+)=[\"']?\s*(?:https?:)?//", page)
    assert not re.findall(r"url\((?!#)|@import|\bfetch\(|XMLHttpRequest", page)


def test_a_name_in_the_selector_is_text(content: Any) -> None:
    wicked = '"><img src=x onerror=alert(1)>'
    page = report.render_report(replace(content, table=content.table.assign(sample_id=wicked, sex=wicked)))
    assert "<img src=x" not in page
    assert wicked in unescape(page)


def test_a_cohort_without_labels_or_covariates_turns_too(make_content: Any) -> None:
    page = report.render_report(make_content(count=2, modality="CT", labelled=False, histograms=()))
    assert len(turned(page, "image")) == 2
    assert turned(page, "label") == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize(("flag", "shown"), [("--enable-unsafe-swiftshader", True), ("--disable-3d-apis", False)])
def test_volumes_turn_in_a_browser_or_the_page_says_why_not(
    content: Any, tmp_path: Path, flag: str, shown: bool
) -> None:
    page = tmp_path / "report.html"
    page.write_text(report.render_report(content))
    flags = ["--headless", "--no-sandbox", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND", flag]
    command = [str(CHROMIUM), *flags, f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=60000"]
    done = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=180)
    viewer_tag, sentence = (
        re.search(pattern, done.stdout)[0]  # type: ignore[index]
        for pattern in (r'<div class="viewer"[^>]*>', r'<p id="no-viewer"[^>]*>')
    )
    assert ("data-shown" in viewer_tag, "hidden" in sentence) == (shown, shown)
    assert re.search(r"\bhidden\b", viewer_tag) is None or not shown
