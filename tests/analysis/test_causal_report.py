"""The report of causal models against the dense weights, and its refusal of those that look ahead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import attlas
from attlas import analysis
from attlas.errors import InputError
from tests.analysis.test_statistics import write
from tests.families import BY_NAME, build_model, documents
from tests.storage.synthetic import synthetic

LENGTHS = (40, 23)


def test_numbers_are_those_of_the_dense_weights() -> None:
    made = synthetic(LENGTHS, seed=4)
    atlas = write(made, "causal")
    found = analysis.causal_report(atlas, rows=100)
    dense = [made.dense(i) for i in range(2)]
    assert found.attrs["rows_that_see_ahead"] == 0
    for i, (first, stop) in enumerate(zip(found["distance"].values, found["distance_stop"].values, strict=True)):
        total, cells = 0.0, 0
        for a_LHQK in dense:
            n = a_LHQK.shape[-1]
            far = np.arange(n)[:, None] - np.arange(n)
            inside = (far >= first) & (far < stop)
            total, cells = total + a_LHQK[..., inside].sum(-1), cells + int(inside.sum())
        if cells:
            np.testing.assert_allclose(found.weight_at_distance[..., i], total / cells, rtol=2e-4, atol=1e-7)
    sink = np.concatenate([a_LHQK[..., 0] for a_LHQK in dense], axis=-1).mean(axis=(1, 2))
    np.testing.assert_allclose(found.sink_share, sink, rtol=1e-4)
    assert found["position"].values.tolist() == [1, 2, 4, 8, 16, 32]
    last = []
    for a_LHQK in dense:
        key_K = np.arange(a_LHQK.shape[-1])
        mean = a_LHQK @ key_K
        variance = a_LHQK @ key_K**2 - mean**2
        last.append(variance[..., 16:32].mean(axis=1))
    expected = np.concatenate(last, axis=-1).mean(axis=-1)
    np.testing.assert_allclose(found.position_variance.sel(position=16), expected, rtol=1e-3, atol=1e-4)


def test_a_law_that_is_there_is_found() -> None:
    from attlas.analysis.causal_report import _decay

    first, stop = np.array([0, 1, 2, 4, 8, 16, 32]), np.array([1, 2, 4, 8, 16, 32, 64])
    middle = np.sqrt(first * (stop - 1.0))
    with np.errstate(divide="ignore"):
        weight = np.where(first > 1, 0.3 * middle**-1.7, 0.9)[None, None]
    slope, fit = _decay(weight, first, stop)
    assert slope.item() == pytest.approx(1.7)
    assert fit.item() == pytest.approx(1.0)


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    family = BY_NAME["bert"]
    attlas.capture(build_model(family), documents(family), tmp_path / "bert.zarr")
    with pytest.raises(InputError, match=r"not causal: .* rows see keys behind"):
        analysis.causal_report(attlas.open_atlas(tmp_path / "bert.zarr"))
