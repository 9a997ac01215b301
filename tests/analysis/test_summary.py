"""Summaries of statistics are what numpy says of the answer's own numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attlas import analysis
from attlas.analysis.summary import document_means, head_values, summarise_statistics
from attlas.engine.kernels.row_statistics import STATISTICS, RowStatistic
from attlas.engine.kernels.row_tile import RowTile
from tests.analysis.test_statistics import dense_heads, write
from tests.storage.synthetic import synthetic


def test_a_summary_names_the_lowest_and_the_highest_head() -> None:
    answer = analysis.statistics(write(synthetic(seed=1, layers=(3, 5)), "summary"))
    summaries = {summary.title: summary for summary in summarise_statistics(answer)}
    assert {"entropy", "sparsity < 0.01", "weight_quantile 90%", "weight_by_distance 2-3"} <= set(summaries)
    entropy = summaries["entropy"]
    assert entropy.units == "nat"
    assert entropy.mean == pytest.approx(float(answer.entropy.mean()))
    assert entropy.error == pytest.approx(float(answer.entropy_document_error.mean()))
    assert entropy.highest.value == float(answer.entropy.max())
    assert entropy.lowest.value == float(answer.entropy.sel(layer=entropy.lowest.layer, head=entropy.lowest.head))
    assert entropy.lowest.value == float(answer.entropy.min())
    sparsity = summaries["sparsity < 0.01"]
    assert sparsity.mean == pytest.approx(float(answer.sparsity.sel(threshold=0.01).mean()))
    assert sparsity.error == pytest.approx(float(answer.sparsity_document_error.sel(threshold=0.01).mean()))
    assert not [title for title, _ in head_values(answer, distances=False) if "distance " in title]
    means = {name: values for name, values, _ in document_means(answer)}
    np.testing.assert_allclose(means["entropy"], answer.document_entropy.mean(("layer", "head")))


def test_a_summary_of_a_sample_has_its_error() -> None:
    answer = analysis.statistics(write(synthetic(seed=1), "summary-sample"), sample=60)
    (entropy,) = (summary for summary in summarise_statistics(answer) if summary.title == "entropy")
    assert entropy.error == pytest.approx(float(answer.entropy_error.mean()))


def even_keys(tile: RowTile) -> torch.Tensor:
    return tile.on(tile.position_K % 2 == 0)


def test_a_row_statistic_that_is_registered_stands_in_the_table() -> None:
    made = synthetic(seed=2)
    atlas = write(made, "summary-toy")
    before = analysis.statistics(atlas)
    toy = RowStatistic(
        name="even_weight", definition="weight on keys at even places", units="1",
        reference=even_keys,
    )  # fmt: skip
    with STATISTICS.having(toy):
        answer = analysis.statistics(atlas)
        assert "reused" not in answer.attrs, "the kept answer lacks it"
    for layer in (0, 1):
        for head in (0, 3):
            heads = dense_heads(made, layer, head)
            expected = sum(one.a_QK[:, ::2].sum() for one in heads) / sum(len(one.a_QK) for one in heads)
            assert float(answer.even_weight.sel(layer=layer, head=head)) == pytest.approx(expected, rel=1e-5)
    assert answer.even_weight.attrs["long_name"] == "mean over rows of weight on keys at even places"
    assert set(answer.data_vars) - set(before.data_vars) == {
        "even_weight", "even_weight_document_error", "document_even_weight",
    }  # fmt: skip
