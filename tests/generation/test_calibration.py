"""A denoiser is asked for the inverse of the line by which its samples follow."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from meddiff_core.contract import CategoricalCondition, ContinuousCondition
from meddiff_core.errors import ConfigurationError
from meddiff_core.generation.calibration import calibrated
from meddiff_core.generation.engine import open_engine
from meddiff_core.generation.schedule import SampleRequest
from meddiff_core.study import CalibrationConfig, SamplingConfig
from meddiff_core.types import StoredArray

AGE = CalibrationConfig(condition="age", intercept=10, slope=0.5)
SPECS = (
    ContinuousCondition(name="age", low=20, high=80, mean=50, std=10),
    CategoricalCondition(name="sex", categories=("F", "M")),
)


@pytest.mark.parametrize(
    ("wanted", "asked"),
    [
        pytest.param(30.0, 40.0, id="the inverse"),
        pytest.param(25, 30.0, id="a whole number"),
        pytest.param(60.0, 80.0, id="no further than the training range"),
        pytest.param(12.0, 12.0, id="extrapolation that the study asked for stays"),
        pytest.param(95.0, 95.0, id="at the other end, too"),
        pytest.param(None, None, id="what is not known stays so"),
    ],
)
def test_the_inverse_is_asked_for_within_the_training_range(wanted: float | None, asked: float | None) -> None:
    assert calibrated({"age": wanted, "sex": "F"}, [AGE], SPECS) == {"age": asked, "sex": "F"}
    assert calibrated({"sex": "F"}, [AGE], SPECS) == {"sex": "F"}


@pytest.mark.parametrize("name", ["sex", "height"])
def test_a_line_of_what_is_no_number_is_refused(name: str) -> None:
    line = AGE.model_copy(update={"condition": name})
    with pytest.raises(ConfigurationError, match=rf"must be one of \['age'\], is '{name}'"):
        calibrated({"sex": "F"}, [line], SPECS)


def test_a_volume_is_that_of_the_inverse_and_its_request_stays(
    models: Path, sampling: Callable[..., SamplingConfig]
) -> None:
    def sample(age: float, config: SamplingConfig) -> StoredArray:
        request = SampleRequest("syn-000000-0", 0, 0, 1000, {"age": age})
        images, _ = open_engine(models, "digest", config, "cpu").sample([request])
        assert request.condition == {"age": age}
        return images

    plain, lines = sampling(), sampling(calibration=(AGE,))
    assert np.array_equal(sample(30.0, lines), sample(40.0, plain))
    assert not np.array_equal(sample(30.0, lines), sample(30.0, plain))
    assert np.array_equal(sample(30.0, sampling(calibration=())), sample(30.0, plain))
