"""Reports: exponents of exact power laws, the limit a row is near, and JSON there and back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attlas.bench.limits import DiskSpeed, Limits
from attlas.bench.machine import Machine
from attlas.bench.report import Limit, Report, Row, Times, fit_exponent
from attlas.errors import InputError


def times(*seconds: float) -> Times:
    return Times.of(seconds)


def report(*rows: Row) -> Report:
    """A report of these rows on a machine of round numbers."""
    machine = Machine(
        cpu="a processor", cores=2, cores_physical=2, memory=8 * 10**9, gpus=("a GPU, 80 GB",), system="Linux",
        python="3.11", libraries={"attlas": "0", "torch": "2", "zarr": "3", "numpy": "2"}, torch_threads=2,
        disk="ext4 on /dev/a", load=0.25, time="2025-01-01T00:00:00+00:00",
    )  # fmt: skip
    limits = Limits(
        qk_flops=1e11, matmul_flops=2e11, features=64, dtype="float32", device="cpu", threads=2,
        disk=DiskSpeed(write=1e8, read_cold=2e8, read_warm=4e9),
    )  # fmt: skip
    return Report(
        workload="capture", model="a/model", ratio="forward", machine=machine, limits=limits, rows=rows,
        options={"tokens": [1, 2]}, notes=("a remark",),
    )  # fmt: skip


@given(
    power=st.floats(-1, 3),
    factor=st.floats(1e-6, 1e6),
    sizes=st.lists(st.integers(2, 10**6), min_size=3, max_size=8, unique=True),
)
def test_the_exponent_of_a_power_law_is_found(power: float, factor: float, sizes: list[int]) -> None:
    found = fit_exponent(sizes, [factor * n**power for n in sizes])
    assert found == pytest.approx(power, abs=1e-6)


def test_the_exponent_is_that_of_least_squares() -> None:
    sizes, seconds = [100, 200, 400, 800], [1.1, 1.9, 4.3, 7.7]
    assert fit_exponent(sizes, seconds) == pytest.approx(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def test_no_exponent_of_two_sizes() -> None:
    assert fit_exponent([1, 2], [1, 2]) is None
    assert fit_exponent([8, 8, 16], [1, 1, 2]) is None


def test_times_are_those_of_the_repetitions() -> None:
    found = times(3.0, 1.0, 2.0, 10.0)
    assert (found.median, found.least, found.most, found.count) == (2.5, 1.0, 10.0, 4)
    assert found.p95 == pytest.approx(np.quantile([3, 1, 2, 10], 0.95))
    with pytest.raises(ValueError, match="no repetition"):
        times()


@pytest.mark.parametrize(
    ("limits", "nearest", "words"),
    [
        ({"forward pass": 1.9, "disk write": 0.2, "q.k": 0.5}, ("forward pass", 0.95), "1.05 x forward pass"),
        ({"disk write": 0.24, "q.k": 0.1}, ("disk write", 0.12), "disk write 12%"),
        ({"q.k": 0.004}, ("q.k", 0.002), "q.k 0.2%"),
        ({"disk read": 3.0}, ("disk read", 1.5), "disk read 150%"),
    ],
)
def test_a_row_names_the_limit_that_takes_most_of_its_time(
    limits: dict[str, float], nearest: tuple[str, float], words: str
) -> None:
    bounds = tuple(Limit(name=name, seconds=seconds) for name, seconds in limits.items())
    row = Row(contender="factors", task="capture", tokens=8, times=times(2.0), limits=bounds)
    assert row.nearest is not None
    assert row.nearest[0] == nearest[0]
    assert row.nearest[1] == pytest.approx(nearest[1])
    assert row.near == words


def test_a_row_without_times_or_limits_is_near_nothing() -> None:
    assert Row(contender="maps", task="capture", tokens=8, note="left out").near == ""
    assert Row(contender="maps", task="capture", tokens=8, times=times(1.0)).nearest is None


def test_fits_are_of_each_contender_over_n() -> None:
    rows = [
        Row(contender=name, task="capture", tokens=n, times=times(1e-6 * n**power), peak_bytes=1000 * n)
        for name, power in (("forward", 1.0), ("maps", 2.0))
        for n in (100, 200, 400)
    ]
    told = {fit.contender: fit for fit in report(*rows).fits}
    assert told["forward"].time == pytest.approx(1.0)
    assert told["maps"].time == pytest.approx(2.0)
    assert told["maps"].memory == pytest.approx(1.0)


def test_json_there_and_back() -> None:
    rows = (
        Row(
            contender="factors", task="capture", tokens=512, times=times(1.0, 2.0, 4.0), ratio=1.1, rate=256.0,
            rate_unit="tokens/s", peak_bytes=10, stored_bytes=20, moved_bytes=30, workers=2, efficiency=0.9,
            limits=(Limit(name="forward pass", seconds=1.8),),
        ),
        Row(contender="maps", task="capture", tokens=512, note="left out"),
    )  # fmt: skip
    made = report(*rows)
    told = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert told["schema"] == "attlas-bench-1"
    assert told["rows"][0]["nearest"] == {"limit": "forward pass", "share": 0.9, "words": "1.11 x forward pass"}
    assert told["rows"][1]["times"] is None
    assert Report.from_json(told) == made
    with pytest.raises(InputError, match="make it anew"):
        Report.from_json(told | {"schema": "attlas-bench-0"})
