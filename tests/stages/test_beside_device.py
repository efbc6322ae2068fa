"""Work that waits in turn for a GPU: nothing is lost, nothing comes twice."""

import time

import pytest

from meddiff_core.errors import ConfigurationError
from meddiff_core.stages.generate import beside_device


def square(value: int) -> int:
    return value * value


def refuse_three(value: int) -> int:
    if value == 3:
        raise ConfigurationError(f"value must not be 3, is {value}")
    return value


def test_beside_a_device_every_result_comes_once_and_an_error_drops_what_waits() -> None:
    assert dict(beside_device(square, range(20))) == {value: value * value for value in range(20)}
    begun: list[int] = []

    def refuse_later(value: int) -> int:
        begun.append(value)
        time.sleep(0.01)
        return refuse_three(value)

    with pytest.raises(ConfigurationError, match=r"^value must not be 3, is 3$"):
        list(beside_device(refuse_later, range(200)))
    assert len(begun) < 200
