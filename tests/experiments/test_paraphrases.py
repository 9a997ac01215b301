"""Patterns over texts that say the same, against eager maps pooled and compared by loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from attlas import experiments
from attlas.errors import InputError
from tests.experiments.test_counterfactual import run_by_hand
from tests.families import BY_NAME, build_model

OWN = [3, 9, 14, 9, 4, 17, 4, 8, 2, 21, 30, 12]
OTHERS = [[3, 14, 9, 4, 17, 4, 8, 8, 2, 21, 30, 12, 7, 5, 3, 9, 2], [9, 3, 14, 4, 9, 17, 8]]
CELLS = 5


def pooled(maps: Any) -> Any:
    """(layer, head, CELLS, CELLS)."""
    length = maps.shape[-1]
    out = np.zeros((*maps.shape[:2], CELLS, CELLS))
    queries = np.zeros(CELLS)
    for n in range(length):
        queries[n * CELLS // length] += 1
        for m in range(length):
            out[:, :, n * CELLS // length, m * CELLS // length] += maps[:, :, n, m]
    return out / queries[:, None]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_patterns_are_those_of_eager_maps(family: str) -> None:
    model = AutoModelForCausalLM.from_config(build_model(BY_NAME[family]).config).eval()
    grids = np.stack([pooled(run_by_hand(model, ids)[0]) for ids in (OWN, *OTHERS)])
    model.set_attn_implementation("sdpa" if family == "llama" else "eager")
    seen = np.tril(np.ones((CELLS, CELLS), dtype=bool))
    for chunk_tokens in (1024, 5):
        found = experiments.paraphrases(model, [OWN], [OTHERS], cells=CELLS, chunk_tokens=chunk_tokens)
        np.testing.assert_allclose(found.pattern[0], grids.mean(axis=0), atol=1e-6)
        deviation = grids.std(axis=0, ddof=1)
        np.testing.assert_allclose(found.deviation[0], deviation[..., seen].mean(axis=-1), atol=1e-6)
        cv = (deviation.sum(axis=-1) / grids.mean(axis=0).sum(axis=-1)).mean(axis=-1)
        np.testing.assert_allclose(found.cv[0], cv, atol=1e-5)
        for layer, head in ((0, 0), (1, 2)):
            correlations = np.corrcoef(grids[:, layer, head][:, seen])
            mean = correlations[np.triu_indices(3, 1)].mean()
            assert found.correlation[0, layer, head].item() == pytest.approx(mean, abs=1e-5)
    assert found.deviation.max() > 1e-2


def test_the_same_text_again_has_the_same_pattern() -> None:
    found = experiments.paraphrases("demo", [OWN], [[OWN, OWN]], cells=4)
    np.testing.assert_allclose(found.deviation, 0, atol=1e-12)
    np.testing.assert_allclose(found.correlation, 1, atol=1e-9)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([[3, 4, 5]], "give a list of lists"),
        ("a text", "give a list of lists"),
        ([["a"], ["b"]], "give a list of lists"),
        ([[[3, 4]]], "a text of document 'doc-0' has 2 tokens, and the grid 4 rows"),
    ],
)
def test_what_is_no_list_of_others_is_refused(others: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        experiments.paraphrases("demo", [OWN], others, cells=4)
