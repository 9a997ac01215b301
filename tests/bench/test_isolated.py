"""Peaks are those of a process of its own: what the work took, whatever this process or the loading took before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from attlas.bench.isolated import measure_peaks
from attlas.errors import InputError

MB = 10**6


def prepare(*sizes: int) -> list[Callable[[], Any]]:
    np.ones(80 * MB, dtype=np.uint8).sum()  # loading takes more for a while, which is not the work's
    return [lambda size=size: np.ones(size * MB, dtype=np.uint8).sum() for size in sizes]  # type: ignore[misc]


def fail() -> list[Callable[[], Any]]:
    raise InputError("no such model")


def test_the_peak_is_that_of_the_work() -> None:
    small, large = measure_peaks(prepare, 20, 60)
    assert small.above == pytest.approx(20 * MB, abs=6 * MB)
    assert large.above == pytest.approx(60 * MB, abs=6 * MB)


def test_an_error_in_the_process_is_told() -> None:
    with pytest.raises(InputError, match="no such model"):
        measure_peaks(fail)
