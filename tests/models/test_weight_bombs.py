"""Weights and descriptions from elsewhere cannot fill the memory: what they claim is held against their size."""

import zipfile
from pathlib import Path

import pytest
import torch

from meddiff_core.errors import ConfigurationError
from meddiff_core.models.imported import bundle
from meddiff_core.models.imported.description import read_description
from meddiff_core.models.imported.weights import read_weights

LAUGHS = "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n"


def test_a_compressed_file_of_weights_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1000, 1000)}, tmp_path / "plain.pt")
    assert read_weights(tmp_path / "plain.pt")["weight"].shape == (1000, 1000)
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for member in plain.namelist():
            target.writestr(member, plain.read(member))
    assert packed.stat().st_size < 100_000
    with pytest.raises(ConfigurationError, match=r"packed\.pt: .*is not compressed, it claims 4\d{6} bytes"):
        read_weights(packed)


def test_a_view_that_repeats_one_number_is_refused_before_it_is_looked_at(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1).expand(10**7, 10**7)}, tmp_path / "view.pt")
    with pytest.raises(ConfigurationError, match=r"view\.pt: must hold what it claims, 400000000000000 bytes"):
        read_weights(tmp_path / "view.pt")


def test_weights_that_are_shared_are_read(tmp_path: Path) -> None:
    shared = torch.ones(500)
    torch.save({"one": shared, "other": shared}, tmp_path / "tied.pt")
    assert read_weights(tmp_path / "tied.pt").keys() == {"one", "other"}


@pytest.mark.parametrize(("text", "said"), [(LAUGHS, "aliases"), ("a: " + "[" * 3000, "nested too deeply|YAML")])
def test_yaml_that_unfolds_is_refused_in_a_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "description.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        read_description(path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "inference.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"bundle: inference\.yaml cannot be read"):
        bundle.Bundle.open(tmp_path)
